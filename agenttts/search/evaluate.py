"""Evaluation of one trial: an allocation on a set of examples, with the faults of examples and of the run.

A fault of one example (a server that gives up, a function that raises) makes the example missing, with a
reason, and never counts as 0. Past a stated share of missing examples the trial has failed and has no score.
A fault of the run (a configuration error, an outage, a limit on spending, a full disk, Ctrl-C) is raised:
finished examples are stored and the trial stays "running" in the store, so that a resumed run evaluates it
again and finds its samples in the bank.

Outcomes are summed up in `tally`; an example is run in `pipelines.runtime.runtime`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TypeAlias

from agenttts.errors import AgentTTSError, UserError
from agenttts.results.meter import SampleMeter, allocations_of
from agenttts.results.trials import TrialResult, result_of
from agenttts.search.events import TrialProgress
from agenttts.search.planned import PlannedTrial
from agenttts.search.racing import is_losing, rungs
from agenttts.search.tally import Tally
from agenttts.settings import MAX_ERROR_RATE
from agenttts.space.space import SearchSpace
from datastore.errors import StoreError
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.errors import (
    ConfigurationError,
    DatasetError,
    MissingDependency,
    ReplayMiss,
    ServerDown,
    SpecError,
    SpendRefused,
)
from pipelines.examples import Example
from pipelines.runtime.outcomes import ExampleOutcome
from pipelines.runtime.policies import PolicyOutcome, PolicyRunner
from pipelines.runtime.runtime import Runtime

_Ran: TypeAlias = ExampleOutcome | PolicyOutcome
_Run: TypeAlias = Callable[[Example], Awaitable[_Ran]]

logger = logging.getLogger(__name__)

STOPS = (
    AgentTTSError,
    ConfigurationError,
    DatasetError,
    MissingDependency,
    ReplayMiss,
    ServerDown,
    SpecError,
    SpendRefused,
    StoreError,
)
"""The errors that concern the run and not one example."""


async def evaluate(
    planned: PlannedTrial,
    *,
    runtime: Runtime,
    store: Store,
    run_id: str,
    number: int,
    space: SearchSpace,
    clock: Callable[[], float],
    max_error_rate: float = MAX_ERROR_RATE,
    on_progress: Callable[[TrialProgress], None] | None = None,
    race_with: Mapping[str, float | None] | None = None,
    seed: int = 0,
    meter: SampleMeter | None = None,
) -> TrialResult:
    """Run an allocation on the examples, many at once, and store the outcomes as they come.

    Args:
        planned: The allocation, the examples and the purpose of the trial.
        runtime: Runs an example.
        store: Stores the trial.
        run_id: The run that the trial belongs to.
        number: The trial's number in the run, that of the trial that grows.
        space: Gives the planned units of the allocation.
        clock: Returns the time in Unix seconds.
        max_error_rate: The largest share of missing examples with which a trial still has a score.
        on_progress: Called with the progress of the trial; None: not called.
        race_with: The scores of the best trial so far; the examples are then run part by part, and the trial
            goes no further as soon as it is clearly worse (`racing`). None: no race.
        seed: The seed of the comparison in a race.
        meter: Counts the health of the samples as results are stored; None, or the test split: not counted.

    Returns:
        The trial, as stored: "partial" when there are further examples.

    Raises:
        UserError: There are no examples.
        Exception: One of STOPS, which concern the run.
    """
    allocation, examples, n_run = planned.allocation, planned.part, planned.n_before
    if not examples:
        raise UserError(f"a trial needs at least one example, got none for the purpose {planned.purpose!r}")
    started = planned.begun(store, run_id, number, space, clock())
    tally = Tally(started, runtime.spec, planned.examples, len(examples))
    if n_run:
        tally.restore(n_run, store)
    else:
        store.begin_trial(started)
    ran = allocations_of(allocation, planned.policy)
    keep = _Keeper(store, tally, ran, None if started.split == "test" else meter)
    run = _runner(runtime, planned)
    for end in _ends(planned, race_with is not None):
        await _run_all(run, examples[n_run:end], keep, runtime.n_at_once, on_progress)
        n_run = end
        raced = race_with is not None and end < len(examples)
        if raced and is_losing(tally.scores(end), race_with or {}, seed):
            break
    row = tally.trial(max_error_rate, n_run, partial=n_run < len(planned.examples))
    finished = replace(row, finished_at=clock())
    store.finish_trial(finished)
    return result_of(finished, allocation, tally.scores(n_run), tally.stage_scores(), tally.costs())


def _ends(planned: PlannedTrial, is_race: bool) -> list[int]:
    """Up to which example each part of a trial goes."""
    count = len(planned.part)
    looks: Sequence[int] = ()
    if is_race:
        looks = rungs(len(planned.examples))
    elif planned.in_parts:
        size = max(1, math.ceil(count / 10))
        looks = range(size, count, size)
    return [*(look for look in looks if planned.n_before < look < count), count]


class _Keeper:
    """Stores outcomes as they come, adds them to the tally, and has their samples counted."""

    def __init__(
        self, store: Store, tally: Tally, ran: Sequence[Allocation], meter: SampleMeter | None
    ) -> None:
        self.tally = tally
        self._store = store
        self._ran = ran
        self._meter = meter

    async def __call__(self, batch: Sequence[asyncio.Task[_Ran]]) -> None:
        results = [task.result() for task in batch if not task.cancelled() and task.exception() is None]
        if not results:
            return
        for ran in results:
            self.tally.add(ran)
        rows = self.tally.rows(results)
        if rows.policies:
            await self._store.put_policy_results(rows.policies)
        await self._store.put_stage_results(rows.stages)
        await self._store.put_scores(rows.scores)
        if self._meter is not None:
            await self._meter.add(self._ran, rows.stages)

    def progress(self) -> TrialProgress:
        health = () if self._meter is None else self._meter.health(self._ran)
        return replace(self.tally.progress(), health=health)


def _runner(runtime: Runtime, planned: PlannedTrial) -> _Run:
    if planned.policy is not None:
        return PolicyRunner(runtime, planned.policy).run_example
    return partial(runtime.run_example, planned.allocation)


async def _run_all(
    run: _Run,
    examples: Sequence[Example],
    keep: _Keeper,
    n_at_once: int,
    on_progress: Callable[[TrialProgress], None] | None,
) -> None:
    """Run a task for each example, some at once; store outcomes as they come, those of one moment together.

    After a refusal to spend, requests in flight are paid for and finished, and the bank may answer further
    examples; after any other stop they are awaited for a short time (`pipelines.servers.grace`).
    """
    done: asyncio.Queue[asyncio.Task[_Ran]] = asyncio.Queue()
    running: set[asyncio.Task[_Ran]] = set()
    waiting = iter(examples)

    def start(n: int) -> None:
        for example in islice(waiting, n):
            task = asyncio.create_task(_outcome(run, example))
            running.add(task)
            task.add_done_callback(done.put_nowait)

    stop: BaseException | None = None
    start(n_at_once)
    try:
        while running:
            batch = [await done.get()]
            while not done.empty():
                batch.append(done.get_nowait())
            running.difference_update(batch)
            faults = [task.exception() for task in batch if not task.cancelled()]
            stop = stop or next((fault for fault in faults if fault is not None), None)
            goes_on = stop is None or isinstance(stop, SpendRefused)
            if goes_on:
                start(len(batch))
            await keep(batch)
            if not goes_on:
                break
            if on_progress is not None:
                on_progress(keep.progress())
    finally:
        if running:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            rest = [task for task in running if not task.cancelled() and task.exception() is None]
            await keep([task for task in rest if not keep.tally.has(_example_id(task.result()))])
    if stop is not None:
        raise stop


async def _outcome(run: _Run, example: Example) -> _Ran:
    try:
        return await run(example)
    except STOPS:
        raise
    except Exception as error:
        logger.exception("example %s is missing", example.id)
        reason = f"{type(error).__name__}: {error}"
        return ExampleOutcome(
            example_id=example.id, stages=(), output=None, score=None, status="error", reason=reason
        )


def _example_id(ran: _Ran) -> str:
    return ran.outcome.example_id if isinstance(ran, PolicyOutcome) else ran.example_id
