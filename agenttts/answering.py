"""An allocation or a policy at work on new inputs: an answer for each row, in order; nothing is scored."""

from __future__ import annotations

import math
import numbers
import os
import random
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from agenttts.errors import UserError
from agenttts.results.spec_bank import attach_spec_bank
from agenttts.space.measure import Measure, MeasureName
from agenttts.space.units import query_flops, query_units
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.dataset.inputs import NewInput
from pipelines.errors import DatasetError, ReplayMiss, SpecError
from pipelines.policy import Policy
from pipelines.runtime.outcomes import ExampleOutcome, missing_example
from pipelines.runtime.pace import AT_ONCE, Pace, PacedQueries
from pipelines.runtime.policies import PolicyOutcome, PolicyRunner
from pipelines.runtime.runtime import Runtime
from pipelines.runtime.streaming import WINDOW, in_order
from pipelines.servers.clients import ModelClients
from pipelines.servers.patience import Patience
from pipelines.servers.server import OnNotice
from pipelines.spec.pipeline import PipelineSpec

Answer: TypeAlias = dict[str, Any]
"""What `LoadedRun.run` returns for an input, JSON-able."""
STREAM_CACHE_BYTES = 32 << 20
"""Of samples that a store keeps in memory for a stream, whose prompts seldom come twice."""
_ROW_FAULTS = (SpecError, ReplayMiss, RecursionError)
"""What one row may raise: a template that fails on it, samples that nobody recorded, a field too deep."""


@dataclass(frozen=True)
class MeanCost:
    """What a query of a policy may cost on average.

    Attributes:
        amount: A finite number above 0.
        measure: What it is in: "units" or "usd".

    Raises:
        UserError: The amount is not such a number.
    """

    amount: float
    measure: MeasureName = "units"

    def __post_init__(self) -> None:
        if not isinstance(self.amount, numbers.Real) or not 0 < self.amount < math.inf:
            raise UserError(
                f"mean_units (--mean-units) is a finite number above 0, got {self.amount!r}; leave it out to "
                "hold a run's policy to its budget"
            )


async def answers(
    spec: PipelineSpec,
    chosen: Allocation | Policy,
    inputs: Iterable[NewInput],
    store: Store,
    *,
    mean: MeanCost | None = None,
    replay: bool = False,
    strict: bool = False,
    window: int = WINDOW,
    earlier: Iterable[Answer] = (),
    patience: Patience | None = None,
    environ: Mapping[str, str] = os.environ,
    on_notice: OnNotice | None = None,
) -> AsyncGenerator[Answer]:
    """Run an allocation or a policy on new inputs; no run pays.

    Args:
        spec: The pipeline.
        chosen: What to run.
        inputs: The inputs, read in a thread of its own as there is room in the window.
        store: The database that samples are read from and written to; the spec's bank is attached where it
            exists.
        mean: What a query of a policy may cost on average; None leaves its thresholds as they are.
        replay: Whether only recorded samples answer.
        strict: Whether an input that can't be run is an error; else its answer says why.
        window: Inputs that are read and not yet answered, at most. A policy whose mean cost is held has 32 at
            most.
        earlier: The answers to the inputs before these, in order: the thresholds go on from what they cost.
        patience: How long servers are waited for; None: `Patience()`.
        environ: The environment variables, which hold the servers' API keys.
        on_notice: Called with a line when a server is down, and when it is back.

    Yields:
        The answers, each as soon as it and those before it are there.

    Raises:
        UserError: A mean is given for an allocation, or a model lacks what its measure needs.
        DatasetError, SpecError, ReplayMiss: Where `strict`, an input can't be run.
        ServerDown: A server was down for too long; the answers before were yielded.
    """
    if mean is not None and not isinstance(chosen, Policy):
        raise UserError(
            "mean_units (--mean-units) lowers the thresholds of a policy, and an allocation has none; "
            "leave it out"
        )
    attach_spec_bank(spec, store)
    clients = None
    if not replay:
        clients = ModelClients(
            spec,
            rng=random.Random(0),
            patience=patience or Patience(),
            environ=environ,
            on_notice=on_notice,
        )
    runtime = Runtime(spec, store, clients, run_id=None, replay=replay)
    try:
        work = _work(runtime, chosen, mean, strict)
        for answer in earlier:
            work.repeat(answer)
        window = min(window, work.most_at_once or window)
        async with aclosing(in_order(inputs, work.begin, window=window)) as coming:
            async for answer in coming:
                work.end(answer)
                yield answer
    finally:
        if clients is not None:
            await clients.aclose()


class _Work(Protocol):
    """What is put to work on inputs in order.

    Attributes:
        most_at_once: Inputs under way at most; None: any number.
    """

    most_at_once: int | None

    def begin(self, row: NewInput) -> Coroutine[object, object, Answer]:
        """Return the work on the next input."""

    def end(self, answer: Answer) -> None:
        """Take note of the next answer in order."""

    def repeat(self, answer: Answer) -> None:
        """Take note of an answer that was there before, as of one that is given now."""


class _Fixed:
    """An allocation at work."""

    most_at_once: int | None = None

    def __init__(self, runtime: Runtime, allocation: Allocation, strict: bool) -> None:
        self._runtime, self._allocation, self._strict = runtime, allocation, strict

    def begin(self, row: NewInput) -> Coroutine[object, object, Answer]:
        """Return the work on the next input."""
        return self._answered(row)

    def end(self, answer: Answer) -> None:
        """Nothing follows from an answer."""

    repeat = end

    async def _answered(self, row: NewInput) -> Answer:
        if row.example is None:
            return _refused(row, row.problem or "", self._strict)
        try:
            outcome = await self._runtime.run_example(self._allocation, row.example, with_score=False)
        except _ROW_FAULTS as error:
            if self._strict:
                raise
            outcome = missing_example(row.example.id, (), _line(error))
        return _answer(row, outcome)


class _ByPolicy:
    """A policy at work, whose thresholds may be moved by what its queries cost."""

    most_at_once: int | None = None

    def __init__(self, runtime: Runtime, policy: Policy, mean: MeanCost | None, strict: bool) -> None:
        self._runner, self._spec, self._strict = PolicyRunner(runtime, policy), runtime.spec, strict
        self._paced: PacedQueries | None = None
        self._usd = mean is not None and Measure(self._spec, mean.measure).name == "usd"
        if mean is not None and policy.thresholds:  # without one there is nothing to move
            amount = mean.amount if self._usd else query_flops(self._spec, mean.amount)
            self._paced = PacedQueries(Pace(policy.thresholds, amount))
            self.most_at_once = AT_ONCE

    def begin(self, row: NewInput) -> Coroutine[object, object, Answer]:
        """Return the work on the next input, by the thresholds that are in force now."""
        paced = self._paced if row.example is not None else None
        return self._decided(row, None if paced is None else paced.begin())

    def end(self, answer: Answer) -> None:
        """Take note of what the next answer in order cost; an input that was not run is no query."""
        if self._paced is None or "n_rungs" not in answer:
            return
        units = answer["units"]
        flops = None if units is None else query_flops(self._spec, units)
        self._paced.end(answer["cost_usd"] if self._usd else flops)

    def repeat(self, answer: Answer) -> None:
        """Take note of an answer that was there before, as of one that is given now."""
        if self._paced is not None and "n_rungs" in answer:
            self._paced.begin()
        self.end(answer)

    async def _decided(self, row: NewInput, thresholds: tuple[float, ...] | None) -> Answer:
        if row.example is None:
            return _refused(row, row.problem or "", self._strict)
        try:
            ran = await self._runner.run_example(row.example, with_score=False, thresholds=thresholds)
        except _ROW_FAULTS as error:
            if self._strict:
                raise
            return {**_refused(row, _line(error), strict=False), **self._no_figures(thresholds)}
        return {**_answer(row, ran.outcome), **self._figures(ran)}

    def _figures(self, ran: PolicyOutcome) -> Answer:
        return {
            "confidence": ran.confidence,
            "n_rungs": ran.n_rungs,
            "n_samples": ran.n_samples,
            "units": None if ran.flops is None else round(query_units(self._spec, ran.flops), 3),
            "cost_usd": ran.cost_usd,
            "seconds": round(ran.seconds, 3),
            "thresholds": list(ran.thresholds),
            "stepped_back": list(ran.stepped_back),
        }

    def _no_figures(self, thresholds: tuple[float, ...] | None) -> Answer:
        in_force = self._runner.policy.thresholds if thresholds is None else thresholds
        nothing = {"confidence": None, "n_rungs": 1, "n_samples": 0, "units": None, "cost_usd": None}
        return {**nothing, "seconds": 0.0, "thresholds": list(in_force), "stepped_back": []}


def _work(runtime: Runtime, chosen: Allocation | Policy, mean: MeanCost | None, strict: bool) -> _Work:
    if isinstance(chosen, Policy):
        return _ByPolicy(runtime, chosen, mean, strict)
    return _Fixed(runtime, chosen, strict)


def _refused(row: NewInput, reason: str, strict: bool) -> Answer:
    if strict:
        raise DatasetError(reason)
    return _answer(row, missing_example(str(row.id), (), reason))


def _answer(row: NewInput, outcome: ExampleOutcome) -> Answer:
    return {
        "id": row.id,
        "output": outcome.output,
        "stages": {stage.stage: stage.value for stage in outcome.stages},
        "status": outcome.status,
        "reason": outcome.reason,
    }


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
