"""The notebooks run on a real run from top to bottom, use public names only, and show it as stored."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from agenttts import search
from pipelines.zoo import SPEC
from scripts.make_notebooks import sources_digest
from tests.public import assert_imports_are_public

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_is_of_the_present_code_and_small(path: Path) -> None:
    """The outputs are of one run of the sources that stand there, figures as images, in 600 kB."""
    book = nbformat.read(path, 4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert book.metadata.outputs_of == sources_digest(book), "make notebooks"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) - 1, "one cell at most shows nothing"
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert kinds == {"image/png", "text/html", "text/plain"}
    assert not [
        output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert path.stat().st_size < 600_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_text_is_cut_in_its_tables(path: Path) -> None:
    """pandas cuts texts at 50 characters with "..." unless it is told not to."""
    tables = (
        output.data["text/html"]
        for cell in nbformat.read(path, 4).cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", {})
    )
    assert not [table for table in tables if "...</td>" in table]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_imports_public_names(path: Path) -> None:
    """No underscore names; what is imported is public."""
    for cell in (cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"):
        for node in ast.walk(ast.parse(cell.source)):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "name", "")
            assert not str(name or "").startswith("_"), (path.name, name)
        assert_imports_are_public(cell.source)


@pytest.mark.filterwarnings("default")
def test_a_search_is_inspected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zoo's run: certificate, figures, and the best allocation of three budgets without a call."""
    db = tmp_path / "run.duckdb"
    result = search(SPEC, trials=8, db=db, replay=True)
    monkeypatch.setenv("AGENTTTS_DB", str(db))
    book = nbformat.read(NOTEBOOKS[0], 4)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = [output.get("text", "") for cell in book.cells for output in cell.get("outputs", [])]
    assert "".join(result.certificate.split()) in "".join("".join(texts).split())
    figures = [o for cell in book.cells for o in cell.get("outputs", []) if "data" in o]
    assert sum("application/vnd.plotly.v1+json" in output["data"] for output in figures) >= 5
    assert any("application/vnd.jupyter.widget-view+json" in output["data"] for output in figures)
    assert texts[-1].count("units:") == 3, texts[-1]


@pytest.mark.filterwarnings("default")
def test_a_stage_is_tuned(tmp_path: Path, tuning_libraries: None) -> None:
    """The zoo's retrieve: a dataset of its own samples, an adapter that is better than its base, a curve."""
    book = nbformat.read(NOTEBOOKS[1], 4)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    tables = [output["data"]["text/plain"] for output in outputs if "text/plain" in output.get("data", {})]
    (metrics,) = (table for table in tables if "before" in table and "after" in table)
    before, after = map(float, metrics.splitlines()[-1].split()[1:])
    assert after > before
    assert any("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs)
    assert "7.0% more FLOPs" in "".join(output.get("text", "") for output in outputs)
