"""`agenttts plan`: what a search would cost, before anything is spent."""

from __future__ import annotations

from typing import Annotated

import typer

from agenttts.cli.options import (
    Budget,
    BudgetUsd,
    Data,
    Json,
    NSearch,
    NTest,
    Seed,
    Spec,
    out,
    print_json,
    read_spec,
    say,
)
from agenttts.cli.search import Trials


def plan(
    spec: Spec,
    budget: Budget = None,
    budget_usd: BudgetUsd = None,
    trials: Trials = 20,
    samples_per_second: Annotated[
        float, typer.Option(min=1e-9, help="Samples per second of all servers together, for the hours.")
    ] = 20.0,
    seed: Seed = 0,
    data: Data = None,
    n_search: NSearch = None,
    n_test: NTest = None,
    json: Json = False,
) -> None:
    """Say how many calls, tokens, FLOPs, dollars and hours a search would take, and what it could show.

    Example: `agenttts plan pipeline.yaml --budget 400 --trials 30`
    """
    loaded = read_spec(spec, data, n_search, n_test)
    from rich.table import Table

    from agenttts.report.sentences import usd_text
    from agenttts.search.plan import plan as forecast
    from agenttts.space.measure import amount_text

    planned = forecast(
        loaded,
        budget,
        trials,
        budget_usd=budget_usd,
        samples_per_second=samples_per_second,
        seed=seed,
    )
    if json:
        print_json(planned.to_dict())
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    budget_text = amount_text(planned.budget_units, planned.measure, 6)
    rows = {
        f"allocations within {budget_text}": f"{planned.allocations:,}",
        "trials at most": f"{planned.trials:,}",
        "search / test examples": f"{planned.n_search:,} / {planned.n_test:,}",
        "calls": f"{planned.calls:,}",
        "samples": f"{planned.samples:,}",
        "prompt tokens": f"{planned.prompt_tokens:,}",
        "generated tokens": f"{planned.generated_tokens:,}",
        "FLOPs": "not known: no active_params" if planned.flops is None else f"{planned.flops:.3g}",
        "cost": "no prices" if planned.cost_usd is None else usd_text(planned.cost_usd),
        f"hours at {planned.samples_per_second:g} samples/s": f"{planned.hours:,.2f}",
        "smallest difference it can show": f"{planned.resolvable_difference:.3f}",
    }
    for name, figure in rows.items():
        table.add_row(name, figure)
    out().print(table)
    say("These figures assume no reuse. Trials share samples, so a search costs less.", "dim")
    for warning in planned.warnings:
        say(f"warning: {warning}", "yellow")
