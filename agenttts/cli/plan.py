"""`agenttts plan`: what a search would cost, before anything is spent."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from agenttts.cli.options import (
    DEFAULT_DB,
    Budget,
    BudgetUsd,
    Data,
    Db,
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
from agenttts.cli.placed import Gpus, gpus_of
from agenttts.cli.search import Trials

if TYPE_CHECKING:
    from agenttts.search.throughput import Throughput
    from agenttts.serving.machine import Gpu
    from pipelines import PipelineSpec


def plan(
    spec: Spec,
    budget: Budget = None,
    budget_usd: BudgetUsd = None,
    trials: Trials = 20,
    db: Db = DEFAULT_DB,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Measure the servers' speed: a burst of requests for each stage and model."
        ),
    ] = False,
    samples_per_second: Annotated[
        float | None,
        typer.Option(
            min=1e-9,
            help="Speed of all servers together, in place of what --db or --probe measured.",
            show_default=False,
        ),
    ] = None,
    gpus: Gpus = None,
    usd_per_gpu_hour: Annotated[
        float | None,
        typer.Option(
            min=0, help="Price of a GPU of --gpus, or of this machine, for the cost.", show_default=False
        ),
    ] = None,
    seed: Seed = 0,
    data: Data = None,
    n_search: NSearch = None,
    n_test: NTest = None,
    json: Json = False,
) -> None:
    """Say how many calls, tokens, FLOPs, dollars and hours a search would take, and what it could show.

    The hours are by the speed that a run in --db had on the same servers, or that --probe measures now.

    Example: `agenttts plan pipeline.yaml --budget 400 --trials 30 --gpus 4x80 --usd-per-gpu-hour 2`
    """
    loaded = read_spec(spec, data, n_search, n_test)
    from rich.table import Table

    from agenttts.report.sentences import usd_text
    from agenttts.search.plan import plan as forecast
    from agenttts.space.measure import amount_text

    machine = _machine(loaded, gpus, usd_per_gpu_hour)
    planned = forecast(
        loaded,
        budget,
        trials,
        budget_usd=budget_usd,
        throughput=_throughput(loaded, db, probe, samples_per_second),
        gpus=machine,
        usd_per_gpu_hour=usd_per_gpu_hour,
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
    }
    if planned.hours is None or planned.samples_per_second is None:
        rows["hours"] = "not known: no run on these servers in --db; --probe measures"
    else:
        rows[f"hours at {planned.samples_per_second:,.3g} samples/s, {planned.speed_source}"] = (
            f"{planned.hours:,.2f}"
        )
    if planned.gpu_cost_usd is not None:
        rows[f"cost of {planned.machine} GB"] = usd_text(planned.gpu_cost_usd)
    rows["smallest difference it can show"] = f"{planned.resolvable_difference:.3f}"
    for name, figure in rows.items():
        table.add_row(name, figure)
    out().print(table)
    say("These figures assume no reuse. Trials share samples, so a search costs less.", "dim")
    for warning in planned.warnings:
        say(f"warning: {warning}", "yellow")


def _throughput(
    spec: PipelineSpec, db: Path, probe: bool, samples_per_second: float | None
) -> Throughput | None:
    """The servers' speed: as stated, probed, or recorded; None where no run on them is recorded."""
    from agenttts.search.throughput import recorded_throughput, stated_throughput

    if samples_per_second is not None:
        return stated_throughput(samples_per_second)
    if probe:
        return asyncio.run(_probed(spec))
    if not db.exists():
        return None
    from datastore.store import Store

    with Store.read(db) as store:
        return recorded_throughput(spec, store)


async def _probed(spec: PipelineSpec) -> Throughput:
    from agenttts.search.probe import n_probe_requests, probed_throughput
    from pipelines.dataset import load_splits
    from pipelines.servers.clients import ModelClients

    examples = load_splits(spec).search
    say(f"sending {n_probe_requests(spec):,} real requests to measure the servers' speed")
    clients = ModelClients(spec, rng=random.Random(0), holds=False)
    try:
        return await probed_throughput(spec, examples, clients)
    finally:
        await clients.aclose()


def _machine(spec: PipelineSpec, gpus: str | None, usd_per_gpu_hour: float | None) -> tuple[Gpu, ...]:
    """The GPUs that are paid for; stated ones are to hold the servers of the models that are served here."""
    stated = gpus_of(gpus)
    if stated is not None:
        from agenttts.serving.servers import placed
        from pipelines.servers.commands import LOCAL_HOSTS

        addresses = {name: urlsplit(spec.models[name].base_url) for name in spec.used_models}
        local = [name for name, address in addresses.items() if address.hostname in LOCAL_HOSTS]
        placed(spec, local, stated)
        return stated
    if usd_per_gpu_hour is None:
        return ()
    from agenttts.serving.machine import detect_gpus

    return detect_gpus(os.environ)
