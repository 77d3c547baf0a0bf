"""Run the notebooks on the zoo and store what they show: `make notebooks`, or this script with their names.

Figures are stored as PNG images, since a code host shows no plotly. They are drawn by the plotly.js that
comes with the project, in Chromium through Playwright, so that nothing else is installed or fetched.
"""

from __future__ import annotations

import base64
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from agenttts import search
from pipelines.zoo import SPEC

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
TRIALS = 8
WIDTH, SCALE = 760, 1.5
_DRAW = """async ([figure, width, scale]) => {
    const layout = {...figure.layout, paper_bgcolor: "white", plot_bgcolor: "white"};
    const options = {format: "png", width: width, height: layout.height || 400, scale: scale};
    return await Plotly.toImage({data: figure.data, layout: layout}, options);
}"""


def main() -> None:
    """Run each notebook in a folder of its own and write it back."""
    chosen = [NOTEBOOKS / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb"))
    with tempfile.TemporaryDirectory() as folder, painter() as paint:
        for path in chosen:
            book = executed(path, Path(folder))
            store(book, paint)
            nbformat.write(book, path)  # type: ignore[no-untyped-call]
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def executed(path: Path, folder: Path) -> NotebookNode:
    """Return a notebook after a run on a search of the zoo's recorded samples.

    Args:
        path: The notebook.
        folder: Where the search's database goes, and where the notebook runs.
    """
    db = folder / "run.duckdb"
    if not db.exists():
        search(SPEC, trials=TRIALS, db=db, replay=True, progress=False)
    book: NotebookNode = nbformat.read(path, 4)  # type: ignore[no-untyped-call]
    before = os.environ.get("AGENTTTS_DB")
    os.environ["AGENTTTS_DB"] = str(db)
    try:
        NotebookClient(book, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    finally:
        os.environ.pop("AGENTTTS_DB") if before is None else os.environ.update(AGENTTTS_DB=before)
    return book


def store(book: NotebookNode, paint: Callable[[NotebookNode], str]) -> None:
    """Keep of a run's outputs what a code host can show: texts, tables, figures as images.

    Args:
        book: The notebook, changed in place.
        paint: Draws a plotly figure as PNG, in base64.
    """
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for data in (output.data for output in cell.get("outputs", ()) if "data" in output):
            if PLOTLY in data:
                image = paint(data[PLOTLY])
                data.clear()
                data.update({"image/png": image, "text/plain": "a figure"})
            elif WIDGET in data:
                data.clear()
                data["text/plain"] = "a slider, where the notebook runs"
    book.metadata = {
        "kernelspec": book.metadata.kernelspec,
        "language_info": {"name": "python"},
        "outputs_of": sources_digest(book),
    }


def sources_digest(book: NotebookNode) -> str:
    """Return the digest of what a notebook's cells say, which its stored outputs stand for."""
    return sha256(
        "\0".join(cell.source for cell in book.cells if cell.cell_type == "code").encode()
    ).hexdigest()


@contextmanager
def painter() -> Iterator[Callable[[NotebookNode], str]]:
    """Start a browser that draws plotly figures, and stop it at the end."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("the figures need Chromium on the PATH (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.add_script_tag(content=(files("agenttts") / "report/assets/plotly-basic.min.js").read_text())

        def paint(figure: NotebookNode) -> str:
            address: str = page.evaluate(_DRAW, [figure, WIDTH, SCALE])
            header, _, data = address.partition(",")
            assert header == "data:image/png;base64" and base64.b64decode(data), header
            return data

        yield paint
        browser.close()


if __name__ == "__main__":
    main()
