"""What an improvement brought: before and after, at one budget each, on the test split."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from agenttts.errors import UserError
from agenttts.result import SearchResult
from agenttts.results.trials import TrialResult
from agenttts.stats import Difference, Stream, paired_difference, stream_rng
from agenttts.tasktune.data.cost import SampleCost
from pipelines.allocation import Allocation
from pipelines.jsonvalues import JSON


@dataclass(frozen=True, kw_only=True)
class ImprovePhase:
    """A part of an improvement begins.

    Attributes:
        text: What is done in it.
    """

    text: str


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An allocation with its cost and its score.

    Attributes:
        allocation: The allocation.
        units: Its budget, in units per query.
        score: Its mean score on the test split, from 0 to 1.
    """

    allocation: Allocation
    units: float
    score: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Before and after at one budget, on the test split.

    Attributes:
        budget_units: The budget of both searches, in units per query.
        before: The winner of the search without the tuned models.
        after: The winner of the search with them.
        difference: The score after minus the score before, paired by example, with its 95 % interval.
        same: The cheapest allocation that, in the search with the tuned models, is above the winner before by
            a standard error on the same search examples; else the cheapest of many would be a lucky one. None
            where there is none.
        same_difference: The score of `same` minus the score before, paired by example; None without `same`.
    """

    budget_units: float
    before: Scored
    after: Scored
    difference: Difference
    same: Scored | None
    same_difference: Difference | None

    def to_json_dict(self) -> dict[str, JSON]:
        """JSON-able, with the allocations, units and scores side by side."""
        row: dict[str, JSON] = {"budget_units": self.budget_units}
        for name, one in (("before", self.before), ("after", self.after), ("same", self.same)):
            row[name] = None if one is None else one.allocation.to_dict()
            row[f"{name}_units"] = None if one is None else one.units
            row[f"{name}_score"] = None if one is None else one.score
            if name == "after":
                row["difference"] = asdict(self.difference)
        row["same_difference"] = None if self.same_difference is None else asdict(self.same_difference)
        return row


@dataclass(frozen=True, kw_only=True)
class TunedChoice:
    """A tuned model that the new search could choose.

    Attributes:
        parent: The model that was tuned.
        active_params: The number of parameters that are at work, base and adapter together; None where the
            spec does not say.
        rows: The number of training rows.
        score_before: The score of the parent on the held-out rows; None without such rows.
        score_after: The score of the tuned model on them; None without such rows.
        seconds: How long the tuning took.
        peak_bytes: The most memory that was in use.
    """

    parent: str | None
    active_params: float | None
    rows: int
    score_before: float | None
    score_after: float | None
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class Bought:
    """What the searches of an improvement paid for, and the rows that the tuning learnt from.

    Attributes:
        samples_drawn: The number of samples that were drawn.
        calls: The number of requests.
        flops: The FLOPs of what was drawn; None where active parameters are not known.
        generated_tokens: The number of tokens that were generated.
        rows: The number of rows of the dataset in each split.
    """

    samples_drawn: float = 0
    calls: float = 0
    flops: float | None = 0.0
    generated_tokens: float = 0
    rows: Mapping[str, int]

    def to_json_dict(self) -> dict[str, JSON]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """What tuning one stage brought.

    Attributes:
        path: The directory of dataset, adapters, the new pipeline and these figures.
        stage: The stage that was tuned.
        why: Why it was that stage.
        models: The tuned models by name.
        comparisons: Before and after, at each budget.
        data_cost: What the samples cost that the training rows were made of, and how many search examples
            the new searches had to do without; None where the dataset does not say.
        bought: What the searches paid for.
        seconds: How long all of it took.
    """

    path: Path
    stage: str
    why: str
    models: Mapping[str, TunedChoice]
    comparisons: Sequence[Comparison]
    data_cost: SampleCost | None
    bought: Bought
    seconds: float

    def to_json_dict(self) -> dict[str, JSON]:
        """JSON-able."""
        return {
            "path": str(self.path),
            "stage": self.stage,
            "why": self.why,
            "models": {name: asdict(one) for name, one in self.models.items()},
            "comparisons": [one.to_json_dict() for one in self.comparisons],
            "data_cost": None if self.data_cost is None else self.data_cost.model_dump(mode="json"),
            "bought": self.bought.to_json_dict(),
            "seconds": self.seconds,
        }


def compared(
    units: float, before: SearchResult, after: SearchResult, cheapest: SearchResult | None, seed: int
) -> Comparison:
    """Compare the winners of searches on the test split.

    Args:
        units: The budget of the first two searches, in units per query.
        before: The search without the tuned models.
        after: The search with them.
        cheapest: The search with them for the cheapest allocation above the winner before. None where it was
            not made, or no allocation reaches that.
        seed: Decides the bootstrap of the intervals.

    Raises:
        UserError: A search ended without a winner that is scored on the test split.
    """
    first, second = _tested(before), _tested(after)
    same = None if cheapest is None else _tested(cheapest)
    rng = stream_rng(seed, Stream.IMPROVEMENT)
    return Comparison(
        budget_units=units,
        before=_scored(first),
        after=_scored(second),
        difference=paired_difference(second.scores, first.scores, rng),
        same=None if same is None else _scored(same),
        same_difference=None if same is None else paired_difference(same.scores, first.scores, rng),
    )


def clearly_reached(result: SearchResult, ids: Collection[str]) -> float | None:
    """The score that is above a search's winner by a standard error.

    Args:
        result: The search.
        ids: The search examples whose scores count.

    Returns:
        The mean of the winner's scores on them plus its standard error, at most 1; None without scores.
    """
    trial = result.best_trial()
    scores = [] if trial is None else [s for i, s in trial.scores.items() if i in ids and s is not None]
    return min(1.0, float(np.mean(scores) + np.std(scores) / np.sqrt(len(scores)))) if scores else None


def _tested(result: SearchResult) -> TrialResult:
    """The winner's trial on the test split."""
    best = result.best
    for trial in result.confirmation:
        if best is not None and trial.purpose == "test" and trial.allocation == best.allocation:
            return trial
    raise UserError(f"run {result.run_id} ended without a winner scored on the test split; see its report")


def _scored(trial: TrialResult) -> Scored:
    return Scored(allocation=trial.allocation, units=trial.budget_units, score=float(trial.score or 0.0))
