"""`agenttts report`: show a run, finished or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agenttts.cli.options import Json, in_a_directory, out, print_json, say
from agenttts.errors import UserError


def report(
    db: Annotated[Path, typer.Argument(help="The DuckDB file of the search.", show_default=False)],
    run: Annotated[str | None, typer.Argument(help="A run's id; the newest where not given.")] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", callback=in_a_directory, help="Also write the report with plots here."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Another run's id: both side by side, with the paired difference."),
    ] = None,
    no_examples: Annotated[
        bool, typer.Option("--no-examples", help="Leave out the failing examples and their texts.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a run: trials, winner and certificate, curves, insights, cost. Works while the run goes on.

    Example: `agenttts report run.duckdb --html report.html`
    """
    if against is not None:
        if html is not None:
            raise UserError("--against compares on the terminal or as --json, and --html writes one run")
        _compare(db, run, against, json=json)
        return
    from agenttts.report.data import FAILING, read_report
    from agenttts.report.html import save_html
    from agenttts.report.terminal import print_report
    from datastore import Store

    with Store.read(db) as store:
        data = read_report(store, run, n_failing=0 if no_examples else FAILING)
    written = None if html is None else save_html(data, html)
    if json:
        print_json(data.to_json_dict())
    else:
        print_report(data, out())
    if written is not None:
        say(f"report: {written}")


def _compare(db: Path, run: str | None, against: str, *, json: bool) -> None:
    from agenttts.report.run_lines import print_comparison
    from agenttts.report.runs import compare_runs
    from datastore import Store

    with Store.read(db) as store:
        comparison = compare_runs(store, run, against)
    if json:
        print_json(comparison.to_json_dict())
    else:
        print_comparison(comparison, out())
