"""What an LLM expects of a pipeline's options before any trial, and how far trials bear it out.

The LLM rates each option of each stage: the share of good inputs that it makes good outputs of, with one
sample and with the largest number. An allocation is expected to score the product of its stages' ratings. The
solver gets these expectations as uncertain scores (`SearchView.beliefs`). Trials correct their level and
their spread, widen their doubt by how far they were off, and drop them where the trials contradict them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agenttts.proposers import moves
from agenttts.proposers.base import Belief, SearchView
from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation, StageChoice, StageOption

_STD, _STD_COUNT = 0.1, 2.0  # expectations are off by this much, as sure as after so many trials
_SPREAD, _SPREAD_COUNT = 0.1, 2.0  # trials of that spread, so many, weigh as much as the trust in the slope
_LISTED = 1_500
_DRAWN = 200
_BEST, _OTHERS = 12, 24  # beliefs: of the allocations expected to be best, and of others
_UNRATED = 0.5


@dataclass(frozen=True)
class Rating:
    """How good an option of a stage is expected to be, as a share from 0 to 1.

    Attributes:
        one: With one sample.
        most: With the stage's largest number of samples.
    """

    one: float
    most: float


@dataclass(frozen=True)
class Prior:
    """The ratings of an LLM.

    Attributes:
        ratings: For each stage the ratings of its options; an option without one is taken for the mean of the
            others.
    """

    ratings: Mapping[str, Mapping[StageOption, Rating]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.ratings.values())

    def expected(self, space: SearchSpace, allocation: Allocation) -> float:
        """Return the score that the ratings come to, 0 to 1, as the product over the stages.

        Args:
            space: The allocations within the budget.
            allocation: The allocation.
        """
        shares = [
            self._share(stage.name, stage.max_samples, allocation[stage.name]) for stage in space.stages
        ]
        return float(np.prod(shares))

    def beliefs(self, view: SearchView) -> tuple[Belief, ...]:
        """Return what is expected of untried allocations, after what the trials say of these expectations.

        Scores are regressed on expectations, with a slope that is 1 as long as there are few trials. With
        k trials that are off by e, the doubt of each belief is the root of (2·0.1² + Σe²) / (2 + k), widened
        because beliefs that rest on the same ratings err alike.

        Args:
            view: What the proposer may know.

        Returns:
            The beliefs; none where trials that were expected to be better are worse.
        """
        if not self:
            return ()
        space = view.space
        scored = [trial for trial in (*view.scored, *view.partial) if trial.score is not None]
        scores = np.array([trial.score for trial in scored], dtype=np.float64)
        expected = np.array([self.expected(space, trial.allocation) for trial in scored])
        centre, level, slope, errors = 0.0, 0.0, 1.0, 0.0
        if len(scores):
            centre, level = float(expected.mean()), float(scores.mean())
            spread = float(((expected - centre) ** 2).sum())
            together = float(((expected - centre) * (scores - level)).sum())
            trust = _SPREAD_COUNT * _SPREAD**2
            slope = (together + trust) / (spread + trust)
            errors = float(((scores - level - slope * (expected - centre)) ** 2).sum())
        if slope <= 0:
            return ()
        chosen = self._chosen(view)
        n_ratings = max(1, sum(map(len, self.ratings.values())))
        alike = max(1.0, len(chosen) / n_ratings)
        std = float(np.sqrt(alike * (_STD_COUNT * _STD**2 + errors) / (_STD_COUNT + len(scores))))
        return tuple(
            Belief(a, float(np.clip(level + slope * (self.expected(space, a) - centre), 0.0, 1.0)), std)
            for a in chosen
        )

    def _chosen(self, view: SearchView) -> Sequence[Allocation]:
        """Return the untried allocations expected to be best, and others evenly down to the worst."""
        space = view.space
        rng = np.random.default_rng([view.seed, 0])
        every = moves.grid(space, _LISTED) or [moves.drawn(space, rng) for _ in range(_DRAWN)]
        known = view.tried.union(trial.allocation for trial in view.partial)
        untried = [a for a in dict.fromkeys(every) if a not in known]
        untried.sort(key=lambda a: -self.expected(space, a))
        best, others = untried[:_BEST], untried[_BEST:]
        step = max(1.0, len(others) / _OTHERS)
        return [*best, *(others[int(i * step)] for i in range(min(len(others), _OTHERS)))]

    def _share(self, stage: str, most: int, choice: StageChoice) -> float:
        ratings = self.ratings.get(stage, {})
        if not ratings:
            return _UNRATED
        rating = ratings.get(choice.option)
        if rating is None:
            one, largest = (
                float(np.mean([getattr(r, n) for r in ratings.values()])) for n in ("one", "most")
            )
            rating = Rating(one, largest)
        part = np.log2(choice.n_samples) / np.log2(most) if most > 1 else 0.0
        return rating.one + (rating.most - rating.one) * float(part)
