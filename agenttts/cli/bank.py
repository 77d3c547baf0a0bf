"""`agenttts bank`: list, export and import recorded samples."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from agenttts.cli.options import Json, out, print_json, say

app = typer.Typer(no_args_is_help=True, help="List, export and import recorded samples.")

Database = Annotated[Path, typer.Argument(help="The DuckDB file.", show_default=False)]


@app.command("list")
def list_samples(
    db: Annotated[Path, typer.Argument(help="The DuckDB file, or a Parquet bank.", show_default=False)],
    json: Json = False,
) -> None:
    """List how many prompts, samples and tokens of each model a database or a bank holds.

    Example: `agenttts bank list run.duckdb`
    """
    from rich.markup import escape
    from rich.table import Table

    from datastore import Store
    from datastore.bank import Bank
    from datastore.transfer import read_bank

    names: dict[str, str] = {}
    if db.suffix == ".parquet":
        rows = Bank(read_bank(db), str(db)).summary()
    else:
        with Store.read(db) as store:
            rows = store.bank_summary()
            names = {model.key: model.name for model in store.models()}
    if json:
        print_json([{**asdict(row), "model": names.get(row.model_key, row.model_key)} for row in rows])
        return
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("model", "prompts", "samples", "prompt tokens", "generated tokens"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        figures = (row.prompts, row.samples, row.prompt_tokens, row.generated_tokens)
        table.add_row(escape(names.get(row.model_key, row.model_key)), *(f"{figure:,}" for figure in figures))
    out().print(table)


@app.command("export")
def export_samples(
    db: Database,
    file: Annotated[Path, typer.Argument(help="The Parquet file to write.", show_default=False)],
    run: Annotated[
        str | None, typer.Option("--run", help="Export only the samples that this run paid for.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a database's samples as a Parquet bank, which any search can attach with `--bank`.

    Example: `agenttts bank export run.duckdb bank.parquet`
    """
    from datastore import Store

    with Store.read(db) as store:
        samples = store.export_bank(file, run_id=run)
    _print_count(json, samples, f"{samples:,} samples written to {file}")


@app.command("import")
def import_samples(
    db: Database,
    file: Annotated[Path, typer.Argument(help="A Parquet bank, or another database.", show_default=False)],
    json: Json = False,
) -> None:
    """Add a bank's samples to a database; those it has stay as they are.

    Example: `agenttts bank import run.duckdb bank.parquet`
    """
    from datastore import Store

    with Store.open(db) as store:
        samples = store.import_bank(file)
    _print_count(json, samples, f"{samples:,} samples added to {db}")


def _print_count(json: bool, samples: int, line: str) -> None:
    if json:
        print_json({"samples": samples})
    else:
        say(line)
