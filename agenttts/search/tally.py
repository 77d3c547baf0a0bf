"""The outcomes of one trial as they come: their sums, and their rows in the store.

An outcome itself is not kept: with its texts and its stages it takes kilobytes. A few numbers for each
example are.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agenttts.results.byexample import CostsByExample, ExampleIds, ScoresByExample
from agenttts.results.trials import QueryCost
from agenttts.search.events import TrialProgress
from agenttts.stats import ExactSum
from datastore import records
from datastore.records import ExampleScore, PolicyResult, StageResult
from datastore.store import Store
from pipelines.examples import Example
from pipelines.runtime.outcomes import ExampleOutcome, StageOutcome
from pipelines.runtime.policies import PolicyOutcome
from pipelines.spec.pipeline import PipelineSpec

_MOST_REASONS = 1000  # told apart; some hold a part of the example


@dataclass(frozen=True, kw_only=True)
class TrialRows:
    """Outcomes of some examples of a trial as rows of the store.

    Attributes:
        scores: A score for each example.
        stages: A result for each of their stages.
        policies: Of a policy's trial, how far each example went.
    """

    scores: list[ExampleScore] = field(default_factory=list)
    stages: list[StageResult] = field(default_factory=list)
    policies: list[PolicyResult] = field(default_factory=list)


class Tally:
    """What the outcomes of one trial come to so far.

    Args:
        trial: The trial as it was begun.
        spec: The pipeline.
        examples: The examples that it is planned for, of which it is run on the first.
        n_examples: How many of them it is to be run on now.

    Attributes:
        started: The trial as it was begun.
    """

    def __init__(
        self, trial: records.Trial, spec: PipelineSpec, examples: Sequence[Example], n_examples: int
    ) -> None:
        self.started = trial
        self._spec = spec
        self._ids = ExampleIds.of(examples)
        self._n_examples = n_examples
        unknown = [math.nan] * n_examples
        self._scores, self._flops, self._usd = (array("d", unknown) for _ in range(3))
        self._is_done = bytearray(n_examples)
        self._done = self._missing = self._drawn = self._reused = self._calls = 0
        self._prompt_tokens = self._generated_tokens = 0
        self._score_sum, self._flops_sum, self._usd_sum = _KnownSum(), _KnownSum(), _KnownSum()
        self._stage_sums = {stage.name: ExactSum() for stage in spec.stages}
        self._reasons: Counter[str | None] = Counter()

    def has(self, example_id: str) -> bool:
        """Return whether the outcome of an example was added."""
        return bool(self._is_done[self._ids.places[example_id]])

    def add(self, ran: ExampleOutcome | PolicyOutcome) -> None:
        """Add the outcome of one example."""
        outcome = ran.outcome if isinstance(ran, PolicyOutcome) else ran
        parts = (ran,) if isinstance(ran, PolicyOutcome) else outcome.stages
        place = self._ids.places[outcome.example_id]
        self._is_done[place] = 1
        self._done += 1
        for part in parts:
            self._drawn += part.samples_drawn
            self._reused += part.samples_reused
            self._calls += part.calls
            self._prompt_tokens += part.prompt_tokens
            self._generated_tokens += part.generated_tokens
            self._usd_sum.add(part.cost_usd)
        for stage in outcome.stages:
            if stage.score is not None:
                self._stage_sums[stage.stage].add(stage.score)
        if outcome.score is None:
            self._missing += 1
            if outcome.reason in self._reasons or len(self._reasons) < _MOST_REASONS:
                self._reasons[outcome.reason] += 1
            return
        self._scores[place] = outcome.score
        self._score_sum.add(outcome.score)
        for part in parts:
            self._flops_sum.add(part.flops)
        cost = QueryCost.of(outcome.stages)
        self._flops[place] = math.nan if cost.flops is None else cost.flops
        self._usd[place] = math.nan if cost.usd is None else cost.usd

    def restore(self, n_run: int, store: Store) -> None:
        """Add the outcomes of the first examples, which were run before, as the store has them.

        The requests are those of the trial's row, since results do not tell them.

        Args:
            n_run: How many examples.
            store: The store of the trial.
        """
        by_example: dict[str, list[StageOutcome]] = {}
        for result in store.stage_results(self.started.trial_id):
            by_example.setdefault(result.example_id, []).append(_restored(result))
        scores = store.scores(self.started.trial_id)
        for example_id in self._ids.first(n_run):
            score = scores[example_id]
            self.add(
                ExampleOutcome(
                    example_id=example_id,
                    stages=tuple(by_example.get(example_id, ())),
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
            n_done=self._done,
            n_missing=self._missing,
            samples_drawn=self._drawn,
            samples_reused=self._reused,
            calls=self._calls,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            cost_usd=self._usd_sum.total,
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
        n_scored, flops, score = self._done - self._missing, self._flops_sum.total, self._score_sum.total
        failed = self._missing > max_error_rate * n_run or not n_scored
        return replace(
            self.started,
            status="failed" if failed else "partial" if partial else "complete",
            score=None if failed or score is None else score / n_scored,
            n_scored=n_scored,
            n_missing=self._missing,
            flops_per_query=None if flops is None or not n_scored else flops / n_scored,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            cost_usd=self._usd_sum.total,
            samples_drawn=self._drawn,
            samples_reused=self._reused,
            calls=self._calls,
            error=self._error(max_error_rate, n_run) if failed else None,
        )

    def scores(self, n_run: int) -> Mapping[str, float | None]:
        """Return the scores of the first examples, which were run, by id; None where an example is missing.

        Args:
            n_run: How many examples.
        """
        return ScoresByExample(self._ids, self._scores[:n_run])

    def stage_scores(self) -> dict[str, float | None]:
        """Return the mean of each stage's own metric, by stage; None for a stage without scores."""
        return {stage: scores.mean for stage, scores in self._stage_sums.items()}

    def costs(self) -> Mapping[str, QueryCost]:
        """Return what each scored example took, by its id; empty for a policy's trial."""
        if self.started.policy is not None:
            return {}
        return CostsByExample(self._ids, self._scores, self._flops, self._usd)

    def rows(self, results: Iterable[ExampleOutcome | PolicyOutcome]) -> TrialRows:
        """Return outcomes as rows of the store.

        Args:
            results: The outcomes of some of the examples.
        """
        rows, trial_id = TrialRows(), self.started.trial_id
        for ran in results:
            outcome = ran.outcome if isinstance(ran, PolicyOutcome) else ran
            if isinstance(ran, PolicyOutcome):
                rows.policies.append(_policy_row(trial_id, ran))
            rows.stages.extend(self._stage_row(outcome.example_id, stage) for stage in outcome.stages)
            rows.scores.append(
                ExampleScore(
                    trial_id=trial_id,
                    example_id=outcome.example_id,
                    score=outcome.score,
                    status=outcome.status,
                    reason=outcome.reason,
                )
            )
        return rows

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
        (reason, count), *_ = sorted(self._reasons.items(), key=lambda item: (-item[1], str(item[0])))
        return (
            f"{self._missing} of {n_run} examples are missing, more than {max_error_rate:.0%}; "
            f"{count} of them for: {reason}"
        )


class _KnownSum:
    """A running sum of amounts; None once one of them is not known, as `pipelines.costs.known_sum`."""

    def __init__(self) -> None:
        self._sum: ExactSum | None = ExactSum()

    def add(self, amount: float | None) -> None:
        if amount is None:
            self._sum = None
        elif self._sum is not None:
            self._sum.add(amount)

    @property
    def total(self) -> float | None:
        return None if self._sum is None else self._sum.total


def _policy_row(trial_id: str, ran: PolicyOutcome) -> PolicyResult:
    return PolicyResult(
        trial_id=trial_id,
        example_id=ran.outcome.example_id,
        n_rungs=ran.n_rungs,
        rung=ran.rung,
        confidence=ran.confidence,
        n_samples=ran.n_samples,
        flops=ran.flops,
        cost_usd=ran.cost_usd,
        seconds=ran.seconds,
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
