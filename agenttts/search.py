"""`search(...)`: from a spec to a SearchResult. Opens the run (or resumes it), drives the graph, closes
everything.

What is decided is left to the nodes of the graph and the proposers. The database is the one memory: a resumed
run takes its stored decisions in order and goes on from there.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from agenttts.approval import Approve, Pending
from agenttts.bank_outcomes import BankOutcomes
from agenttts.blocking import run_blocking
from agenttts.check import check
from agenttts.errors import UserError
from agenttts.evaluate import MAX_ERROR_RATE
from agenttts.goal import Goal, Objective
from agenttts.inherited import inherited
from agenttts.limits import Ledger, SearchLimits
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
from agenttts.space import SearchSpace
from datastore.records import Event, ModelRecord, Run, RunStatus
from datastore.store import Store
from pipelines.clients import ModelClients
from pipelines.dataset import load_examples
from pipelines.examples import Example
from pipelines.runtime import Runtime
from pipelines.spec import PipelineSpec
from pipelines.specfile import dump_spec, load_spec, spec_digest

if TYPE_CHECKING:
    from agenttts.nodes import SearchState, SearchWork

DEFAULT_DB = Path("agenttts.duckdb")
OnEvent = Callable[[dict[str, Any]], None]
"""Is given what happens, as it happens: {"kind": "phase" | "trial_started" | "trial_progress" | ..., ...}."""

_MUST_AGREE = (
    "spec_digest",
    "budget_units",
    "seed",
    "proposer",
    "agent_model",
    "replay",
    "frontier",
    "objective",
    "min_quality",
    "retest",
)


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The arguments of a search, put in order."""

    spec: PipelineSpec
    budget: float
    seed: int
    proposer: str | Proposer
    agent: AgentSettings | None
    limits: SearchLimits
    resume: bool
    replay: bool
    approve: Approve | None
    frontier: bool
    goal: Goal
    retest: float
    banks: Sequence[Path]
    on_event: OnEvent
    clock: Callable[[], float]
    environ: Mapping[str, str]
    max_error_rate: float
    max_in_flight: int
    preflight: bool

    @property
    def proposer_name(self) -> str:
        return self.proposer if isinstance(self.proposer, str) else self.proposer.name

    def settings(self, digest: str) -> dict[str, Any]:
        """What the run keeps of them; neither keys nor addresses."""
        agent = self.agent if self.proposer_name == "agent" else None
        return {
            "spec_digest": digest,
            "budget_units": self.budget,
            "seed": self.seed,
            "proposer": self.proposer_name,
            "agent_model": None if agent is None else agent.model,
            "replay": self.replay,
            "frontier": self.frontier,
            "objective": self.goal.objective,
            "min_quality": self.goal.min_quality,
            "retest": self.retest,
            "approve": self.approve is not None,
            "limits": self.limits.to_dict(),
            "max_error_rate": self.max_error_rate,
        }


def search(spec: PipelineSpec | Path | str, **settings: Any) -> SearchResult:
    """Find the allocation of a pipeline's budget; the arguments are those of `async_search`.

    Works in a script as in a notebook. On Ctrl-C the run is marked as stopped and KeyboardInterrupt raised;
    the same call with resume=True goes on.
    """
    return run_blocking(async_search(spec, **settings))


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
    """Search a pipeline's allocations within a budget, confirm the best on the test split, and store all of
    it.

    spec: a PipelineSpec or its YAML file. budget: units per query; None: the spec's. trials: allocations to
    evaluate, None for no such limit; `limits` caps tokens, FLOPs, money and minutes too. proposer: a name of
    `agenttts.proposers.NAMES`, a sampler's class in optuna.samplers, "auto" (the agent where an endpoint is
    configured, else the default) or an object. db: the DuckDB file, agenttts.duckdb where not given. resume:
    go on with the newest unfinished run of this spec; a finished one is returned as it is. replay: no call
    that the bank can't answer. approve: asked before anything is paid for. frontier: seek the best score at
    every cost up to the budget, not at the budget alone. objective: quality, or the least cost (planned
    units) or latency (planned seconds, by the models' speeds) at a score of min_quality.
    retest: the share of the search examples held back from the trials, on which the best and those not told
    apart from it are scored at the end. agent: the LLM endpoint; None: from AGENTTTS_AGENT_*. banks: recorded
    samples to attach; None: the spec's
    own. on_event: told what happens. clock: Unix seconds. max_in_flight: requests at once, for each server.
    preflight: check servers and prompts first.

    Raises AgentTTSError, PipelineError or StoreError where a person must act; what was paid for is kept.
    """
    spec = load_spec(spec) if isinstance(spec, Path | str) else spec
    limits = limits or SearchLimits()
    agent = agent or AgentSettings.from_environ(environ)
    if proposer == "auto":
        proposer = DEFAULT if agent is None else "agent"
    request = _Request(
        spec=spec,
        budget=spec.budget.units if budget is None else float(budget),
        seed=seed,
        proposer=proposer,
        agent=agent,
        limits=limits if limits.trials is not None else replace(limits, trials=trials),
        resume=resume,
        replay=replay,
        approve=approve,
        frontier=frontier,
        goal=Goal(objective, min_quality),
        retest=retest,
        banks=_banks(spec, banks),
        on_event=on_event or (lambda event: None),
        clock=clock,
        environ=environ,
        max_error_rate=max_error_rate,
        max_in_flight=max_in_flight,
        preflight=preflight,
    )
    require_proposer(request.proposer, request.agent)
    if (frontier or min_quality is not None) and request.proposer_name not in SEEK_FRONTIER:
        sought = "frontier" if frontier else f"least {objective}"
        raise UserError(
            f"the {sought} is sought by {' and '.join(SEEK_FRONTIER)} only, got {request.proposer_name!r}"
        )
    if frontier and min_quality is not None:
        raise UserError("a least quality is not sought together with the frontier; leave one out")
    request.limits.require_prices(spec.models)
    space = SearchSpace(spec, request.budget)
    request.goal.require_speeds(spec)
    with Store.open(DEFAULT_DB if db is None else db, clock=clock) as store:
        return await _searched(request, space, store)


async def _searched(request: _Request, space: SearchSpace, store: Store) -> SearchResult:
    spec = request.spec
    unfinished = _run_to_resume(request, store) if request.resume else None
    if unfinished is not None and unfinished.status == "complete":
        return SearchResult.from_store(store, unfinished.run_id, spec)
    clients = None
    if not request.replay:
        rng = random.Random(request.seed)
        clients = ModelClients(spec, rng=rng, max_in_flight=request.max_in_flight, environ=request.environ)
    try:
        if request.preflight:
            await _preflight(request, clients)
        examples, held = held_back(load_examples(spec, "search"), request.retest, request.seed)
        for bank in request.banks:
            store.attach_bank(bank)
        run = _begin(request, store, unfinished)
        work = _work(request, space, store, run, examples, held, clients)
        try:
            await _drive(request, work, run, unfinished is not None)
        except (KeyboardInterrupt, asyncio.CancelledError):
            _end(request, store, run, "stopped", "stopped by hand")
            raise
        except Exception as error:
            _end(request, store, run, "failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            close = getattr(work.proposer, "aclose", None)
            if close is not None:
                await close()
        return SearchResult.from_store(store, run.run_id, spec)
    finally:
        if clients is not None:
            await clients.aclose()


async def _drive(request: _Request, work: SearchWork, run: Run, resumed: bool) -> None:
    """Run the graph to its end, answering its questions."""
    from langgraph.types import Command

    from agenttts.graph import build_graph  # langgraph takes a second to import

    request.on_event(
        {
            "kind": "run_started",
            "run_id": run.run_id,
            "resumed": resumed,
            "db": str(work.store.path),
            "proposer": request.proposer_name,
            "budget_units": request.budget,
            "allocations": work.space.size,
            "n_examples": len(work.examples),
            "trials": request.limits.trials,
        }
    )
    graph = build_graph()
    config: Any = {"configurable": {"thread_id": run.run_id}, "recursion_limit": 1_000_000}
    message: SearchState | Command[Any] | None = {"step": 0, "ended": None}
    while message is not None:
        asked: Any = None
        stream = graph.astream(message, config, context=work, stream_mode=["custom", "updates"])
        async with aclosing(stream) as parts:  # type: ignore[type-var]
            async for found in parts:
                mode, part = cast(tuple[str, dict[str, Any]], found)
                if mode == "custom":
                    request.on_event(part)
                elif "__interrupt__" in part:
                    asked = part["__interrupt__"][0].value
        message = None if asked is None else Command(resume=await _answer(request, asked))
    request.on_event({"kind": "run_finished", "run_id": run.run_id})


async def _answer(request: _Request, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert request.approve is not None
    answer = request.approve([Pending.from_dict(pending) for pending in asked])
    decisions = await answer if inspect.isawaitable(answer) else answer
    return [decision.to_dict() for decision in decisions]


def _work(
    request: _Request,
    space: SearchSpace,
    store: Store,
    run: Run,
    examples: Sequence[Example],
    held: Sequence[Example],
    clients: ModelClients | None,
) -> SearchWork:
    """The nodes' work, with all that the store knows of the run."""
    from agenttts.nodes import SearchWork

    spec = request.spec
    ledger = Ledger.resumed(request.limits, spec, clock=request.clock, store=store, run_id=run.run_id)
    context = ProposerContext(
        store=store, run_id=run.run_id, gate=ledger, agent=request.agent, replay=request.replay
    )
    work = SearchWork(
        spec=spec,
        space=space,
        examples=examples,
        held=held,
        runtime=Runtime(spec, store, clients, run_id=run.run_id, replay=request.replay, gate=ledger),
        store=store,
        ledger=ledger,
        limits=request.limits,
        proposer=make_proposer(request.proposer, context),
        run_id=run.run_id,
        seed=request.seed,
        replay=request.replay,
        asks=request.approve is not None,
        frontier=request.frontier,
        goal=request.goal,
        clock=request.clock,
        max_error_rate=request.max_error_rate,
        test_examples=cache(lambda: load_examples(spec, "test")),
        bank=BankOutcomes(spec, store, examples),
        inherited=inherited(store, run),
        insights=store.insights(run.run_id),
        stored={trial.number: trial for trial in store.trials(run.run_id)},
    )
    for proposal in store.proposals(run.run_id):
        work.proposals.setdefault(proposal.step, []).append(proposal)
    return work


def _begin(request: _Request, store: Store, unfinished: Run | None) -> Run:
    spec, now = request.spec, request.clock()
    digest = spec_digest(spec)
    run = Run(
        run_id=unfinished.run_id if unfinished else _new_run_id(store, now, request.seed, digest),
        spec=dump_spec(spec),
        spec_digest=digest,
        settings=json.dumps(request.settings(digest)),
        status="running",
        started_at=unfinished.started_at if unfinished else now,
        finished_at=None,
        outcome=None,
    )
    store.start_run(run)
    store.put_models(
        [
            ModelRecord(
                key=spec.model_key(name),
                name=name,
                revision=model.revision,
                active_params=model.active_params,
                context_length=model.context_length,
                parent=model.parent,
                usd_per_million_prompt_tokens=price.prompt_usd_per_million
                if (price := model.price)
                else None,
                usd_per_million_generated_tokens=price.generated_usd_per_million if price else None,
            )
            for name, model in spec.models.items()
        ]
    )
    kind = "resumed" if unfinished else "started"
    store.put_event(Event(run_id=run.run_id, at=now, kind=kind, detail=run.settings))
    return run


def _end(request: _Request, store: Store, run: Run, status: RunStatus, why: str) -> None:
    """Mark the run; what it paid for is in the store already."""
    now = request.clock()
    store.put_event(Event(run_id=run.run_id, at=now, kind=status, detail=json.dumps({"reason": why})))
    store.finish_run(run.run_id, status, None, now)
    remedy = (
        f"run {run.run_id} is kept in {store.path}; the same command with --resume goes on where it stopped"
    )
    request.on_event(
        {"kind": "stopped", "run_id": run.run_id, "status": status, "reason": why, "message": remedy}
    )


def _run_to_resume(request: _Request, store: Store) -> Run:
    """The newest unfinished run of this spec and these settings, else the newest finished one.

    UserError, naming what differs from the newest run, when none fits.
    """
    runs = store.runs()
    if not runs:
        raise UserError(f"{store.path}: --resume needs a run, this database has none; leave --resume out")
    wanted = request.settings(spec_digest(request.spec))
    fitting = [run for run in runs if not _differences(wanted, run)]
    if not fitting:
        told = "; ".join(_differences(wanted, runs[-1]))
        raise UserError(
            f"run {runs[-1].run_id} can't be resumed with other settings: {told}; "
            "repeat the command that began it, or leave --resume out"
        )
    open_runs = [run for run in fitting if run.status != "complete"]
    return (open_runs or fitting)[-1]


def _differences(wanted: Mapping[str, Any], run: Run) -> list[str]:
    had = {
        "frontier": False,
        "retest": 0.0,
        "objective": "quality",
        **json.loads(run.settings),
        "spec_digest": run.spec_digest,
    }
    found = []
    for name in _MUST_AGREE:
        if had.get(name) != wanted[name]:
            if name == "spec_digest":
                found.append("the spec has changed")
            else:
                found.append(f"{name} was {had.get(name)}, now {wanted[name]}")
    return found


async def _preflight(request: _Request, clients: ModelClients | None) -> None:
    findings = await check(request.spec, request.budget, clients=clients)
    errors = [finding for finding in findings if finding.severity == "error"]
    for finding in findings:
        if finding.severity != "error":
            request.on_event({"kind": "note", "message": str(finding)})
    if errors:
        raise UserError("\n".join(finding.line for finding in errors))


def _banks(spec: PipelineSpec, banks: Sequence[Path | str] | None) -> list[Path]:
    if banks is not None:
        return [Path(bank) for bank in banks]
    own = spec.bank_path
    return [own] if own is not None and own.exists() else []


def _new_run_id(store: Store, now: float, seed: int, digest: str) -> str:
    """Such as 20261124-073012-ab12: UTC, and four hex digits of what is searched."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S")
    taken = {run.run_id for run in store.runs()}
    for attempt in range(1000):
        mark = hashlib.sha256(f"{now}|{seed}|{digest}|{attempt}".encode()).hexdigest()[:4]
        if f"{stamp}-{mark}" not in taken:
            return f"{stamp}-{mark}"
    raise UserError(f"{store.path}: a thousand runs began in one second; wait and try again")
