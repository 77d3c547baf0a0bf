"""`search(...)`: from a spec to a SearchResult.

The arguments are validated here; the run is opened, driven and closed in `run`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agenttts.blocking import parameters_of, run_blocking
from agenttts.defaults import DEFAULT_DB
from agenttts.errors import UserError
from agenttts.proposers import DEFAULT, SEEK_FRONTIER, AgentSettings, Proposer, require_proposer
from agenttts.result import SearchResult
from agenttts.search.approval import Approve
from agenttts.search.database import opened
from agenttts.search.events import OnEvent
from agenttts.search.progress import shown
from agenttts.search.run import OpenSearch
from agenttts.settings import MARGIN, MAX_ERROR_RATE, PolicyKind, SearchLimits, SearchSettings
from agenttts.space.measure import chosen_budget
from agenttts.space.objective import Objective
from agenttts.space.space import SearchSpace
from pipelines.servers.patience import Patience
from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec


async def async_search(
    spec: PipelineSpec | Path | str,
    *,
    budget: float | None = None,
    budget_usd: float | None = None,
    trials: int | None = 20,
    proposer: str | Proposer = "auto",
    seed: int = 0,
    db: Path | str | None = None,
    resume: bool = False,
    replay: bool = False,
    approve: Approve | None = None,
    frontier: bool = False,
    objective: Objective = "quality",
    min_quality: float | None = None,
    policy: PolicyKind = "adaptive",
    max_units_per_query: float | None = None,
    fresh: float | None = None,
    margin: float = MARGIN,
    limits: SearchLimits | None = None,
    agent: AgentSettings | None = None,
    banks: Sequence[Path | str] | None = None,
    on_event: OnEvent | None = None,
    progress: bool | None = None,
    clock: Callable[[], float] = time.time,
    environ: Mapping[str, str] | None = None,
    patience: Patience | None = None,
    max_error_rate: float = MAX_ERROR_RATE,
    max_in_flight: int = 64,
    clients: int = 1,
    preflight: bool = True,
) -> SearchResult:
    """Run `search` in code that is already asynchronous, with the same parameters."""
    spec = load_spec(spec) if isinstance(spec, Path | str) else spec
    if banks is not None and not banks:  # nor may a report of the run mix the spec's own in
        spec = spec.model_copy(update={"bank": None})
    environ = os.environ if environ is None else environ
    agent = agent or AgentSettings.from_environ(environ)
    if proposer == "auto":
        proposer = DEFAULT if agent is None else "agent"
    name = proposer if isinstance(proposer, str) else proposer.name
    limits = limits or SearchLimits()
    measure, amount = chosen_budget(spec, budget, budget_usd)
    settings = SearchSettings(
        budget_units=amount,
        measure=measure.name,
        seed=seed,
        proposer=name,
        agent_model=agent.model if agent is not None and name == "agent" else None,
        replay=replay,
        frontier=frontier,
        objective=objective,
        min_quality=min_quality,
        policy=policy,
        max_units_per_query=max_units_per_query,
        fresh=fresh,
        margin=margin,
        approve=approve is not None,
        limits=limits if limits.trials is not None else replace(limits, trials=trials),
        patience=patience or Patience(),
        max_error_rate=max_error_rate,
        max_in_flight=max_in_flight,
        clients=clients,
        preflight=preflight,
        banks=_banks(spec, banks),
    )
    require_proposer(proposer, agent)
    if (frontier or min_quality is not None) and name not in SEEK_FRONTIER:
        sought = "frontier" if frontier else f"least {objective}"
        raise UserError(f"the {sought} is sought by {' and '.join(SEEK_FRONTIER)} only, got {name!r}")
    settings.limits.require_prices(spec.models)
    space = SearchSpace(spec, settings.budget_units, measure)
    settings.goal.require_speeds(spec)
    with (
        opened(Path(DEFAULT_DB if db is None else db), clock) as store,
        shown(progress if approve is None else bool(progress), on_event) as handler,
    ):
        open_search = OpenSearch(
            settings=settings,
            space=space,
            store=store,
            proposer=proposer,
            agent=agent,
            approve=approve,
            on_event=handler,
            clock=clock,
            environ=environ,
        )
        return await open_search.result(resume)


@parameters_of(async_search)
def search(*args: Any, **kwargs: Any) -> SearchResult:
    """Search a pipeline's allocations within a budget, confirm the best on the test split, and store
    everything.

    It works in a script and in a notebook. On Ctrl-C requests in flight are awaited for 5 seconds and kept,
    the run is marked as stopped and KeyboardInterrupt is raised; a second Ctrl-C ends at once. The same call
    with `resume=True` continues the run.

    Args:
        spec: The pipeline: a PipelineSpec, or the path of its YAML file.
        budget: The budget of an allocation per query, in the measure of the spec's own (units or US dollars);
            None: the spec's.
        budget_usd: The budget in US dollars per query instead, where the models have prices; None: not.
        trials: The largest number of trials, each an allocation on all search examples; one on a part of them
            counts as that part. None: no such limit. `limits.trials`, when set, replaces it.
        proposer: The proposer: a name of `agenttts.proposers.NAMES`, the name of a sampler's class in
            optuna.samplers, an object with the protocol `Proposer`, or "auto": the agent when an endpoint is
            configured, else the default.
        seed: The seed of every random stream. The same seed and the same bank give the same run.
        db: The DuckDB file that stores the run; None: agenttts.duckdb in the working directory.
        resume: Whether to continue the newest unfinished run of this spec and these settings. A finished run
            is returned as it is, and where the database has no run at all one is begun.
        replay: Whether to answer every call from recorded samples and to fail when one is not recorded.
        approve: Called with the proposals of each step before they cost anything; returns a decision for
            each. None: every valid proposal is run.
        frontier: Whether to seek the best score at every cost up to the budget, not at the budget alone.
        objective: What to seek: "quality", or the least "cost" (as planned, in the budget's measure) or
            "latency" (planned seconds, by the models' speeds) at a score of `min_quality`.
        min_quality: The score to reach, above 0 and at most 1; None with the objective "quality".
        policy: "adaptive": at the end of a search for quality, a policy is chosen that spends the same
            budget, on average, where queries need it, by weighted votes, early stops and escalation. "fixed":
            every query gets the numbers of samples of the best allocation.
        max_units_per_query: The most that a policy may spend on any one query, in the budget's measure; None:
            no such limit.
        fresh: The share of the search examples, 0 to 0.5, to keep out of the search's trials. At the end the
            few allocations that can't be told apart are scored on these fresh examples, batch by batch, as
            long as that may change the choice. None: a quarter, and none of fewer than 100 examples.
        margin: By how much an allocation that is recommended beside the best, because it is cheaper, may be
            worse than the best, as a difference of scores.
        limits: Limits on the whole search in tokens, FLOPs, money and minutes; None: no limit but `trials`.
        agent: The endpoint of the LLM agent; None: from the environment variables AGENTTTS_AGENT_*.
        banks: Files of recorded samples to attach; None: the spec's own; an empty list: none, so that all is
            drawn afresh but what the database itself holds.
        on_event: Called with each event of the search as it happens, see `agenttts.search.events`.
        progress: Whether to show trials, bars, cost and the time left on stderr while the search runs. None:
            where stderr is a terminal and neither `on_event` nor `approve` is given.
        clock: Returns the time in Unix seconds.
        environ: The environment variables, for keys and the agent's endpoint; None: those of the process.
        patience: How long an answer, a fault and an outage of a server are waited for; None: the
            defaults.
        max_error_rate: The largest share of missing examples with which a trial still has a score.
        max_in_flight: The largest number of simultaneous requests to each server.
        clients: How many processes draw samples, where one core is not enough; 1: the search's own draws.
        preflight: Whether to check servers, prompts and data before the first trial.

    Returns:
        The result: the winner with its certificate, the trials, and the cost. Its status is "stopped", and
        the same call with `resume=True` goes on, where a score of it is missing.

    Raises:
        ServerDown, TrialsFailed: A server was down for too long, or several trials in a row have failed; the
            same call with `resume=True` goes on later.
        AgentTTSError, PipelineError, StoreError: The search can't go on until a person acts; everything paid
            for is stored.
    """
    return run_blocking(async_search(*args, **kwargs))


def _banks(spec: PipelineSpec, banks: Sequence[Path | str] | None) -> tuple[Path, ...]:
    if banks is not None:
        return tuple(Path(bank) for bank in banks)
    spec_bank = spec.bank_path
    return (spec_bank,) if spec_bank is not None and spec_bank.exists() else ()
