"""A trial: its result as the search knows it, and how it is read back from the store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Self

import numpy as np

from agenttts.space.measure import Measure
from agenttts.stats import Interval, mean_interval, normal_interval
from datastore import records
from datastore.records import TrialPurpose, TrialStatus
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.costs import known_sum
from pipelines.policy import Policy
from pipelines.runtime.outcomes import StageOutcome
from pipelines.spec.policyfile import policy_from_json

REPLAYED = -1
"""The number of a trial that belongs to no run: recorded samples answered it, without a call."""

INTERVAL_SEED = 20_250_801
"""Seed of intervals that are shown: the same scores get the same interval everywhere."""


@dataclass(frozen=True, slots=True)
class QueryCost:
    """What one example took, all stages together.

    Attributes:
        flops: FLOPs; None where active parameters are not known.
        usd: US dollars; None where a model has no price.
    """

    flops: float | None
    usd: float | None

    @classmethod
    def of(cls, stages: Sequence[records.StageResult | StageOutcome]) -> Self:
        """Add up what the stages took.

        Args:
            stages: The stages of the example, as they were run or as the store has them.
        """
        return cls(known_sum(stage.flops for stage in stages), known_sum(stage.cost_usd for stage in stages))


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """An allocation's scores on a set of examples, and what they took.

    Attributes:
        number: Counts from 0 in the order of decision within the run; REPLAYED for a trial of no run, which
            recorded samples answered.
        allocation: What was run; of a policy its first rung.
        purpose: What it was run for.
        split: The examples' split.
        proposer: Who proposed the allocation.
        reason: Why, in the proposer's words.
        status: "partial" while the trial is scored on a part of the examples, the first ones; it may grow.
        score: Mean over the scored examples, of a partial trial those so far; None when the trial failed or
            is not finished.
        scores: Score by example id; None where the example is missing.
        n_scored: Examples with a score.
        n_missing: Examples without one, after an error.
        budget_units: Planned cost per query, in the budget's measure: units, or US dollars.
        flops_per_query: Realised FLOPs, mean over the scored examples; None without any, or where active
            parameters are not known.
        prompt_tokens: Tokens that the allocation reads over all examples, banked or not.
        generated_tokens: Tokens that it writes over all examples, banked or not.
        cost_usd: What these tokens cost, a prompt once for each request that `max_n` makes; None when a model
            has no price.
        samples_drawn: Samples that this trial paid for.
        samples_reused: Samples that it took from the bank.
        calls: Requests that it paid for.
        stage_scores: Mean of each stage's own metric over the examples that have it; None where none has.
        error: Why the trial failed.
        policy: The policy that was run; None when the allocation was.
        costs: What each scored example took, by its id; empty for a policy, and where nothing was run.
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
    error: str | None = None
    policy: Policy | None = None
    costs: Mapping[str, QueryCost] = field(default_factory=dict)

    @property
    def n_run(self) -> int:
        """The number of examples that were run, with a score or missing."""
        return self.n_scored + self.n_missing

    @cached_property
    def interval(self) -> Interval | None:
        """The mean score with its 95 % interval, the same for the same scores; None unless complete."""
        if self.status != "complete":
            return None
        return mean_interval(self.scores.values(), np.random.default_rng(INTERVAL_SEED))

    def realised(self, measure: Measure) -> Interval | None:
        """Return the mean cost per query with its 95 % interval; None where it is not known.

        Args:
            measure: What the cost is measured in.
        """
        amounts = [measure.realised(cost.flops, cost.usd) for cost in self.costs.values()]
        known = [amount for amount in amounts if amount is not None]
        return normal_interval(known) if known and len(known) == len(amounts) else None


def merit(trial: TrialResult) -> tuple[float, float, int]:
    """Return a key that orders scored trials, larger is better: by score, then the cheaper, then the earlier.

    Args:
        trial: A trial with a score.

    Returns:
        The score, the negative planned units and the negative number.
    """
    return trial.score or 0.0, -trial.budget_units, -trial.number


def trial_id(run_id: str, number: int) -> str:
    """Return the id of a trial in the store.

    Args:
        run_id: The run.
        number: The trial's number within the run.
    """
    return f"{run_id}-{number:04d}"


def load_trial(store: Store, trial: records.Trial) -> TrialResult:
    """Load a trial with its scores from the store.

    Args:
        store: The database, open for reading.
        trial: The trial's row.
    """
    scores = {example_id: score.score for example_id, score in store.scores(trial.trial_id).items()}
    if trial.status == "partial":  # what a growth that was interrupted had stored comes last
        scores = dict(islice(scores.items(), trial.n_scored + trial.n_missing))
    allocation = Allocation.from_json(trial.allocation)
    by_stage: dict[str, list[float]] = {stage: [] for stage in allocation}
    by_example: dict[str, list[records.StageResult]] = {}
    for result in store.stage_results(trial.trial_id):
        if result.score is not None and result.example_id in scores:
            by_stage[result.stage].append(result.score)
        if scores.get(result.example_id) is not None:
            by_example.setdefault(result.example_id, []).append(result)
    stage_scores = {stage: mean(values) for stage, values in by_stage.items()}
    costs = {
        example_id: QueryCost.of(stages) for example_id, stages in by_example.items() if trial.policy is None
    }
    return result_of(trial, allocation, scores, stage_scores, costs)


def mean(values: Iterable[float]) -> float | None:
    """Compute a mean.

    Args:
        values: The values.

    Returns:
        The mean; None when there are no values.
    """
    values = list(values)
    return math.fsum(values) / len(values) if values else None


def result_of(
    trial: records.Trial,
    allocation: Allocation,
    scores: Mapping[str, float | None],
    stage_scores: Mapping[str, float | None],
    costs: Mapping[str, QueryCost],
) -> TrialResult:
    """Build a TrialResult from a trial's row, its allocation and its scores.

    Args:
        trial: The trial's row.
        allocation: The allocation.
        scores: Score by example id; None where the example is missing.
        stage_scores: Mean of each stage's own metric; None where no example has it.
        costs: What each scored example took.
    """
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
        policy=None if trial.policy is None else policy_from_json(trial.policy),
        costs=costs,
    )
