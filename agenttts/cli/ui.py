"""`agenttts ui`: the runs of a database in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agenttts.cli.options import say


def ui(
    db: Annotated[Path, typer.Argument(help="The DuckDB file of the searches.", show_default=False)],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: one that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the address in the browser.")] = True,
) -> None:
    """Show runs, trials, examples, samples and tuned models in the browser, also while a search is running.

    It listens on 127.0.0.1 only, and the printed address holds a token. Needs the extra `ui`.

    Example: `agenttts ui run.duckdb`
    """
    from datastore import Store
    from pipelines.extras import library

    for name in ("starlette", "uvicorn"):
        library(name, "agenttts ui", extra="ui")
    Store.read(db).close()
    from agenttts.ui.app import application
    from agenttts.ui.server import serve

    def ready(address: str) -> None:
        say(f"{address}\nCtrl-C ends it.")
        if browser:
            import webbrowser

            webbrowser.open(address)

    file = db.expanduser().resolve()
    serve(lambda access: application(file, access), port, ready)
