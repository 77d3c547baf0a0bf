"""`agenttts check`: report what would fail in a search, and send one request for each stage and model."""

from __future__ import annotations

import asyncio
import random
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from agenttts.cli.options import (
    PATIENCE,
    Budget,
    BudgetUsd,
    Data,
    Json,
    NSearch,
    NTest,
    Spec,
    Timeout,
    complain,
    print_json,
    read_spec,
    say,
)
from pipelines.servers.patience import Patience

if TYPE_CHECKING:
    from agenttts.search.findings import Finding
    from agenttts.search.rehearsal import Rehearsed
    from pipelines import PipelineSpec
    from pipelines.dataset.splits import Splits
    from pipelines.servers.wire import Negotiated

_OVERLOADED_S = 60.0  # for a server that is overloaded
_RETRY_S = 1.0


def check(
    spec: Spec,
    budget: Budget = None,
    budget_usd: BudgetUsd = None,
    offline: Annotated[bool, typer.Option("--offline", help="Send no request to any server.")] = False,
    requests: Annotated[
        bool,
        typer.Option(
            "--requests/--no-requests",
            help="Send a real request for each stage and model, as the search will, and call each function; "
            "what it costs is shown.",
        ),
    ] = True,
    timeout: Timeout = PATIENCE.timeout_s,
    data: Data = None,
    n_search: NSearch = None,
    n_test: NTest = None,
    json: Json = False,
) -> None:
    """Look for what would fail: servers, models, prompts, context lengths, data, budget. Exit code 2 if any.

    Where nothing would fail, one real request for each stage and model shows whether samples come, parse and
    end before the token limit.

    Example: `agenttts check pipeline.yaml --budget 400`
    """
    loaded = read_spec(spec, data, n_search, n_test)
    patience = Patience(timeout_s=timeout, retry_s=_RETRY_S, longest_outage_s=_OVERLOADED_S)
    findings, rehearsed, negotiated = asyncio.run(
        _checked(loaded, budget, budget_usd, offline, requests, patience)
    )
    errors = [finding for finding in findings if finding.severity == "error"]
    if json:
        print_json(
            {
                "ok": not errors,
                "findings": [finding.to_dict() for finding in findings],
                "requests": [one.to_json_dict() for one in rehearsed],
                "negotiated": [asdict(one) for one in negotiated],
                "cost": _cost(rehearsed),
            }
        )
    else:
        for one in rehearsed:
            say(one.line, "dim")
        for finding_of_server in negotiated:
            say(str(finding_of_server), "yellow" if finding_of_server.warning else "dim")
        if rehearsed:
            say(_cost_text(rehearsed), "dim")
        for finding in findings:
            if finding.severity == "error":
                complain(finding.line)
            else:
                say(str(finding), "yellow")
        if not errors:
            servers = "servers were not checked" if offline else "servers answer, models are served"
            say(f"{spec}: ready to search ({servers})", "green")
    if errors:
        raise typer.Exit(2)


async def _checked(
    spec: PipelineSpec,
    budget: float | None,
    budget_usd: float | None,
    offline: bool,
    requests: bool,
    patience: Patience,
) -> tuple[list[Finding], list[Rehearsed], tuple[Negotiated, ...]]:
    """What is wrong, what came of the real requests, and what these showed of the servers."""
    from agenttts.search.check import check as look
    from agenttts.search.rehearsal import announcement, plan_rehearsal, rehearse
    from agenttts.space.measure import chosen_budget
    from agenttts.space.space import SearchSpace
    from pipelines.dataset import load_splits
    from pipelines.servers.clients import ModelClients

    @cache
    def read() -> Splits:
        return load_splits(spec)

    if offline:
        return await look(spec, budget, budget_usd=budget_usd, read_splits=read), [], ()
    clients = ModelClients(spec, rng=random.Random(0), patience=patience, holds=False, on_notice=_notice)
    try:
        findings = await look(spec, budget, budget_usd=budget_usd, clients=clients, read_splits=read)
        if not requests or any(finding.severity == "error" for finding in findings):
            return findings, [], ()
        example = read().search[0]
        measure, amount = chosen_budget(spec, budget, budget_usd)
        planned = plan_rehearsal(SearchSpace(spec, amount, measure), example)
        say(announcement(spec, planned, example))
        rehearsed = await rehearse(spec, planned, example, clients)
        findings += [
            replace(finding, place=spec.place_of(finding.place))
            for one in rehearsed
            for finding in one.findings()
        ]
        return sorted(findings, key=lambda finding: finding.severity), rehearsed, clients.negotiated
    finally:
        await clients.aclose()


def _notice(line: str) -> None:
    """Say at once what the check waits for."""
    say(line, "yellow")


def _cost(rehearsed: list[Rehearsed]) -> dict[str, int | float | None]:
    usd = [one.cost_usd for one in rehearsed]
    return {
        "calls": sum(one.calls for one in rehearsed),
        "prompt_tokens": sum(one.prompt_tokens for one in rehearsed),
        "generated_tokens": sum(one.generated_tokens for one in rehearsed),
        "usd": None if None in usd else sum(cost for cost in usd if cost is not None),
    }


def _cost_text(rehearsed: list[Rehearsed]) -> str:
    cost = _cost(rehearsed)
    money = "" if cost["usd"] is None else f", ${cost['usd']:.4g}"
    return (
        f"this took {cost['calls']:,} calls, {cost['prompt_tokens']:,} prompt and "
        f"{cost['generated_tokens']:,} generated tokens{money}"
    )
