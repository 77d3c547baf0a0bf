"""What a person installs: the built wheel, alone, in a fresh environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.agenttts.small_specs import write_pipeline
from tests.servers import ScriptedServer

ROOT = Path(__file__).parents[1]
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(folder.glob("agenttts-*.whl"))


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    """agenttts, pipelines and datastore all belong to this distribution; tests and scripts do not."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "agenttts",
        "pipelines",
        "datastore",
    }
    for wanted in (
        "datastore/schema.sql",
        "pipelines/zoo/pipeline.yaml",
        "agenttts/py.typed",
        "agenttts/report/assets/plotly-basic.min.js",
        "agenttts/report/templates/report.html.j2",
        "agenttts/ui/assets/htmx.min.js",
        "agenttts/ui/templates/base.html.j2",
    ):
        assert wanted in names
    for licence in ("plotly.LICENSE", "htmx.LICENSE"):
        assert any(name.endswith(licence) and ".dist-info/licenses/" in name for name in names)
    for package in ("agenttts", "agenttts/proposers", "pipelines", "datastore"):
        assert f"{package}/__init__.pyi" in names
    assert any(name.startswith("pipelines/zoo/bank/") and name.endswith(".parquet") for name in names)


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of a fresh environment that has the wheel and what it declares, no more."""
    folder = tmp_path_factory.mktemp("core")
    venv.create(folder / "env", with_pip=True)
    install = [str(folder / "env/bin/python"), "-m", "pip", "install", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, cwd=folder, env=ALONE)
    return folder / "env/bin"


def run(folder: Path, *command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, input=stdin, env=ALONE)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done


def test_the_wheel_runs_the_demo_without_its_sources(core: Path, tmp_path: Path) -> None:
    """Installed alone, without torch, the demo searches on the shipped bank from any folder."""
    listed = run(tmp_path, core / "python", "-m", "pip", "list", "--format=json")
    assert "torch" not in {package["name"] for package in json.loads(listed.stdout)}
    result = json.loads(run(tmp_path, core / "agenttts", "demo", "--json").stdout)
    assert result["cost"]["calls"] == 0
    assert result["best"]["test_score"] > 0
    assert result["trials"]


def test_the_core_install_works_against_a_server(core: Path, server: ScriptedServer, tmp_path: Path) -> None:
    """check, search, report and run need nothing but what the wheel declares."""
    write_pipeline(tmp_path, server.base_url)
    command = core / "agenttts"
    run(tmp_path, command, "check", "pipeline.yaml", "--no-requests")
    search = ("search", "pipeline.yaml", "--trials", "3", "--db", "run.duckdb", "--json")
    result = json.loads(run(tmp_path, command, *search).stdout)
    assert len(result["trials"]) >= 3 and result["cost"]["calls"] > 0
    assert result["cost"]["samples_drawn"] == sum(server.samples.values())
    run(tmp_path, command, "report", "run.duckdb", "--html", "report.html")
    assert "<html" in (tmp_path / "report.html").read_text()[:200]
    run(tmp_path, command, "check", "pipeline.yaml")
    question = json.dumps({"question": "a new one"})
    answer = run(
        tmp_path, command, "run", "pipeline.yaml", "--db", "run.duckdb", "--run", "latest", stdin=question
    )
    assert json.loads(answer.stdout)["status"] == "ok"


def test_a_missing_library_is_named_with_the_command_that_installs_it(core: Path, tmp_path: Path) -> None:
    """The command names where the distribution came from, so that it works without a package index."""
    code = "from pipelines.extras import library; library('trl')"
    done = subprocess.run(
        [core / "python", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=ALONE
    )
    assert re.search(r"pip install 'agenttts\[tune\] @ file://\S+\.whl'", done.stderr), done.stderr
