"""What a person installs: the built wheel, alone, in a fresh environment."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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
    for wanted in ("datastore/schema.sql", "pipelines/zoo/pipeline.yaml", "agenttts/py.typed"):
        assert wanted in names
    assert any(name.startswith("pipelines/zoo/bank/") and name.endswith(".parquet") for name in names)


def test_the_wheel_runs_the_demo_without_its_sources(wheel: Path, tmp_path: Path) -> None:
    """Installed alone, without torch, the demo searches on the shipped bank from any folder."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, capture_output=True, cwd=tmp_path
    )
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, cwd=tmp_path
    )
    assert "torch" not in {package["name"] for package in json.loads(listed.stdout)}
    demo = subprocess.run(
        [tmp_path / "env/bin/agenttts", "demo", "--json"], capture_output=True, text=True, cwd=tmp_path
    )
    assert demo.returncode == 0, demo.stderr
    result = json.loads(demo.stdout)
    assert result["cost"]["calls"] == 0
    assert result["best"]["test_score"] > 0
    assert result["trials"]
