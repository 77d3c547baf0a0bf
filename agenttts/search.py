"""`search(...)`: from a spec to a SearchResult. Opens the run (or resumes it), drives the graph, closes
everything.

What is decided is left to the nodes of the graph and the proposers. The database is the one memory: a resumed
run takes its stored decisions in order and goes on from there.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from agenttts.approval import Approve
from agenttts.bank_outcomes import BankOutcomes
from agenttts.blocking import parameters_of, run_blocking
from agenttts.check import check
from agenttts.drafts import Draft
from agenttts.errors import UserError
from agenttts.events import Note, OnEvent, RunFinished, RunStarted, SearchEvent
from agenttts.goal import Objective
from agenttts.inherited import inherited
from agenttts.limits import Ledger
from agenttts.proposers import (
    DEFAULT,
    SEEK_FRONTIER,
    AgentSettings,
    Proposer,
    ProposerContext,
    make_proposer,
    require_proposer,
)
from agenttts.result import SearchResult
from agenttts.retest import held_back
from agenttts.runs import begin_run, run_to_resume, stop_run
from agenttts.settings import MAX_ERROR_RATE, SearchLimits, SearchSettings
from agenttts.space import SearchSpace
from agenttts.trial import load_trial
from datastore.records import Run, RunStatus
from datastore.store import Store
from pipelines.clients import ModelClients
from pipelines.dataset import Splits, load_splits
from pipelines.examples import Example
from pipelines.runtime import Runtime
from pipelines.spec import PipelineSpec
from pipelines.specfile import load_spec, spec_digest

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from agenttts.state import SearchState, SearchWork

DEFAULT_DB = Path("agenttts.duckdb")


async def async_search(
    spec: PipelineSpec | Path | str,
    *,
    budget: float | None = None,
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
    retest: float = 0.0,
    limits: SearchLimits | None = None,
    agent: AgentSettings | None = None,
    banks: Sequence[Path | str] | None = None,
    on_event: OnEvent | None = None,
    clock: Callable[[], float] = time.time,
    environ: Mapping[str, str] = os.environ,
    max_error_rate: float = MAX_ERROR_RATE,
    max_in_flight: int = 64,
    preflight: bool = True,
) -> SearchResult:
    """`search` for code that is already asynchronous; the parameters are the same, and documented there."""
    spec = load_spec(spec) if isinstance(spec, Path | str) else spec
    agent = agent or AgentSettings.from_environ(environ)
    if proposer == "auto":
        proposer = DEFAULT if agent is None else "agent"
    name = proposer if isinstance(proposer, str) else proposer.name
    limits = limits or SearchLimits()
    settings = SearchSettings(
        budget_units=spec.budget.units if budget is None else float(budget),
        seed=seed,
        proposer=name,
        agent_model=agent.model if agent is not None and name == "agent" else None,
        replay=replay,
        frontier=frontier,
        objective=objective,
        min_quality=min_quality,
        retest=retest,
        approve=approve is not None,
        limits=limits if limits.trials is not None else replace(limits, trials=trials),
        max_error_rate=max_error_rate,
        max_in_flight=max_in_flight,
        preflight=preflight,
        banks=_banks(spec, banks),
    )
    require_proposer(proposer, agent)
    if (frontier or min_quality is not None) and name not in SEEK_FRONTIER:
        sought = "frontier" if frontier else f"least {objective}"
        raise UserError(f"the {sought} is sought by {' and '.join(SEEK_FRONTIER)} only, got {name!r}")
    settings.limits.require_prices(spec.models)
    space = SearchSpace(spec, settings.budget_units)
    settings.goal.require_speeds(spec)
    with Store.open(DEFAULT_DB if db is None else db, clock=clock) as store:
        opened = _OpenSearch(
            settings=settings,
            space=space,
            store=store,
            proposer=proposer,
            agent=agent,
            approve=approve,
            on_event=on_event or (lambda event: None),
            clock=clock,
            environ=environ,
        )
        return await opened.result(resume)


@parameters_of(async_search)
def search(*args: Any, **kwargs: Any) -> SearchResult:
    """Search a pipeline's allocations within a budget, confirm the best on the test split, store all of it.

    Works in a script as in a notebook. On Ctrl-C the run is marked as stopped and KeyboardInterrupt raised;
    the same call with `resume=True` goes on.

    Args:
        spec: The pipeline: a PipelineSpec, or the path of its YAML file.
        budget: The budget of an allocation, in units per query; None: the spec's.
        trials: How many allocations are evaluated at most; None: no such limit. `limits.trials`, where set,
            takes its place.
        proposer: Who suggests allocations: a name of `agenttts.proposers.NAMES`, the name of a sampler's
            class in optuna.samplers, an object that keeps the protocol `Proposer`, or "auto": the agent where
            an endpoint is configured, else the default.
        seed: The seed of every random stream. The same seed and the same bank give the same run.
        db: The DuckDB file that keeps the run; None: agenttts.duckdb in the working directory.
        resume: Whether to go on with the newest unfinished run of this spec and these settings. A finished
            run is returned as it is.
        replay: Whether every call that recorded samples can't answer is forbidden.
        approve: Is given the proposals of each step, before they cost anything, and returns a decision for
            each; None: nobody is asked.
        frontier: Whether to seek the best score at every cost up to the budget, not at the budget alone.
        objective: What is sought: "quality", or the least "cost" (planned units) or "latency" (planned
            seconds, by the models' speeds) at a score of `min_quality`.
        min_quality: The score to reach, above 0 and at most 1; None with the objective "quality".
        retest: The share of the search examples, 0 to 0.5, that is held back from the trials; the best
            allocation and those not told apart from it are scored on it at the end.
        limits: What the whole search may spend in tokens, FLOPs, money and minutes; None: no limit but
            `trials`.
        agent: The endpoint of the LLM agent; None: from the environment variables AGENTTTS_AGENT_*.
        banks: Files of recorded samples to attach; None: the spec's own.
        on_event: Is given each event of the search as it happens, see `agenttts.events`.
        clock: Gives the time in Unix seconds.
        environ: The environment variables, for keys and the agent's endpoint.
        max_error_rate: The largest share of missing examples with which a trial still has a score.
        max_in_flight: Requests at once, for each server.
        preflight: Whether servers, prompts and data are checked before the first trial.

    Returns:
        The result: the winner with its certificate, the trials, what it cost.

    Raises:
        AgentTTSError, PipelineError, StoreError: A person must act; what was paid for is kept.
    """
    return run_blocking(async_search(*args, **kwargs))


@dataclass(frozen=True, kw_only=True)
class _OpenSearch:
    """A search whose arguments are in order and whose database is open."""

    settings: SearchSettings
    space: SearchSpace
    store: Store
    proposer: str | Proposer
    agent: AgentSettings | None
    approve: Approve | None
    on_event: OnEvent
    clock: Callable[[], float]
    environ: Mapping[str, str]

    async def result(self, resume: bool) -> SearchResult:
        """Run the search to its end, or go on with an earlier run; a finished one is returned as it is."""
        spec, settings, store = self.space.spec, self.settings, self.store
        unfinished = run_to_resume(store, settings, spec_digest(spec)) if resume else None
        if unfinished is not None and unfinished.status == "complete":
            return SearchResult.from_store(store, unfinished.run_id, spec)
        async with AsyncExitStack() as closing:
            clients = None
            if not settings.replay:
                rng = random.Random(settings.seed)
                limit = settings.max_in_flight
                clients = ModelClients(spec, rng=rng, max_in_flight=limit, environ=self.environ)
                closing.push_async_callback(clients.aclose)
            splits = await self._splits(clients)
            examples, held = held_back(splits.search, settings.retest, settings.seed)
            for bank in settings.banks:
                store.attach_bank(bank)
            run = begin_run(store, spec, settings, unfinished, self.clock())
            work = self._work(run, splits, examples, held, clients)
            close = getattr(work.proposer, "aclose", None)
            if close is not None:
                closing.push_async_callback(close)
            try:
                await self._drive(work, resumed=unfinished is not None)
            except (KeyboardInterrupt, asyncio.CancelledError):
                self._stop(run, "stopped", "stopped by hand")
                raise
            except Exception as error:
                self._stop(run, "failed", f"{type(error).__name__}: {error}")
                raise
        return SearchResult.from_store(store, run.run_id, spec)

    async def _splits(self, clients: ModelClients | None) -> Splits:
        """All examples, read once; UserError for what would fail in the search."""
        spec, settings = self.space.spec, self.settings
        read = cache(lambda: load_splits(spec))
        if settings.preflight:
            findings = await check(spec, settings.budget_units, clients=clients, read_splits=read)
            errors = [finding.line for finding in findings if finding.severity == "error"]
            for finding in findings:
                if finding.severity != "error":
                    self.on_event(Note(message=str(finding)))
            if errors:
                raise UserError("\n".join(errors))
        return read()

    def _work(
        self,
        run: Run,
        splits: Splits,
        examples: Sequence[Example],
        held: Sequence[Example],
        clients: ModelClients | None,
    ) -> SearchWork:
        """The nodes' work, with all that the store knows of the run."""
        from agenttts.state import SearchWork  # langgraph takes a second to import

        spec, settings, store, run_id = self.space.spec, self.settings, self.store, run.run_id
        replay = settings.replay
        ledger = Ledger.resumed(settings.limits, spec, clock=self.clock, store=store, run_id=run_id)
        context = ProposerContext(store=store, run_id=run_id, gate=ledger, agent=self.agent, replay=replay)
        work = SearchWork(
            run_id=run_id,
            settings=settings,
            space=self.space,
            splits=splits,
            examples=examples,
            held=held,
            store=store,
            runtime=Runtime(spec, store, clients, run_id=run_id, replay=replay, gate=ledger),
            ledger=ledger,
            proposer=make_proposer(self.proposer, context),
            approve=self.approve,
            clock=self.clock,
            bank=BankOutcomes(spec, store, examples),
            inherited=inherited(store, run),
            stored={t.number: load_trial(store, t) for t in store.trials(run_id) if t.status != "running"},
            insights=store.insights(run_id),
        )
        for proposal in store.proposals(run_id):
            work.proposals.setdefault(proposal.step, []).append(Draft.from_record(proposal))
        return work

    async def _drive(self, work: SearchWork, *, resumed: bool) -> None:
        """Run the graph to its end and hand on its events."""
        from agenttts.graph import build_graph

        self.on_event(
            RunStarted(
                run_id=work.run_id,
                resumed=resumed,
                db=work.store.path,
                proposer=self.settings.proposer,
                budget_units=self.settings.budget_units,
                allocations=self.space.size,
                n_examples=len(work.examples),
                trials=self.settings.limits.trials,
            )
        )
        start: SearchState = {"step": 0, "ended": None}
        config: RunnableConfig = {"recursion_limit": 1_000_000}
        events = build_graph().astream(start, config, context=work, stream_mode="custom")
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                self.on_event(cast(SearchEvent, event))
        self.on_event(RunFinished(run_id=work.run_id))

    def _stop(self, run: Run, status: RunStatus, reason: str) -> None:
        self.on_event(stop_run(self.store, run.run_id, status, reason, self.clock()))


def _banks(spec: PipelineSpec, banks: Sequence[Path | str] | None) -> tuple[Path, ...]:
    if banks is not None:
        return tuple(Path(bank) for bank in banks)
    own = spec.bank_path
    return (own,) if own is not None and own.exists() else ()
