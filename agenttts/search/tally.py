"""The outcomes of one trial as they come, their sums, and their rows in the store."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from agenttts.results.trials import QueryCost, mean
from agenttts.search.events import TrialProgress
from datastore import records
from datastore.records import ExampleScore, PolicyResult, StageResult
from datastore.store import Store
from pipelines.costs import known_sum
from pipelines.examples import Example
from pipelines.runtime.outcomes import ExampleOutcome, StageOutcome
from pipelines.runtime.policies import PolicyOutcome
from pipelines.spec.pipeline import PipelineSpec


class Tally:
    """The outcomes of one trial so far, and their sums.

    Args:
        trial: The trial as it was begun.
        spec: The pipeline.
        n_examples: The number of examples of the trial.

    Attributes:
        outcomes: The outcomes so far, by example id.
        policy_outcomes: Of a policy's trial, how far the examples went, by example id.
        started: The trial as it was begun.
    """

    def __init__(self, trial: records.Trial, spec: PipelineSpec, n_examples: int) -> None:
        self.outcomes: dict[str, ExampleOutcome] = {}
        self.policy_outcomes: dict[str, PolicyOutcome] = {}
        self.started = trial
        self._spec = spec
        self._n_examples = n_examples
        self._missing = self._drawn = self._reused = self._calls = 0
        self._prompt_tokens = self._generated_tokens = 0
        self._costs_usd: list[float] | None = []

    def add(self, ran: ExampleOutcome | PolicyOutcome) -> None:
        """Add the outcome of one example."""
        outcome = ran.outcome if isinstance(ran, PolicyOutcome) else ran
        self.outcomes[outcome.example_id] = outcome
        if isinstance(ran, PolicyOutcome):
            self.policy_outcomes[outcome.example_id] = ran
        self._missing += outcome.score is None
        for part in self._parts(outcome):
            self._drawn += part.samples_drawn
            self._reused += part.samples_reused
            self._calls += part.calls
            self._prompt_tokens += part.prompt_tokens
            self._generated_tokens += part.generated_tokens
            if part.cost_usd is None:
                self._costs_usd = None
            elif self._costs_usd is not None:
                self._costs_usd.append(part.cost_usd)

    def restore(self, examples: Iterable[Example], store: Store) -> None:
        """Add the outcomes of examples that were run before, as the store has them.

        The requests are those of the trial's row, since results do not tell them.

        Args:
            examples: The examples.
            store: The store of the trial.
        """
        by_example: dict[str, list[StageOutcome]] = {}
        for result in store.stage_results(self.started.trial_id):
            by_example.setdefault(result.example_id, []).append(_restored(result))
        scores = store.scores(self.started.trial_id)
        for score in (scores[example.id] for example in examples):
            self.add(
                ExampleOutcome(
                    example_id=score.example_id,
                    stages=tuple(by_example.get(score.example_id, ())),
                    output=None,
                    score=score.score,
                    status=score.status,
                    reason=score.reason,
                )
            )
        self._calls = self.started.calls

    def progress(self) -> TrialProgress:
        """Return the progress of the trial, as an event."""
        return TrialProgress(
            number=self.started.number,
            n_examples=self._n_examples,
            n_done=len(self.outcomes),
            n_missing=self._missing,
            samples_drawn=self._drawn,
            samples_reused=self._reused,
            calls=self._calls,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            cost_usd=self._cost_usd,
        )

    def trial(self, max_error_rate: float, n_run: int, *, partial: bool = False) -> records.Trial:
        """Return the finished trial, without the time.

        Args:
            max_error_rate: The largest share of missing examples with which the trial still has a score.
            n_run: The number of examples that were run, the first ones.
            partial: Whether there are further examples that were not run.

        Returns:
            The trial: complete, partial, or failed when too many examples are missing.
        """
        scored = [o for o in self.outcomes.values() if o.score is not None]
        failed = self._missing > max_error_rate * n_run or not scored
        return replace(
            self.started,
            status="failed" if failed else "partial" if partial else "complete",
            score=None if failed else mean(o.score for o in scored if o.score is not None),
            n_scored=len(scored),
            n_missing=self._missing,
            flops_per_query=self._flops_per_query(scored),
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            cost_usd=self._cost_usd,
            samples_drawn=self._drawn,
            samples_reused=self._reused,
            calls=self._calls,
            error=self._error(max_error_rate, n_run) if failed else None,
        )

    def scores(self, examples: Sequence[Example]) -> dict[str, float | None]:
        """Return the scores of examples that were run, by example id; None where an example is missing."""
        return {example.id: self.outcomes[example.id].score for example in examples}

    def stage_scores(self) -> dict[str, float | None]:
        """Return the mean of each stage's own metric, by stage; None for a stage without scores."""
        scores: dict[str, list[float]] = {stage.name: [] for stage in self._spec.stages}
        for outcome in self.outcomes.values():
            for stage in outcome.stages:
                if stage.score is not None:
                    scores[stage.stage].append(stage.score)
        return {stage: mean(values) for stage, values in scores.items()}

    def costs(self) -> dict[str, QueryCost]:
        """Return what each scored example took, by its id; empty for a policy's trial."""
        if self.policy_outcomes:
            return {}
        return {
            outcome.example_id: QueryCost.of(outcome.stages)
            for outcome in self.outcomes.values()
            if outcome.score is not None
        }

    def rows(self, outcomes: Iterable[ExampleOutcome]) -> tuple[list[StageResult], list[ExampleScore]]:
        """Return outcomes as rows of the store.

        Args:
            outcomes: The outcomes of some of the examples.

        Returns:
            A row for each stage of each example, and a score for each example.
        """
        outcomes = list(outcomes)
        stage_rows = [self._stage_row(o.example_id, stage) for o in outcomes for stage in o.stages]
        score_rows = [
            ExampleScore(
                trial_id=self.started.trial_id,
                example_id=o.example_id,
                score=o.score,
                status=o.status,
                reason=o.reason,
            )
            for o in outcomes
        ]
        return stage_rows, score_rows

    def policy_rows(self, example_ids: Iterable[str]) -> list[PolicyResult]:
        """Return how far examples went in a policy, as rows of the store; none for an allocation's trial."""
        went = ((i, self.policy_outcomes[i]) for i in example_ids if i in self.policy_outcomes)
        return [
            PolicyResult(
                trial_id=self.started.trial_id,
                example_id=example_id,
                n_rungs=outcome.n_rungs,
                rung=outcome.rung,
                confidence=outcome.confidence,
                n_samples=outcome.n_samples,
                flops=outcome.flops,
                cost_usd=outcome.cost_usd,
                seconds=outcome.seconds,
            )
            for example_id, outcome in went
        ]

    def _parts(self, outcome: ExampleOutcome) -> Sequence[StageOutcome | PolicyOutcome]:
        """What counts the use of an example: its stages, or the policy that ran several rungs of them."""
        policy = self.policy_outcomes.get(outcome.example_id)
        return outcome.stages if policy is None else (policy,)

    def _flops_per_query(self, scored: Sequence[ExampleOutcome]) -> float | None:
        total = known_sum(part.flops for outcome in scored for part in self._parts(outcome))
        return None if total is None or not scored else total / len(scored)

    @property
    def _cost_usd(self) -> float | None:
        return None if self._costs_usd is None else math.fsum(self._costs_usd)

    def _stage_row(self, example_id: str, outcome: StageOutcome) -> StageResult:
        return StageResult(
            trial_id=self.started.trial_id,
            example_id=example_id,
            stage=outcome.stage,
            model_key=self._spec.source_key(outcome.stage, outcome.model),
            n_samples=outcome.n_samples,
            prompt_key=outcome.prompt_key,
            output=json.dumps(outcome.value) if outcome.status == "ok" else None,
            score=outcome.score,
            status=outcome.status,
            reason=outcome.reason,
            prompt_tokens=outcome.prompt_tokens,
            generated_tokens=outcome.generated_tokens,
            flops=outcome.flops,
            cost_usd=outcome.cost_usd,
            samples_drawn=outcome.samples_drawn,
            samples_reused=outcome.samples_reused,
        )

    def _error(self, max_error_rate: float, n_run: int) -> str:
        reasons = Counter(o.reason for o in self.outcomes.values() if o.score is None)
        (reason, count), *_ = sorted(reasons.items(), key=lambda item: (-item[1], str(item[0])))
        return (
            f"{self._missing} of {n_run} examples are missing, more than {max_error_rate:.0%}; "
            f"{count} of them for: {reason}"
        )


def _restored(result: StageResult) -> StageOutcome:
    """What a stage took and scored, as far as sums need it: without its output and its requests."""
    return StageOutcome(
        stage=result.stage,
        model=result.model_key,
        n_samples=result.n_samples,
        prompt_key=result.prompt_key,
        value=None,
        score=result.score,
        status=result.status,
        reason=result.reason,
        prompt_tokens=result.prompt_tokens,
        generated_tokens=result.generated_tokens,
        flops=result.flops,
        cost_usd=result.cost_usd,
        samples_drawn=result.samples_drawn,
        samples_reused=result.samples_reused,
        calls=0,
    )
