"""What a run chose, at work on one input at a time: the runtime of the search, with its bank and servers."""

from __future__ import annotations

import time
from dataclasses import dataclass

from agenttts.answering import MeanCost
from agenttts.results.served import ServedRequest, ServedStage, keep_served
from agenttts.service.problems import Problem, problem_of
from agenttts.service.requests import Trace
from agenttts.space.measure import Measure
from agenttts.space.units import query_flops, query_units
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.costs import known_sum
from pipelines.errors import CustomCodeFailed, DrawFailed
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.policy import Policy
from pipelines.runtime.outcomes import ExampleOutcome, StageOutcome
from pipelines.runtime.pace import Pace
from pipelines.runtime.policies import PolicyOutcome, PolicyRunner
from pipelines.runtime.runtime import Runtime
from pipelines.servers.streamed import TextStream
from pipelines.spec.files import spec_functions
from pipelines.stages.growing import is_streamable


@dataclass(frozen=True, kw_only=True)
class QueryCost:
    """What an answer took: samples of the bank included, but for the last three.

    Attributes:
        units: Of the budget; None where active parameters are not known.
        usd: US dollars; None without prices.
        prompt_tokens: Tokens read.
        generated_tokens: Tokens generated.
        n_samples: Samples used.
        samples_drawn: Samples that were paid for now.
        samples_reused: Samples that the bank had.
        calls: Requests to model servers now.
    """

    units: float | None
    usd: float | None
    prompt_tokens: int
    generated_tokens: int
    n_samples: int
    samples_drawn: int
    samples_reused: int
    calls: int


@dataclass(frozen=True, kw_only=True)
class Answered:
    """An input that was answered.

    Attributes:
        example_id: The input's own id, else the trace's.
        output: Of the last stage; None where no sample has a value.
        stages: The output of each stage.
        cost: What it took.
        seconds: From the start to the output.
        confidence: How sure a policy is; None without one.
        n_rungs: Rungs of a policy that were run; None for an allocation.
    """

    example_id: str
    output: JSON
    stages: dict[str, JSON]
    cost: QueryCost
    seconds: float
    confidence: float | None = None
    n_rungs: int | None = None


class Worker:
    """Runs an allocation or a policy on inputs, and stores each with its trace.

    Args:
        runtime: Runs the stages, with the service's store and the servers.
        store: The service's database.
        run_id: The run that chose it.
        chosen: What is run.
        mean: What a query of a policy may cost on average: its thresholds give way. None: they stand.
    """

    def __init__(
        self,
        runtime: Runtime,
        store: Store,
        run_id: str,
        chosen: Allocation | Policy,
        mean: MeanCost | None = None,
    ) -> None:
        self._runtime, self._store, self._run_id, self._chosen = runtime, store, run_id, chosen
        self._runner = PolicyRunner(runtime, chosen) if isinstance(chosen, Policy) else None
        self._pace: Pace | None = None
        self._usd = False
        if mean is not None and isinstance(chosen, Policy) and chosen.thresholds:
            self._usd = Measure(runtime.spec, mean.measure).name == "usd"
            amount = mean.amount if self._usd else query_flops(runtime.spec, mean.amount)
            self._pace = Pace(chosen.thresholds, amount)

    @property
    def is_streamable(self) -> bool:
        """Whether the output can be read while it is generated."""
        if not isinstance(self._chosen, Allocation):
            return False
        stage = self._runtime.spec.output_stage
        return is_streamable(stage, self._chosen[stage.name])

    async def answer(self, example: Example, trace: Trace, stream: TextStream | None = None) -> Answered:
        """Run the pipeline on an input.

        Args:
            example: The input.
            trace: The trace of its request.
            stream: Gets the text of the last stage's sample as it is drawn; None: nobody reads it.

        Raises:
            Problem: There is no answer.
        """
        began_at, started = time.time(), time.perf_counter()
        self._runtime.sampler.take_textless()  # what a search reports of them nobody asks for here
        try:
            outcome, ran = await self._outcome(example, stream)
        except Exception as error:
            reason = str(error) or type(error).__name__
            await self._keep(example, trace, began_at, started, None, None, None, reason)
            raise problem_of(error) from error
        cost = self._cost(outcome, ran)
        await self._keep(example, trace, began_at, started, outcome, ran, cost, outcome.reason)
        if outcome.status == "error":
            raise self._failed(outcome) from DrawFailed(outcome.reason or "no output", transient=False)
        return Answered(
            example_id=example.id,
            output=outcome.output,
            stages={stage.stage: stage.value for stage in outcome.stages},
            cost=cost,
            seconds=time.perf_counter() - started,
            confidence=None if ran is None else ran.confidence,
            n_rungs=None if ran is None else ran.n_rungs,
        )

    async def _outcome(
        self, example: Example, stream: TextStream | None
    ) -> tuple[ExampleOutcome, PolicyOutcome | None]:
        if self._runner is None:
            assert isinstance(self._chosen, Allocation)
            stream = stream if self.is_streamable else None
            own = await self._runtime.run_example(self._chosen, example, with_score=False, stream=stream)
            return own, None
        thresholds = None if self._pace is None else self._pace.thresholds
        ran = await self._runner.run_example(example, with_score=False, thresholds=thresholds)
        if self._pace is not None:
            self._pace.add((ran.cost_usd if self._usd else ran.flops) or 0.0)
        return ran.outcome, ran

    def _cost(self, outcome: ExampleOutcome, ran: PolicyOutcome | None) -> QueryCost:
        stages = outcome.stages
        flops = known_sum(s.flops for s in stages) if ran is None else ran.flops
        total = {
            name: sum(getattr(stage, name) for stage in stages) if ran is None else getattr(ran, name)
            for name in (
                "prompt_tokens",
                "generated_tokens",
                "n_samples",
                "samples_drawn",
                "samples_reused",
                "calls",
            )
        }
        return QueryCost(
            units=None if flops is None else query_units(self._runtime.spec, flops),
            usd=known_sum(s.cost_usd for s in stages) if ran is None else ran.cost_usd,
            **total,
        )

    def _failed(self, outcome: ExampleOutcome) -> Problem:
        """A stage has no output: by a function of the pipeline, or for want of a model's answer."""
        reason = outcome.reason or "a stage has no output"
        stage = next((s for s in self._runtime.spec.stages if s.name == outcome.stages[-1].stage), None)
        if stage is not None and stage.python is not None:
            return problem_of(CustomCodeFailed(reason))
        if stage is not None and any(spec_functions(stage)):  # whose words may be in the reason
            reason = f"{stage.name}: no output; the service's log says why"
        return Problem(502, "no_output", reason, kind="upstream_error")

    async def _keep(
        self,
        example: Example,
        trace: Trace,
        began_at: float,
        started: float,
        outcome: ExampleOutcome | None,
        ran: PolicyOutcome | None,
        cost: QueryCost | None,
        reason: str | None,
    ) -> None:
        """Store what became of a request, before anybody is told."""
        request = ServedRequest(
            trace_id=trace.trace_id,
            parent_id=trace.parent_id,
            example_id=example.id,
            began_at=began_at,
            seconds=time.perf_counter() - started,
            status="error" if outcome is None else outcome.status,
            reason=reason,
            n_rungs=None if ran is None else ran.n_rungs,
            units=None if cost is None else cost.units,
            cost_usd=None if cost is None else cost.usd,
            stages=() if outcome is None else tuple(map(_stage, outcome.stages)),
        )
        try:
            await keep_served(self._store, self._run_id, request)
        except Exception as error:
            raise problem_of(error) from error


def _stage(outcome: StageOutcome) -> ServedStage:
    return ServedStage(
        stage=outcome.stage,
        source=outcome.model,
        prompt_key=outcome.prompt_key,
        n_samples=outcome.n_samples,
        prompt_tokens=outcome.prompt_tokens,
        generated_tokens=outcome.generated_tokens,
        flops=outcome.flops,
        cost_usd=outcome.cost_usd,
        samples_drawn=outcome.samples_drawn,
        calls=outcome.calls,
        status=outcome.status,
        seconds=outcome.seconds,
    )
