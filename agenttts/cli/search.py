"""`agenttts search`: search for the best allocation."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, cast

import typer

import agenttts
from agenttts.cli.options import (
    DEFAULT_DB,
    PATIENCE,
    AgentBaseUrl,
    AgentKeyEnv,
    AgentMaxTokens,
    AgentModel,
    AgentShare,
    AgentTemperature,
    AgentTimeout,
    Banks,
    Budget,
    BudgetUsd,
    Data,
    Db,
    Json,
    LongestOutage,
    NSearch,
    NTest,
    RetryFor,
    Seed,
    Spec,
    Timeout,
    out,
    print_json,
    read_spec,
    say,
    talk,
)
from agenttts.errors import UserError
from agenttts.proposers.registry import DEFAULT, NAMES
from agenttts.settings import MARGIN

if TYPE_CHECKING:
    from rich.console import Console

    from agenttts import AgentSettings
    from agenttts.settings import PolicyKind
    from agenttts.space.objective import Objective

Trials = Annotated[
    int,
    typer.Option(
        "--trials",
        min=1,
        help="Trials at most, each an allocation on all search examples; one on a tenth of them counts as a "
        "tenth.",
    ),
]
Proposer = Annotated[
    str,
    typer.Option(
        "--proposer",
        help=f"auto, {', '.join(NAMES)}, or a sampler's class in optuna.samplers. "
        f"auto: the agent where an endpoint is configured, else {DEFAULT}.",
    ),
]


def search(
    spec: Spec,
    budget: Budget = None,
    budget_usd: BudgetUsd = None,
    trials: Trials = 20,
    proposer: Proposer = "auto",
    seed: Seed = 0,
    db: Db = DEFAULT_DB,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the newest unfinished run of these settings, or begin one."
        ),
    ] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="Forbid every call that recorded samples can't answer.")
    ] = False,
    approve: Annotated[
        bool, typer.Option("--approve", help="Ask about each proposal before it costs anything.")
    ] = False,
    approve_in_ui: Annotated[
        bool,
        typer.Option(
            "--approve-in-ui", help="Ask on the page of the run in `agenttts ui` instead of the terminal."
        ),
    ] = False,
    frontier: Annotated[
        bool, typer.Option("--frontier", help="Seek the best score at every cost up to the budget.")
    ] = False,
    objective: Annotated[
        str,
        typer.Option("--objective", help="quality; or cost, latency: the least that reaches --min-quality."),
    ] = "quality",
    min_quality: Annotated[
        float | None,
        typer.Option("--min-quality", help="The score to reach with --objective cost or latency."),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            help="adaptive: spend the budget, on average, on the queries that need it; fixed: on all alike.",
        ),
    ] = "adaptive",
    max_units_per_query: Annotated[
        float | None,
        typer.Option("--max-units-per-query", help="The most that a policy may spend on any one query."),
    ] = None,
    fresh: Annotated[
        float | None,
        typer.Option(
            "--fresh",
            help="Share of the search examples kept for the choice at the end; a quarter of 100 or more.",
        ),
    ] = None,
    margin: Annotated[
        float,
        typer.Option("--margin", help="By how much a cheaper recommendation may be worse than the best."),
    ] = MARGIN,
    data: Data = None,
    n_search: NSearch = None,
    n_test: NTest = None,
    bank: Banks = None,
    no_bank: Annotated[
        bool,
        typer.Option(
            "--no-bank",
            help="Read no recorded samples, not the spec's own either: draw what the database lacks.",
        ),
    ] = False,
    max_tokens: Annotated[
        int | None, typer.Option(help="Cap on the tokens that the search pays for.")
    ] = None,
    max_flops: Annotated[float | None, typer.Option(help="Cap on the FLOPs of the search.")] = None,
    max_usd: Annotated[
        float | None, typer.Option(help="Cap on the cost of the search in US dollars; needs prices.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Cap on the running time of the search in minutes.")
    ] = None,
    timeout: Timeout = PATIENCE.timeout_s,
    retry_for: RetryFor = PATIENCE.retry_s,
    longest_outage: LongestOutage = PATIENCE.longest_outage_s,
    max_in_flight: Annotated[
        int,
        typer.Option(
            "--max-in-flight",
            min=1,
            help="Requests at once, for each server and each replica behind a router.",
        ),
    ] = 64,
    clients: Annotated[
        int,
        typer.Option(
            "--clients",
            min=1,
            help="Experimental: processes that draw samples, where one core is not enough.",
        ),
    ] = 1,
    agent_base_url: AgentBaseUrl = None,
    agent_model: AgentModel = None,
    agent_key_env: AgentKeyEnv = None,
    agent_timeout: AgentTimeout = None,
    agent_max_tokens: AgentMaxTokens = None,
    agent_share: AgentShare = None,
    agent_temperature: AgentTemperature = None,
    json: Json = False,
) -> None:
    """Find the allocation with the best score within the budget, and say what is claimed of it.

    Example: `agenttts search pipeline.yaml --budget 400 --trials 30 --db run.duckdb`
    """
    if bank and no_bank:
        raise UserError("--bank names samples to read and --no-bank reads none; give one of them")
    loaded = read_spec(spec, data, n_search, n_test)
    from agenttts.cli.approve import at_terminal, in_ui
    from agenttts.search.progress import SearchProgress

    limits = agenttts.SearchLimits(
        trials=trials, tokens=max_tokens, flops=max_flops, usd=max_usd, minutes=max_minutes
    )
    patience = agenttts.Patience(timeout_s=timeout, retry_s=retry_for, longest_outage_s=longest_outage)
    console = talk()
    if approve and approve_in_ui:
        raise UserError("--approve asks at the terminal and --approve-in-ui in the browser; give one of them")
    with SearchProgress(console) as progress:
        asking = in_ui(db) if approve_in_ui else None
        result = agenttts.search(
            loaded,
            budget=budget,
            budget_usd=budget_usd,
            proposer=proposer,
            seed=seed,
            db=db,
            resume=resume,
            replay=replay,
            approve=at_terminal(console, progress) if approve else asking,
            frontier=frontier,
            objective=cast("Objective", objective),
            min_quality=min_quality,
            policy=cast("PolicyKind", policy),
            max_units_per_query=max_units_per_query,
            fresh=fresh,
            margin=margin,
            limits=limits,
            agent=agent_settings(
                agent_base_url,
                agent_model,
                key_env=agent_key_env,
                timeout=agent_timeout,
                max_tokens=agent_max_tokens,
                share=agent_share,
                temperature=agent_temperature,
            ),
            banks=[] if no_bank else bank,
            on_event=progress,
            patience=patience,
            max_in_flight=max_in_flight,
            clients=clients,
        )
    if json:
        print_json(result.to_json_dict())
    else:
        show_result(result, out())
        say(f"\nagenttts report {result.db}  shows curves and insights; --html writes them", "dim")
    if result.status != "complete":
        raise typer.Exit(1)


def agent_settings(
    base_url: str | None, model: str | None, **further: str | float | None
) -> AgentSettings | None:
    """Combine the endpoint of the options with that of the environment.

    Args:
        base_url: The endpoint's address; None for the environment's.
        model: The model's name; None for the environment's.
        further: Any of key_env, timeout, max_tokens, share and temperature; None for the environment's.

    Returns:
        The settings; None when there is no endpoint.

    Raises:
        UserError: There is a model without an address, or an address without a model.
    """
    from agenttts import AgentSettings

    options = {"base_url": base_url or None, "model": model or None, **further}
    variables = {f"AGENTTTS_AGENT_{name.upper()}": str(v) for name, v in options.items() if v is not None}
    environ = {**os.environ, **variables}
    settings = AgentSettings.from_environ(environ)
    if settings is None and model:
        raise UserError("--agent-model needs --agent-base-url, or AGENTTTS_AGENT_BASE_URL in the environment")
    return settings


def show_result(result: agenttts.SearchResult, console: Console) -> None:
    """Print the table of trials and the winner with its certificate.

    Args:
        result: The result of the search.
        console: The console to print on.
    """
    from agenttts.report.data import read_report
    from agenttts.report.terminal import print_winner, trial_table
    from datastore import Store

    with Store.read(result.db) as store:
        data = read_report(store, result.run_id, solve=False)
    console.print()
    console.print(trial_table(data, reasons=False))
    console.print()
    print_winner(data, console)
