"""`agenttts check`: report what would fail in a search, before any token is spent."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Annotated

import typer

from agenttts.cli.options import (
    Budget,
    BudgetUsd,
    Data,
    Json,
    NSearch,
    NTest,
    Spec,
    complain,
    print_json,
    read_spec,
    say,
)

if TYPE_CHECKING:
    from agenttts.search.check import Finding


def check(
    spec: Spec,
    budget: Budget = None,
    budget_usd: BudgetUsd = None,
    offline: Annotated[bool, typer.Option("--offline", help="Send no request to any server.")] = False,
    data: Data = None,
    n_search: NSearch = None,
    n_test: NTest = None,
    json: Json = False,
) -> None:
    """Look for what would fail: servers, models, prompts, context lengths, data, budget. Exit code 2 if any.

    Example: `agenttts check pipeline.yaml --budget 400`
    """
    loaded = read_spec(spec, data, n_search, n_test)
    from agenttts.search.check import check as look
    from pipelines.servers.clients import ModelClients

    async def findings_of_spec() -> list[Finding]:
        if offline:
            return await look(loaded, budget, budget_usd=budget_usd)
        clients = ModelClients(loaded, rng=random.Random(0), retries=0)
        try:
            return await look(loaded, budget, budget_usd=budget_usd, clients=clients)
        finally:
            await clients.aclose()

    findings = asyncio.run(findings_of_spec())
    errors = [finding for finding in findings if finding.severity == "error"]
    if json:
        print_json({"ok": not errors, "findings": [finding.to_dict() for finding in findings]})
    else:
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
