"""Running a policy on an example: chunks of samples while a stage is undecided, and rung after rung while
the outcome is not sure enough.

Samples are nested and banked as ever: a rung that uses the same model on the same prompt goes on from the
samples drawn, and what is counted is each sample and each prompt once. A fault on any rung makes the example
missing: the outcome of the rung before stood only because of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipelines.errors import SpecError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.policy import Policy, Rung, Standing, standing
from pipelines.reading.comparing import vote_key
from pipelines.runtime.outcomes import ExampleOutcome, Ledger, StageOutcome, missing_example
from pipelines.runtime.runtime import Runtime
from pipelines.stages.plans import policy_problem


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyOutcome:
    """What a policy made of an example, and what it took.

    Attributes:
        outcome: The outcome of the rung that stands, with its stages; on an error the stages of the rung that
            failed, up to it.
        n_rungs: How many rungs were run.
        rung: The rung whose outcome stands, from 0.
        confidence: How sure the outcome is, from 0 to 1; None on an error, and without a calibrated
            confidence.
        thresholds: Those that decided on further rungs.
        stepped_back: The stages of that rung whose weighted vote was counted as a plain one.
        n_samples: Samples used, banked or not, each once.
        flops: FLOPs of these samples and their prompts, each once; a fuser's and a verifier's included. None
            where active parameters are not known.
        cost_usd: US dollars of the same; None where a model has no price.
        prompt_tokens: Tokens of these prompts.
        generated_tokens: Tokens of these samples.
        samples_drawn: Samples that were drawn now.
        samples_reused: Samples that the bank had.
        calls: Requests that were answered now.
        seconds: From the first request to the outcome.
    """

    outcome: ExampleOutcome
    n_rungs: int
    rung: int
    confidence: float | None
    thresholds: tuple[float, ...]
    stepped_back: tuple[str, ...]
    n_samples: int
    flops: float | None
    cost_usd: float | None
    prompt_tokens: int
    generated_tokens: int
    samples_drawn: int
    samples_reused: int
    calls: int
    seconds: float


class PolicyRunner:
    """Runs one policy on examples.

    Args:
        runtime: Runs the stages, with its store, servers and limits.
        policy: The policy.
        clock: Seconds, monotonic.

    Raises:
        SpecError: The policy does not fit the runtime's pipeline.
    """

    def __init__(
        self, runtime: Runtime, policy: Policy, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        problem = policy_problem(runtime.spec, policy)
        if problem is not None:
            raise SpecError(problem)
        self.runtime = runtime
        self.policy = policy
        self._clock = clock

    async def run_example(
        self, example: Example, *, with_score: bool = True, thresholds: Sequence[float] | None = None
    ) -> PolicyOutcome:
        """Run the rungs until the outcome is sure enough, or there is no further one.

        Args:
            example: The example.
            with_score: Whether the output is scored; off for inputs without a gold value.
            thresholds: In the place of the policy's, as many; None for its own.

        Raises:
            ConfigurationError, SpendRefused, ReplayMiss, SpecError, StoreError: As `Runtime.run_example`;
                every other fault is the outcome's `reason`.
        """
        started, used = self._clock(), Ledger(self.runtime.spec)
        in_force = self.policy.thresholds if thresholds is None else tuple(thresholds)
        runs = list[_RungRun]()
        stands = Standing(rung=0, confidence=0.0)
        for number, rung in enumerate(self.policy.rungs):
            run = await self._run_rung(number, rung, example, used, with_score)
            runs.append(run)
            if run.fault is not None:
                stands = Standing(rung=number, confidence=0.0)
                break
            stands = standing([run.answer for run in runs], [run.confidence or 0.0 for run in runs])
            if number < len(in_force) and stands.confidence >= in_force[number]:
                break
        chosen = runs[stands.rung]
        if chosen.fault is not None:
            outcome = missing_example(example.id, chosen.stages, chosen.fault)
        else:
            outcome = await self.runtime.scored(chosen.stages, example, with_score=with_score)
        return PolicyOutcome(
            outcome=outcome,
            n_rungs=len(runs),
            rung=stands.rung,
            confidence=stands.confidence if self.policy.confidences and outcome.status == "ok" else None,
            thresholds=in_force,
            stepped_back=tuple(chosen.stepped_back),
            n_samples=used.n_samples,
            flops=used.flops,
            cost_usd=used.cost_usd,
            prompt_tokens=used.prompt_tokens,
            generated_tokens=used.generated_tokens,
            samples_drawn=used.n_drawn,
            samples_reused=used.n_reused,
            calls=used.calls,
            seconds=self._clock() - started,
        )

    async def _run_rung(
        self, number: int, rung: Rung, example: Example, used: Ledger, with_score: bool
    ) -> _RungRun:
        outputs: dict[str, JSON] = {}
        run, features = _RungRun(), list[float]()
        for stage in self.runtime.spec.stages:
            planned = await self.runtime.planned_outcome(
                stage, rung[stage.name], example, outputs, with_score=with_score
            )
            used.include(planned.ledger)
            run.stages.append(planned.outcome)
            if planned.outcome.status == "error":
                place = f"rung {number + 1}, {stage.name}" if len(self.policy.rungs) > 1 else stage.name
                run.fault = f"{place}: {planned.outcome.reason}"
                return run
            outputs[stage.name] = planned.outcome.value
            features += planned.features
            run.stepped_back += [stage.name] if planned.steps_back else []
        run.answer = vote_key(run.stages[-1].value)
        if self.policy.confidences:
            run.confidence = self.policy.confidences[number].of(features)
        return run


@dataclass(kw_only=True, slots=True)
class _RungRun:
    """The stages of a rung, and why it failed or what it answers."""

    stages: list[StageOutcome] = field(default_factory=list)
    stepped_back: list[str] = field(default_factory=list)
    fault: str | None = None
    answer: str | None = None
    confidence: float | None = None
