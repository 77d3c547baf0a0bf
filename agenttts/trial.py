"""A trial: its result as the search knows it, and how it is read back from the store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from datastore import records
from datastore.records import TrialPurpose, TrialStatus
from datastore.store import Store
from pipelines.allocation import Allocation


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
    allocation = Allocation.from_json(trial.allocation)
    means = {stage: mean(stage_scores.get(stage, ())) for stage in allocation}
    return result_of(trial, allocation, scores, means)


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of no values."""
    values = list(values)
    return math.fsum(values) / len(values) if values else None


def result_of(
    trial: records.Trial,
    allocation: Allocation,
    scores: Mapping[str, float | None],
    stage_scores: Mapping[str, float | None],
) -> TrialResult:
    """A trial's row with its allocation and its scores, as a TrialResult."""
    return TrialResult(
        number=trial.number,
        allocation=allocation,
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
