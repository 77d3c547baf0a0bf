"""Running a pipeline: an Allocation and an Example in, each stage's outcome and the score out.

A fault of a server, a sample that can't be aggregated, a user's function that raises: the example is missing,
with the reason. Which examples are run, and what their scores say, is left to the caller, as is keeping them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace

from pipelines.allocation import Allocation, StageChoice, StageOption
from pipelines.errors import AggregationFailed, CustomCodeFailed, DrawFailed, ReplayMiss
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.policy import StagePlan
from pipelines.runtime.calls import FunctionCaller
from pipelines.runtime.outcomes import (
    ExampleOutcome,
    Ledger,
    PlannedOutcome,
    StageOutcome,
    missing_example,
)
from pipelines.runtime.payments import SampleBank, SpendGate
from pipelines.runtime.sampler import Sampler
from pipelines.runtime.values import Outputs, StageValues, aggregated, candidates_of
from pipelines.servers.clients import ModelClients
from pipelines.servers.streamed import TextStream
from pipelines.servers.wire import ContextOverflow
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.variants import BuiltinMetric, MetricSpec, Refine, Verifier
from pipelines.stages import metrics, prompts
from pipelines.stages.ballots import Ballots
from pipelines.stages.counts import Count

MISSING = (DrawFailed, AggregationFailed, CustomCodeFailed)


class Runtime:
    """Runs the pipeline of a spec, with samples from a store and, where those do not reach, from its servers.

    clients None, or replay: nothing is drawn. run_id: the run that pays (None: none does). gate: asked before
    every request that costs something.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        store: SampleBank,
        clients: ModelClients | None,
        *,
        run_id: str | None,
        replay: bool = False,
        gate: SpendGate | None = None,
    ) -> None:
        self.spec = spec
        self.sampler = Sampler(spec, store, clients, run_id=run_id, replay=replay, gate=gate)
        grace = None if clients is None or replay else clients.grace
        self.caller = FunctionCaller(store, run_id=run_id, gate=gate, grace=grace)
        self._values = StageValues(self.sampler, self.caller)
        self._stages = {stage.name: stage for stage in spec.stages}

    @property
    def n_at_once(self) -> int:
        """How many examples keep the servers busy when they are run at once: twice the most requests in
        flight, and a thousand at least, which is what look-ups in the store share.
        """
        return max(1024, 2 * self.sampler.most_in_flight)

    def use(self, spec: PipelineSpec) -> None:
        """Go on with a spec that has further prompts, and the same stages and models.

        Args:
            spec: The spec.
        """
        self.spec = spec
        self._stages = {stage.name: stage for stage in spec.stages}

    async def run_example(
        self,
        allocation: Allocation,
        example: Example,
        *,
        with_score: bool = True,
        stream: TextStream | None = None,
    ) -> ExampleOutcome:
        """Every stage in order, and the score of the last one's output.

        with_score: off for inputs without a gold value. stream: gets the text of the last stage's sample as
        it is drawn, where it is one (see `stages.growing`). Raises ConfigurationError, SpendRefused,
        ReplayMiss, SpecError (a template fails) and StoreError; every other fault is the outcome's `reason`.
        """
        outputs: dict[str, JSON] = {}
        done: list[StageOutcome] = []
        for stage in self.spec.stages:
            own = stream if stage is self.spec.output_stage else None
            choice = allocation[stage.name]
            outcome = await self.stage_outcome(
                stage, choice, example, outputs, with_score=with_score, stream=own
            )
            done.append(outcome)
            if outcome.status == "error":
                return missing_example(example.id, done, f"{stage.name}: {outcome.reason}")
            outputs[stage.name] = outcome.value
        return await self.scored(done, example, with_score=with_score)

    async def scored(
        self, stages: Sequence[StageOutcome], example: Example, *, with_score: bool = True
    ) -> ExampleOutcome:
        """The outcome of an example whose stages have all run, with the score of the last one's output."""
        output, score = stages[-1].value, None
        if with_score:
            try:
                score = await _score(self.spec.metric, output, example)
            except CustomCodeFailed as error:
                return missing_example(example.id, stages, str(error))
            if score is None:
                reason = "the example has no gold value for the metric"
                return missing_example(example.id, stages, reason)
        return ExampleOutcome(
            example_id=example.id, stages=tuple(stages), output=output, score=score, status="ok", reason=None
        )

    async def look_up(
        self, stage: StageSpec, option: StageOption, nodes: Sequence[tuple[Example, Outputs]]
    ) -> None:
        """Have the bank look up the samples of a stage for many examples at once; nothing is returned."""
        stage = stage.prompted(option.prompt)
        if isinstance(stage.aggregator_for(option), Refine):
            return
        contents = (prompts.render(stage, example, outputs) for example, outputs in nodes)
        await self.sampler.look_up(option.model, contents, stage.sampling)

    async def stage_outcome(
        self,
        stage: StageSpec | str,
        choice: StageChoice,
        example: Example,
        outputs: Outputs,
        *,
        with_score: bool = True,
        stream: TextStream | None = None,
    ) -> StageOutcome:
        """One stage, given the outputs of the stages it takes as inputs. Raises as `run_example` does."""
        stage = (self._stages[stage] if isinstance(stage, str) else stage).prompted(choice.prompt)
        ledger = Ledger(self.spec)
        value = self._values.value(stage, choice, example, outputs, ledger, stream)
        return await _outcome(stage, choice, example, outputs, ledger, value, with_score=with_score)

    async def prefixes(
        self,
        stage: StageSpec,
        choice: StageChoice,
        example: Example,
        outputs: Outputs,
        first: int = 1,
    ) -> list[StageOutcome]:
        """The outcomes of the first n samples for n from `first` to `choice.n_samples`, each parsed once.

        Where a function of the user's or a fuser's answer is needed for each n, only the last. Raises as
        `run_example` does; a fault is in the outcomes.
        """
        stage, aggregator = stage.prompted(choice.prompt), stage.aggregator_for(choice.option)
        if isinstance(aggregator, Verifier):
            return await self._verified_prefixes(stage, choice, example, outputs, first)
        if not aggregator.is_free:
            return [await self.stage_outcome(stage, choice, example, outputs)]
        content = prompts.render(stage, example, outputs)
        try:
            drawn = await self._values.samples(
                stage, choice.model, content, choice.n_samples, Ledger(self.spec)
            )
        except MISSING:
            return [await self.stage_outcome(stage, choice, example, outputs)]
        candidates, count = candidates_of(stage, drawn, example), Count.of(aggregator)
        ballots = None if count is None else Ballots.of(stage, count, example)
        outcomes = []
        for n, candidate in enumerate(candidates, 1):
            if ballots is not None:
                ballots.add(candidate)
            if n < first:
                continue
            ledger = Ledger(self.spec)
            banked = replace(drawn, samples=drawn.samples[:n], n_drawn=0, n_reused=n, calls=0)
            ledger.add(choice.model, banked)
            if ballots is None or count is None:
                value = aggregated(stage, candidates[:n], example, outputs)
            else:
                value = _ready(ballots.output(count))
            own = replace(choice, n_samples=n)
            outcomes.append(await _outcome(stage, own, example, outputs, ledger, value))
        return outcomes

    async def planned_outcome(
        self,
        stage: StageSpec,
        plan: StagePlan,
        example: Example,
        outputs: Outputs,
        *,
        with_score: bool = True,
    ) -> PlannedOutcome:
        """One stage of a policy's rung: samples in chunks until the plan's stop.

        A stage that takes no vote is run as `stage_outcome` runs it. Raises as `run_example` does.
        """
        ledger, choice, stage = Ledger(self.spec), plan.choice, stage.prompted(plan.choice.prompt)
        count = Count.of(stage.aggregator_for(choice.option), plan.vote)
        if count is None:
            value = self._values.value(stage, choice, example, outputs, ledger)
            outcome = await _outcome(stage, choice, example, outputs, ledger, value, with_score=with_score)
            return PlannedOutcome(outcome=outcome, ledger=ledger)
        ballots = Ballots.of(stage, count, example)
        value = self._voted(stage, plan, count, ballots, example, outputs, ledger)
        outcome = await _outcome(stage, choice, example, outputs, ledger, value, with_score=with_score)
        if outcome.status == "ok":
            outcome = replace(outcome, n_samples=ballots.n_samples)
        return PlannedOutcome(
            outcome=outcome,
            ledger=ledger,
            features=ballots.features(count),
            steps_back=ballots.steps_back(count),
        )

    async def _voted(
        self,
        stage: StageSpec,
        plan: StagePlan,
        count: Count,
        ballots: Ballots,
        example: Example,
        outputs: Outputs,
        ledger: Ledger,
    ) -> JSON:
        """What the samples drawn by the plan's stop come to; they are left in the ballots."""
        content, most = prompts.render(stage, example, outputs), plan.choice.n_samples
        while not ballots.stops(count, plan.stop, most):
            n = ballots.next_check(count, plan.stop, most)
            drawn = await self._values.samples(stage, plan.choice.model, content, n, ledger)
            new = replace(drawn, samples=drawn.samples[ballots.n_samples :])
            for candidate in candidates_of(stage, new, example):
                ballots.add(candidate)
        return ballots.output(count)

    async def _verified_prefixes(
        self, stage: StageSpec, choice: StageChoice, example: Example, outputs: Outputs, first: int
    ) -> list[StageOutcome]:
        judged = []
        for n in range(first, choice.n_samples + 1):
            try:
                judged.append(await self.stage_outcome(stage, replace(choice, n_samples=n), example, outputs))
            except ReplayMiss as miss:
                miss.available = n - 1
                raise
        return judged


async def _outcome(
    stage: StageSpec,
    choice: StageChoice,
    example: Example,
    outputs: Outputs,
    ledger: Ledger,
    coming: Awaitable[JSON],
    *,
    with_score: bool = True,
) -> StageOutcome:
    """The outcome of a value that is still to come; a fault on the way to it is the outcome's reason."""
    value, score, reason = None, None, None
    started = time.perf_counter()
    try:
        value = await coming
        if with_score and stage.metric is not None:
            score = await _score(stage.metric, value, example)
    except MISSING as error:
        value, reason = None, str(error)
    except ContextOverflow as error:
        if not stage.input_names:
            raise  # such a prompt is the example's own: the preflight's affair
        value, reason = None, str(error)
    return StageOutcome(
        stage=stage.name,
        model=choice.model,
        n_samples=choice.n_samples,
        prompt_key=ledger.prompt_key,
        value=value,
        score=score,
        status="ok" if reason is None else "error",
        reason=_note(stage, example, outputs) if reason is None else reason,
        prompt_tokens=ledger.prompt_tokens,
        generated_tokens=ledger.generated_tokens,
        flops=ledger.flops,
        cost_usd=ledger.cost_usd,
        samples_drawn=ledger.n_drawn,
        samples_reused=ledger.n_reused,
        calls=ledger.calls,
        seconds=time.perf_counter() - started,
    )


async def _ready(value: JSON) -> JSON:
    return value


async def _score(metric: MetricSpec, output: JSON, example: Example) -> float | None:
    if isinstance(metric, BuiltinMetric):
        return metrics.score(metric, output, example)
    return await asyncio.to_thread(metrics.score, metric, output, example)


def _note(stage: StageSpec, example: Example, outputs: Outputs) -> str | None:
    """What a good result has to say: what its prompt lacked."""
    cut = prompts.truncations(stage, example, outputs) if stage.truncate else []
    return f"truncated: {'; '.join(cut)}" if cut else None
