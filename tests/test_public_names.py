"""The public names: lazy, complete, typed by the stubs; and what a result looks like when it is printed."""

from __future__ import annotations

import json
import subprocess
import sys
from html import escape
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import agenttts
from agenttts.cli.compare import LANDSCAPES
from agenttts.compare.landscapes import FAMILIES
from agenttts.report import show
from agenttts.results.cost import SearchCost
from agenttts.results.outcome import Certificate
from pipelines.zoo import SPEC

ROOT = Path(agenttts.__file__).parents[1]

HEAVY = {"duckdb", "numpy", "pandas", "scipy", "langgraph", "openai", "optuna", "plotly", "torch", "jinja2"}


def fresh(code: str) -> Any:
    """What a new interpreter prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_command_line_starts_without_the_libraries_it_may_not_need() -> None:
    """Help and a wrong option must not wait for the imports of a search."""
    loaded = fresh("import json, sys, agenttts.cli.main; print(json.dumps(sorted(sys.modules)))")
    assert not HEAVY & set(loaded)


def test_a_missing_file_is_reported_without_the_libraries_of_a_search(tmp_path: Path) -> None:
    """The pipeline file is read before the search is imported."""
    code = (
        "import json, sys\n"
        "from agenttts.cli.main import app\n"
        "try:\n"
        f"    app(['search', {str(tmp_path / 'none.yaml')!r}])\n"
        "except Exception as error:\n"
        "    print(json.dumps([type(error).__name__, sorted(sys.modules)]))\n"
    )
    error, loaded = fresh(code)
    assert error == "SpecError"
    assert not {"duckdb", "scipy", "langgraph", "openai", "optuna", "plotly", "torch"} & set(loaded)


@pytest.mark.parametrize("package", ["agenttts", "agenttts.proposers", "pipelines", "datastore"])
def test_every_public_name_is_there_and_listed(package: str) -> None:
    """`__all__`, `dir` and the stub agree, and each name can be imported."""
    module = import_module(package)
    stub = (Path(str(module.__file__)).with_suffix(".pyi")).read_text()
    _, _, listed = stub.partition("__all__ = ")
    assert module.__all__ == sorted(json.loads(listed.replace(",\n]", "]")))
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize(
    "before",
    [
        "import agenttts.search.entry",
        "from agenttts.search.entry import async_search",
        "import agenttts.report.figures",
    ],
)
def test_a_module_does_not_take_the_place_of_a_public_name(before: str) -> None:
    """`agenttts.search` is the function, in whatever order things were imported."""
    code = f"{before}\nimport json, agenttts, types\n"
    code += (
        "names = [type(agenttts.search).__name__, type(agenttts.plots).__name__]\nprint(json.dumps(names))"
    )
    assert fresh(code) == ["function", "module"]


def test_the_help_of_compare_names_the_landscapes() -> None:
    """The names stand in the command, which does not import the landscapes."""
    assert tuple(FAMILIES) == LANDSCAPES


def test_a_result_is_printed_in_a_few_lines(tmp_path: Path) -> None:
    """The run, its best with score and interval, the trials and the cost; as text and as a table."""
    db = tmp_path / "run.duckdb"
    result = agenttts.search(SPEC, trials=4, proposer="insights", db=db, replay=True)
    loaded = agenttts.load_run(db)
    best = result.best
    assert best is not None and best.test_score is not None and best.test_ci is not None
    for run in (result, loaded):
        lines = repr(run).splitlines()
        assert lines[0] == type(run).__name__ and len(lines) == 6 + (run.adaptive is not None)
        assert run.run_id in lines[1] and "complete" in lines[1]
        assert str(best.allocation) in lines[2]
        assert f"{best.test_score:.3f} [{best.test_ci[0]:.3f}, {best.test_ci[1]:.3f}]" in lines[2]
        assert "4, 4 with a score" in lines[4] and "0 calls" in lines[5]
        html = run._repr_html_()
        facts, _, rest = html.partition("</table>")
        assert facts.count("<tr>") == len(lines) - 1 and run.run_id in html and str(best.allocation) in facts
        assert escape(run.certificate) in rest and rest.count("<tr>") == 1 + len(run.frontier)


def test_a_run_without_a_score_is_printed_too() -> None:
    """A run of which nothing is known yet; what comes from outside is escaped in the table."""
    cost = SearchCost(usd=0.5)
    outcome = SimpleNamespace(
        best=None,
        baseline=None,
        trials=(),
        frontier=(),
        cost=cost,
        measure="units",
        adaptive=None,
        certificate=Certificate(),
    )
    run = SimpleNamespace(run_id="1", status="running", db="<b>.duckdb", outcome=outcome)
    printed = show.text(cast(show.Run, run))
    assert "no trial has a score" in printed and "0, 0 with a score" in printed and "$0.50" in printed
    assert "&lt;b&gt;.duckdb" in show.html(cast(show.Run, run))


@pytest.mark.parametrize("name", ["pipelines", "datastore"])
def test_a_package_of_the_same_name_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    """A user's own `pipelines` or `datastore` that hides ours is named, with where ours is."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import agenttts"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: agenttts needs its own package")
    assert str(tmp_path / name) in last and str(ROOT / name) in last
