"""A run of a search: begins or resumes it, drives the graph to its end, and closes it.

The nodes of the graph and the proposers decide. The database is the one memory: a resumed run takes its
stored decisions in order and continues after them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agenttts.errors import TrialsFailed, UserError
from agenttts.proposers import AgentSettings, Proposer, ProposerContext, make_proposer
from agenttts.proposers.base import aclose
from agenttts.replay.bank import BankOutcomes
from agenttts.result import SearchResult
from agenttts.results.fresh import kept_out
from agenttts.results.meter import SampleMeter, load_textless
from agenttts.results.negotiated import keep_negotiated
from agenttts.results.server_health import ServerWatch
from agenttts.results.trials import load_trial
from agenttts.search.approval import Approve
from agenttts.search.check import check
from agenttts.search.drafts import Draft
from agenttts.search.events import (
    Note,
    OnEvent,
    RunFinished,
    RunStarted,
    RunStopped,
    SearchEvent,
    TermsFound,
)
from agenttts.search.growth import with_stored_prompts
from agenttts.search.insights import inherited
from agenttts.search.limits import Ledger
from agenttts.search.redone import trials_to_keep
from agenttts.settings import SearchSettings
from agenttts.space.space import SearchSpace
from datastore.records import Event, ModelRecord, Run, RunStatus
from datastore.store import Store
from pipelines.dataset.splits import Splits, load_splits, seeded_order
from pipelines.errors import ServerDown
from pipelines.examples import Example
from pipelines.runtime.processes import ClientProcesses
from pipelines.runtime.recovery import recovered
from pipelines.runtime.runtime import Runtime
from pipelines.servers.clients import ModelClients
from pipelines.servers.routed import count_replicas
from pipelines.servers.transport import without_credentials
from pipelines.servers.wire import Negotiated
from pipelines.spec.files import dump_spec, spec_digest
from pipelines.spec.pipeline import PipelineSpec

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from agenttts.search.state import SearchState, SearchWork


@dataclass(frozen=True, kw_only=True)
class OpenSearch:
    """A search whose arguments are valid and whose database is open.

    Attributes:
        settings: The settings of the search.
        space: The allocations within the budget.
        store: The open database.
        proposer: The proposer, or its name.
        agent: The settings of the agent's endpoint; None when none is configured.
        approve: Decides on proposals; None: every valid proposal is run.
        on_event: Called with each event.
        clock: Returns the time in Unix seconds.
        environ: The environment variables that keys are read from.
    """

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
        """Run the search to its end.

        Args:
            resume: Whether to continue an earlier run; a finished one is returned as it is.

        Returns:
            The result.

        Raises:
            UserError: All runs of the database have other settings, or the check reports an error.
        """
        spec, settings, store = self.space.spec, self.settings, self.store
        digest = spec_digest(spec)
        unfinished = _run_to_resume(store, settings, digest) if resume else None
        if unfinished is not None:
            spec = with_stored_prompts(spec, store, unfinished.run_id)
        if unfinished is not None and unfinished.status == "complete":
            return SearchResult.from_store(store, unfinished.run_id, spec)
        watch: ServerWatch | None = None

        def notice(line: str) -> None:
            self.on_event(Note(message=line))
            if watch is not None:
                watch.keep()

        payer = None if unfinished is None else unfinished.run_id
        n_recovered = await recovered(self._spool, spec, store, payer)
        if n_recovered:
            self.on_event(
                Note(message=f"{n_recovered} samples of client processes that were killed are kept")
            )
        if self._spool.exists():
            self.on_event(
                Note(
                    message=f"{self._spool}: what client processes left there is of a search with other "
                    "models or can't be read; repeat the command that began it to keep what can, or delete it"
                )
            )
        async with AsyncExitStack() as closing:
            clients = None
            if not settings.replay:
                rng = random.Random(settings.seed)
                clients = self._clients(spec, rng, await self._replicas(spec), notice)
                closing.push_async_callback(clients.aclose)
            splits = await self._splits(clients)
            searched, fresh = kept_out(splits.search, settings.fresh, settings.seed)
            examples = seeded_order(searched, lambda example: example.id, settings.seed, "trials")
            for bank in settings.banks:
                store.attach_bank(bank)
            run = _begin(store, spec, digest, settings, len(examples), unfinished, self.clock())
            if clients is not None:
                clients.on_negotiated = self._terms_keeper(run)
                if settings.clients == 1:  # else each process knows of its own requests only
                    watch = ServerWatch(store, run.run_id, clients, self.clock)
            work = self._work(run, spec, splits, examples, fresh, clients)
            closing.push_async_callback(aclose, work.proposer)
            try:
                await self._drive(work, watch, resumed=unfinished is not None)
            except (KeyboardInterrupt, asyncio.CancelledError):
                self._stop(run, "stopped", "stopped by hand")
                raise
            except (ServerDown, TrialsFailed) as error:
                self._stop(run, "stopped", str(error))
                raise
            except Exception as error:
                self._stop(run, "failed", f"{type(error).__name__}: {error}")
                raise
        result = SearchResult.from_store(store, run.run_id, work.runtime.spec)
        return replace(result, search_examples=splits.search)

    @property
    def _spool(self) -> Path:
        """The folder beside the database in which client processes leave what they draw."""
        return self.store.path.with_name(f"{self.store.path.name}.clients")

    async def _replicas(self, spec: PipelineSpec) -> dict[str, int]:
        """Return the replicas behind routers, by address: so many times the requests keep them busy."""
        urls = [spec.models[name].base_url for name in spec.used_models]
        replicas = await count_replicas(urls, self.environ)
        for url, n in replicas.items():
            most = n * self.settings.max_in_flight
            self.on_event(
                Note(message=f"{without_credentials(url)}: {n} replicas, so {most} requests at once at most")
            )
        return replicas

    def _clients(
        self,
        spec: PipelineSpec,
        rng: random.Random,
        replicas: Mapping[str, int],
        on_notice: Callable[[str], None],
    ) -> ModelClients:
        """Return the clients of the models, in this process or in several."""
        settings = self.settings
        kind: Callable[..., ModelClients] = ModelClients
        if settings.clients > 1:
            settled = partial(self.store.get_prompt, "")
            kind = partial(ClientProcesses, n=settings.clients, folder=self._spool, settled=settled)
        return kind(
            spec,
            rng=rng,
            patience=settings.patience,
            max_in_flight=settings.max_in_flight,
            replicas=replicas,
            environ=self.environ,
            on_notice=on_notice,
        )

    async def _splits(self, clients: ModelClients | None) -> Splits:
        """Check the search and return all examples, read once; UserError when the check reports an error."""
        spec, settings = self.space.spec, self.settings
        read = cache(lambda: load_splits(spec))
        if settings.preflight:
            findings = await check(
                spec,
                settings.budget_units if settings.measure == "units" else None,
                budget_usd=settings.budget_units if settings.measure == "usd" else None,
                clients=clients,
                read_splits=read,
            )
            errors = [finding.line for finding in findings if finding.severity == "error"]
            for finding in findings:
                if finding.severity != "error":
                    self.on_event(Note(message=str(finding)))
            if errors:
                raise UserError("\n".join(errors))
        return read()

    def _terms_keeper(self, run: Run) -> Callable[[Negotiated], None]:
        """Return a function that stores what is found out about a server and passes it on."""

        def keep(negotiated: Negotiated) -> None:
            keep_negotiated(self.store, run.run_id, negotiated, self.clock())
            self.on_event(TermsFound(negotiated=negotiated))

        return keep

    def _work(
        self,
        run: Run,
        spec: PipelineSpec,
        splits: Splits,
        examples: Sequence[Example],
        fresh: Sequence[Example],
        clients: ModelClients | None,
    ) -> SearchWork:
        """Build the context of the nodes, with everything that the store has of the run."""
        from agenttts.search.state import SearchWork  # langgraph takes a second to import

        settings, store, run_id = self.settings, self.store, run.run_id
        space = self.space
        if spec is not space.spec:
            space = space.of(spec)
        replay = settings.replay
        ledger = Ledger.resumed(settings.limits, spec, clock=self.clock, store=store, run_id=run_id)
        context = ProposerContext(store=store, run_id=run_id, gate=ledger, agent=self.agent, replay=replay)
        meter = SampleMeter(spec, store, splits.search)
        for answers in load_textless(store, run_id):
            meter.add_textless(answers)
        work = SearchWork(
            run_id=run_id,
            settings=settings,
            space=space,
            splits=splits,
            examples=examples,
            fresh=fresh,
            store=store,
            runtime=Runtime(spec, store, clients, run_id=run_id, replay=replay, gate=ledger),
            ledger=ledger,
            proposer=make_proposer(self.proposer, context),
            approve=self.approve,
            clock=self.clock,
            bank=BankOutcomes(spec, store, examples, space.measure),
            meter=meter,
            inherited=inherited(store, run),
            stored={
                trial.number: load_trial(store, trial)
                for trial in trials_to_keep(store, run_id, settings.limits, len(examples))
            },
            insights=store.insights(run_id),
        )
        for proposal in store.proposals(run_id):
            work.proposals.setdefault(proposal.step, []).append(Draft.from_record(proposal))
        return work

    async def _drive(self, work: SearchWork, watch: ServerWatch | None, *, resumed: bool) -> None:
        """Run the graph to its end, pass its events to `on_event` and keep an eye on the servers."""
        from agenttts.search.graph import build_graph

        self.on_event(
            RunStarted(
                run_id=work.run_id,
                resumed=resumed,
                db=work.store.path,
                settings=self.settings,
                allocations=self.space.size,
                n_examples=len(work.examples),
            )
        )
        start: SearchState = {"step": 0, "ended": None}
        config: RunnableConfig = {"recursion_limit": 1_000_000}
        events = build_graph().astream(start, config, context=work, stream_mode="custom")
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                self.on_event(cast(SearchEvent, event))
                if watch is not None:
                    watch.keep_if_due()
        if self.store.run(work.run_id).status == "complete":
            self.on_event(RunFinished(run_id=work.run_id))

    def _stop(self, run: Run, status: RunStatus, reason: str) -> None:
        """Mark the run as ended before it was complete; everything that it paid for is stored already."""
        store, run_id, now = self.store, run.run_id, self.clock()
        store.put_event(Event(run_id=run_id, at=now, kind=status, detail=json.dumps({"reason": reason})))
        store.finish_run(run_id, status, None, now)
        self.on_event(RunStopped.of(run_id, store.path, status, reason))


def _run_to_resume(store: Store, settings: SearchSettings, digest: str) -> Run | None:
    """Return the newest unfinished run of this spec and these settings, else the newest finished one.

    None when there is no run at all, as after a kill in the first second. UserError, naming what differs from
    the newest run, when none fits.
    """
    runs = store.runs()
    if not runs:
        return None
    fitting = [run for run in runs if not _differences(settings, digest, run)]
    if not fitting:
        raise UserError(
            f"run {runs[-1].run_id} can't be resumed with other settings: "
            f"{'; '.join(_differences(settings, digest, runs[-1]))}; "
            "repeat the command that began it, or leave --resume out"
        )
    unfinished = [run for run in fitting if run.status != "complete"]
    return (unfinished or fitting)[-1]


def _differences(settings: SearchSettings, digest: str, run: Run) -> list[str]:
    changed = (
        ["the spec, or the code or a file of its functions, has changed"] if run.spec_digest != digest else []
    )
    return changed + settings.differences(SearchSettings.from_json_dict(json.loads(run.settings)))


def _begin(
    store: Store,
    spec: PipelineSpec,
    digest: str,
    settings: SearchSettings,
    n_examples: int,
    unfinished: Run | None,
    now: float,
) -> Run:
    """Store the run, new or unfinished, and its models; the digest is that of the spec as it was given."""
    run = Run(
        run_id=unfinished.run_id if unfinished else _new_run_id(store, now, settings.seed, digest),
        spec=dump_spec(spec),
        spec_digest=digest,
        settings=json.dumps({"spec_digest": digest, "n_examples": n_examples, **settings.to_json_dict()}),
        status="running",
        started_at=unfinished.started_at if unfinished else now,
        finished_at=None,
        outcome=None,
    )
    store.start_run(run)
    store.put_models([_model_record(spec, name) for name in spec.models])
    kind = "resumed" if unfinished else "started"
    store.put_event(Event(run_id=run.run_id, at=now, kind=kind, detail=run.settings))
    return run


def _model_record(spec: PipelineSpec, name: str) -> ModelRecord:
    model = spec.models[name]
    price = model.price
    return ModelRecord(
        key=spec.model_key(name),
        name=spec.served_name(name),
        revision=model.revision,
        active_params=model.active_params,
        context_length=model.context_length,
        parent=model.parent,
        usd_per_million_prompt_tokens=price.prompt_usd_per_million if price else None,
        usd_per_million_generated_tokens=price.generated_usd_per_million if price else None,
    )


def _new_run_id(store: Store, now: float, seed: int, digest: str) -> str:
    """Return an id such as 20261124-073012-ab12: the time in UTC and four hex digits of a hash."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S")
    run_ids = {run.run_id for run in store.runs()}
    for attempt in range(1000):
        mark = hashlib.sha256(f"{now}|{seed}|{digest}|{attempt}".encode()).hexdigest()[:4]
        if f"{stamp}-{mark}" not in run_ids:
            return f"{stamp}-{mark}"
    raise UserError(f"{store.path}: a thousand runs began in one second; wait and try again")
