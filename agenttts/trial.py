"""A trial: its result as the search knows it, its rows in the store, and how outcomes add up to both.

Running examples, and what a fault means, is left to `evaluate`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from datastore import records
from datastore.records import ExampleScore, StageResult, TrialPurpose, TrialStatus
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.examples import Example
from pipelines.runtime import ExampleOutcome, StageOutcome
from pipelines.spec import PipelineSpec


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """An allocation's scores on a set of examples, and what they took.

    status: "pruned" when a race stopped it, clearly worse than the best; its scores are those until then.
    score: mean over the scored examples; None when the trial failed or is not finished.
    scores: by example id; None where the example is missing.
    budget_units: planned. flops_per_query: realised, mean over the scored examples; None without any.
    prompt_tokens, generated_tokens, cost_usd (None: a model has no price): what the allocation uses over all
    examples, banked or not. samples_drawn, calls: what this trial paid for; samples_reused came from the
    bank. stage_scores: mean of each stage's metric over the examples that have it; None where no example has.
    """

    number: int
    allocation: Allocation
    purpose: TrialPurpose
    split: str
    proposer: str
    reason: str
    status: TrialStatus
    score: float | None
    scores: Mapping[str, float | None]
    n_scored: int
    n_missing: int
    budget_units: float
    flops_per_query: float | None
    prompt_tokens: int
    generated_tokens: int
    cost_usd: float | None
    samples_drawn: int
    samples_reused: int
    calls: int
    stage_scores: Mapping[str, float | None]
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a trial is, and what it has taken so far."""

    number: int
    n_examples: int
    n_done: int
    n_missing: int
    samples_drawn: int
    samples_reused: int
    calls: int
    prompt_tokens: int
    generated_tokens: int
    cost_usd: float | None


def merit(trial: TrialResult) -> tuple[float, float, int]:
    """What makes a scored trial better than another: its score; of equals the cheaper, then the earlier."""
    return trial.score or 0.0, -trial.budget_units, -trial.number


def trial_id(run_id: str, number: int) -> str:
    return f"{run_id}-{number:04d}"


def load_trial(store: Store, trial: records.Trial) -> TrialResult:
    """A trial as it was evaluated, from the store."""
    scores = {example_id: score.score for example_id, score in store.scores(trial.trial_id).items()}
    stage_scores: dict[str, list[float]] = {}
    for result in store.stage_results(trial.trial_id):
        stage_scores.setdefault(result.stage, [])
        if result.score is not None:
            stage_scores[result.stage].append(result.score)
    order = Allocation.from_json(trial.allocation)
    means = {stage: _mean(stage_scores.get(stage, ())) for stage in order}
    return result_of(trial, scores, means)


class Tally:
    """The outcomes of one trial so far, and what they add up to."""

    def __init__(self, trial: records.Trial, spec: PipelineSpec, n_examples: int) -> None:
        self.outcomes: dict[str, ExampleOutcome] = {}
        self.started = trial
        self._spec = spec
        self._n_examples = n_examples
        self._missing = self._drawn = self._reused = self._calls = 0
        self._prompt_tokens = self._generated_tokens = 0
        self._costs_usd: list[float] | None = []

    def add(self, outcome: ExampleOutcome) -> None:
        self.outcomes[outcome.example_id] = outcome
        self._missing += outcome.score is None
        for stage in outcome.stages:
            self._drawn += stage.samples_drawn
            self._reused += stage.samples_reused
            self._calls += stage.calls
            self._prompt_tokens += stage.prompt_tokens
            self._generated_tokens += stage.generated_tokens
            if stage.cost_usd is None:
                self._costs_usd = None
            elif self._costs_usd is not None:
                self._costs_usd.append(stage.cost_usd)

    def progress(self) -> Progress:
        return Progress(
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

    def trial(self, max_error_rate: float, n_run: int, *, pruned: bool = False) -> records.Trial:
        """The finished trial, without the time; it was run on the first n_run examples."""
        scored = [o for o in self.outcomes.values() if o.score is not None]
        failed = self._missing > max_error_rate * n_run or not scored
        return replace(
            self.started,
            status="failed" if failed else "pruned" if pruned else "complete",
            score=None if failed else _mean(o.score for o in scored if o.score is not None),
            n_scored=len(scored),
            n_missing=self._missing,
            flops_per_query=_mean(math.fsum(stage.flops for stage in o.stages) for o in scored),
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            cost_usd=self._cost_usd,
            samples_drawn=self._drawn,
            samples_reused=self._reused,
            calls=self._calls,
            error=self._error(max_error_rate, n_run) if failed else None,
        )

    def scores(self, examples: Sequence[Example]) -> dict[str, float | None]:
        return {example.id: self.outcomes[example.id].score for example in examples}

    def stage_scores(self) -> dict[str, float | None]:
        found: dict[str, list[float]] = {stage.name: [] for stage in self._spec.stages}
        for outcome in self.outcomes.values():
            for stage in outcome.stages:
                if stage.score is not None:
                    found[stage.stage].append(stage.score)
        return {stage: _mean(values) for stage, values in found.items()}

    def rows(self, outcomes: Iterable[ExampleOutcome]) -> tuple[list[StageResult], list[ExampleScore]]:
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

    @property
    def _cost_usd(self) -> float | None:
        return None if self._costs_usd is None else math.fsum(self._costs_usd)

    def _stage_row(self, example_id: str, outcome: StageOutcome) -> StageResult:

        return StageResult(
            trial_id=self.started.trial_id,
            example_id=example_id,
            stage=outcome.stage,
            model_key=self._spec.model_key(outcome.model),
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


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return math.fsum(values) / len(values) if values else None


def result_of(
    trial: records.Trial, scores: Mapping[str, float | None], stage_scores: Mapping[str, float | None]
) -> TrialResult:
    """A trial's row with its scores, as a TrialResult."""
    return TrialResult(
        number=trial.number,
        allocation=Allocation.from_json(trial.allocation),
        purpose=trial.purpose,
        split=trial.split,
        proposer=trial.proposer,
        reason=trial.reason,
        status=trial.status,
        score=trial.score,
        scores=scores,
        n_scored=trial.n_scored,
        n_missing=trial.n_missing,
        budget_units=trial.budget_units,
        flops_per_query=trial.flops_per_query,
        prompt_tokens=trial.prompt_tokens,
        generated_tokens=trial.generated_tokens,
        cost_usd=trial.cost_usd,
        samples_drawn=trial.samples_drawn,
        samples_reused=trial.samples_reused,
        calls=trial.calls,
        stage_scores=stage_scores,
        error=trial.error,
    )
