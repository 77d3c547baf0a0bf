"""`agenttts runs`: list the runs of a database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agenttts.cli.options import Json, out, print_json


def runs(
    db: Annotated[Path, typer.Argument(help="The DuckDB file of the searches.", show_default=False)],
    json: Json = False,
) -> None:
    """List the runs of a database, the newest first. Works while a run goes on.

    Example: `agenttts runs run.duckdb`
    """
    from agenttts.report.run_lines import run_table
    from agenttts.report.runs import read_runs
    from datastore import Store

    with Store.read(db) as store:
        summaries = read_runs(store)
    if json:
        print_json([summary.to_json_dict() for summary in summaries])
    else:
        out().print(run_table(summaries))
