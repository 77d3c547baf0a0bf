"""`agenttts demo`: the zoo's search on the recorded bank that ships with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import agenttts
from agenttts.cli.options import Budget, Json, Seed, out, print_json, say, talk
from agenttts.cli.search import Trials, show_result
from agenttts.proposers.registry import DEFAULT
from pipelines.zoo import SPEC


def demo(
    budget: Budget = None,
    trials: Trials = 12,
    seed: Seed = 0,
    folder: Annotated[Path, typer.Option("--out", help="Where the report and the database go.")] = Path(
        "agenttts-demo"
    ),
    json: Json = False,
) -> None:
    """Search a real two-stage pipeline on samples recorded from three small models: no server, no GPU.

    Example: `agenttts demo --trials 30 --seed 1`
    """
    from agenttts.search.progress import SearchProgress

    db = folder / "demo.duckdb"
    folder.mkdir(parents=True, exist_ok=True)
    with SearchProgress(talk()) as progress:
        result = agenttts.search(
            SPEC,
            budget=budget,
            trials=trials,
            proposer=DEFAULT,
            seed=seed,
            db=db,
            replay=True,
            on_event=progress,
        )
    html = result.report(folder / "report.html")
    if json:
        print_json({**result.to_json_dict(), "report": str(html), "db": str(db)})
        return
    show_result(result, out())
    say(f"\nreport: {html}\ndatabase: {db}  (agenttts report {db})")
