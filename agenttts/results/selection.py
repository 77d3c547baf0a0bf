"""What a choice among trials does to its score, and what is left of the score when that is taken out.

The best of many scores is too high by luck, and a search adds to it: it tries what looks good on the very
examples that it scores on. How much luck a choice can hold is read off a bootstrap in which no trial is
better than another: examples are drawn anew and the trials' deviations from their own means are chosen from
by the same rule. Trials on a part of the examples count, too: they can't win, but those that were let grow
instead had luck on that part. Fresh examples, which no trial of the search saw, know nothing of that luck,
and both parts are weighed by their variances. The constants are fitted by `benchmarks/promises.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import NormalDist
from typing import Self

import numpy as np
import numpy.typing as npt

from agenttts.stats import Difference, Interval, Scores, Stream, mean_interval, stream_rng

_Floats = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]

N_RESAMPLES = 500
HIDDEN = 1.35
"""The luck of a search's choice over that of one among its trials, since scores proposed them."""
UNSURE = 0.5
"""The standard deviation of that luck between searches, as a share of it."""
LEVEL = 0.95
REQUIRED_LEVEL = 0.9
"""The one-sided level at which a score must be shown to reach a required one."""
_SCORES, _DIFFERENCES = (0.0, 0.0, 1.0, 1.0), (-1.0, 1.0)  # what is added to few scores, or differences
_NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True, eq=False)
class Scoreboard:
    """The scores of the trials that may win, example by example.

    Attributes:
        scores: Scores of shape [trial, example]; NaN where the trial was not scored on the example.
        fresh: Whether an example took no part in the search, of shape [example].
        is_default: Whether a trial is a default, of shape [trial].
        seed: The run's seed, which the bootstrap draws from.
        dropped: Scores of the trials that did not grow to all of the search's examples and can't win, of
            shape [dropped trial, example].
        dropped_default: Whether such a trial is a default.
    """

    scores: _Floats
    fresh: _Bools
    is_default: _Bools
    seed: int
    dropped: _Floats = field(default_factory=lambda: np.zeros((0, 0)))
    dropped_default: _Bools = field(default_factory=lambda: np.zeros(0, dtype=bool))

    @classmethod
    def of(
        cls,
        searched: Sequence[Scores],
        fresh: Sequence[Scores],
        is_default: Sequence[bool],
        seed: int,
        dropped: Sequence[tuple[Scores, bool]] = (),
    ) -> Self:
        """Build the scoreboard of trials.

        Args:
            searched: For each trial its scores on the search's examples, by id.
            fresh: For each trial its scores on fresh examples; empty where it has none.
            is_default: Whether each trial is a default.
            seed: The run's seed.
            dropped: Scores of the trials that did not grow to all examples, with whether it is a default.
        """
        search_ids, fresh_ids = (
            sorted({example_id for scores in scores_of for example_id in scores})
            for scores_of in (searched, fresh)
        )
        parts = [_table(searched, search_ids), _table(fresh, fresh_ids)]
        return cls(
            scores=np.concatenate(parts, axis=1),
            fresh=np.repeat([False, True], [part.shape[1] for part in parts]),
            is_default=np.array(is_default, dtype=bool),
            seed=seed,
            dropped=_table([scores for scores, _ in dropped], search_ids),
            dropped_default=np.array([is_one for _, is_one in dropped], dtype=bool),
        )

    @cached_property
    def known(self) -> _Bools:
        """Whether a trial was scored on an example, of shape [trial, example]."""
        return ~np.isnan(self.scores)

    @cached_property
    def n_fresh(self) -> npt.NDArray[np.int64]:
        """The number of fresh examples of each trial."""
        counts: npt.NDArray[np.int64] = (self.known & self.fresh).sum(axis=1)
        return counts

    @cached_property
    def search_means(self) -> _Floats:
        """Mean score of each trial on the examples of the search."""
        return _row_means(self.scores[:, ~self.fresh])

    @cached_property
    def levels(self) -> _Floats:
        """Mean score of each trial over all examples, by which trials are ranked.

        A fresh example that a trial lacks counts as its mean on the search's examples, plus the mean by which
        the trials that have the example lie above theirs on it.
        """
        deviations = np.where(self.known, self.scores - self.search_means[:, None], 0.0)
        n_having = self.known.sum(axis=0)
        effects = np.where(self.fresh & (n_having > 0), deviations.sum(axis=0) / np.maximum(n_having, 1), 0.0)
        filled = np.where(self.known, self.scores, self.search_means[:, None] + effects)
        levels: _Floats = filled[:, n_having > 0].mean(axis=1)
        return levels

    @cached_property
    def _noise(self) -> _Floats:
        """Deviations of the trials' means on resampled search examples, of shape [resample, trial].

        The dropped trials come last: on the examples that they were not scored on, they do not deviate.
        """
        scores = self.scores[:, ~self.fresh]
        count = scores.shape[1]
        known = ~np.isnan(scores)
        deviations = np.where(known, scores - self.search_means[:, None], 0.0)
        rng = stream_rng(self.seed, Stream.SELECTION)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=N_RESAMPLES).astype(np.float64)
        noise: _Floats = (weights @ deviations.T) / np.maximum(weights @ known.T, 1.0)
        if not len(self.dropped):
            return noise
        apart = np.nan_to_num(self.dropped - _row_means(self.dropped)[:, None])
        return np.concatenate([noise, (weights @ apart.T) / count], axis=1)

    @cached_property
    def _of_default(self) -> _Bools:
        """Whether a column of the noise is of a default."""
        return np.concatenate([self.is_default, self.dropped_default])

    @cached_property
    def luck(self) -> float:
        """The expected amount by which luck raises the best score on the search's examples."""
        if len(self._of_default) < 2:
            return 0.0
        return HIDDEN * max(0.0, float(self._noise.max(axis=1).mean()))

    @cached_property
    def luck_of_default(self) -> float:
        """The expected amount by which luck raises the best score of the defaults."""
        if self._of_default.sum() < 2:
            return 0.0
        return max(0.0, float(self._noise[:, self._of_default].max(axis=1).mean()))

    def claim(self, trial: int, *, of_defaults: bool = False) -> Interval:
        """Return the score of a trial that was chosen, corrected for the choice, with its 95 % interval.

        Args:
            trial: The index of the trial.
            of_defaults: Whether it was chosen among the defaults; else among all trials.
        """
        values = self.scores[trial]
        luck = self.luck_of_default if of_defaults else self.luck
        mean, std, count = self._corrected(values, luck)
        half = _NORMAL.inv_cdf((1 + LEVEL) / 2) * std
        low, high, present = mean - half, mean + half, _present(values)
        if _are_equal(present):  # of which a normal distribution knows nothing: the exact limits
            plain = mean_interval(present.tolist(), stream_rng(self.seed, Stream.SELECTION))
            assert plain is not None
            low, high = min(low, plain.low + mean - plain.mean), max(high, plain.high + mean - plain.mean)
        mean, low, high = (min(max(value, 0.0), 1.0) for value in (mean, low, high))
        return Interval(mean=mean, low=low, high=high, n=count)

    def difference(self, trial: int, default: int) -> Difference:
        """Return a chosen trial's score minus the best default's, paired, corrected for both choices.

        Args:
            trial: The index of the trial.
            default: The index of the default.
        """
        values = self.scores[trial] - self.scores[default]
        if trial == default:
            return Difference(mean=0.0, low=0.0, high=0.0, n=int(self.known[trial].sum()))
        mean, std, count = self._corrected(values, self.luck - self.luck_of_default, _DIFFERENCES)
        half = _NORMAL.inv_cdf((1 + LEVEL) / 2) * std
        return Difference(mean=mean, low=max(-1.0, mean - half), high=min(1.0, mean + half), n=count)

    def lower_bound(self, trial: int, level: float = REQUIRED_LEVEL) -> float:
        """Return the one-sided lower bound of a trial's score, corrected for the choice.

        Args:
            trial: The index of the trial.
            level: The level of the bound.
        """
        mean, std, count = self._corrected(self.scores[trial], self.luck)
        low, present = mean - _NORMAL.inv_cdf(level) * std, _present(self.scores[trial])
        if _are_equal(present):  # the exact limit for as many successes as examples
            low = min(low, mean - present[0] * (1 - (1 - level) ** (1 / count)))
        return low

    def bound_after(self, trial: int, n_more: int, level: float = REQUIRED_LEVEL) -> float:
        """Return the lower bound to expect once a trial is scored on more fresh examples, as high as so far.

        Args:
            trial: The index of the trial.
            n_more: The number of further fresh examples.
            level: The level of the bound.
        """
        mean, std, _ = self._corrected(self.scores[trial], self.luck)
        if not n_more:
            return self.lower_bound(trial, level)
        variance = _variance(_present(self.scores[trial]), _SCORES)
        return mean - _NORMAL.inv_cdf(level) / math.sqrt(1 / std**2 + n_more / variance)

    def paired(self, first: int, second: int) -> tuple[float, float, int]:
        """Compare two trials on the examples that both were scored on, without a correction.

        Args:
            first: The index of the first trial.
            second: The index of the second, whose scores are subtracted.

        Returns:
            The mean difference, its standard deviation over examples, and the number of examples.
        """
        values = self._gaps(first, second)
        count = len(values)
        if not count:
            return 0.0, 1.0, 0
        return float(values.mean()), float(values.std(ddof=1)) if count > 1 else 1.0, count

    def shortfall_bounds(self, cheaper: Sequence[int], best: int) -> list[float]:
        """Return the one-sided 95 % lower bounds of cheaper trials' scores minus the best one's, paired.

        They hold for all of them together (Bonferroni), where those that are far behind do not count: by more
        than sqrt(2 ln ln n) standard errors (Hansen, A Test for Superior Predictive Ability, 2005). That the
        best one is ahead by luck is not taken off, so the bounds err on the side of the best.

        Args:
            cheaper: The indices of the cheaper trials.
            best: The index of the best.
        """
        means, errors = [], []
        for index in cheaper:
            values = self._gaps(index, best)
            count = max(len(values), 1)
            means.append(float(values.mean()) if len(values) else 0.0)
            errors.append(math.sqrt(_variance(values, _DIFFERENCES) / count))
        far = math.sqrt(2 * math.log(math.log(max(self.scores.shape[1], 16))))
        n_near = sum(mean > -far * error for mean, error in zip(means, errors, strict=True))
        quantile = _NORMAL.inv_cdf(1 - (1 - LEVEL) / max(n_near, 1))
        return [mean - quantile * error for mean, error in zip(means, errors, strict=True)]

    def _gaps(self, first: int, second: int) -> _Floats:
        """The differences of two trials' scores, on the examples that both have."""
        return _present(self.scores[first] - self.scores[second])

    def _corrected(
        self, values: _Floats, luck: float, further: Sequence[float] = _SCORES
    ) -> tuple[float, float, int]:
        """Weigh the search's examples, less the luck, and the fresh ones: mean, its deviation, count."""
        search, fresh = _present(values[~self.fresh]), _present(values[self.fresh])
        variance = _variance(_present(values), further)
        parts = []
        if len(search):
            parts.append((float(search.mean()) - luck, variance / len(search) + (UNSURE * luck) ** 2))
        if len(fresh):
            parts.append((float(fresh.mean()), variance / len(fresh)))
        if not parts:  # no example has both scores: nothing is known
            return 0.0, 1.0, 0
        precision = sum(1 / v for _, v in parts)
        mean = sum(m / v for m, v in parts) / precision
        return mean, math.sqrt(1 / precision), len(search) + len(fresh)


def _variance(values: _Floats, further: Sequence[float]) -> float:
    """The variance of values, and at least what it is with further ones: few that are alike prove little."""
    own = float(values.var(ddof=1)) if len(values) > 1 else 0.0
    return max(own, float(np.concatenate([values, further]).var()))


def _are_equal(values: _Floats) -> bool:
    return bool(len(values)) and float(np.ptp(values)) == 0.0


def _present(values: _Floats) -> _Floats:
    present: _Floats = values[~np.isnan(values)]
    return present


def _table(scores_of: Sequence[Scores], ids: Sequence[str]) -> _Floats:
    """Lay out scores by trial and example, NaN where one is missing."""
    rows = [[scores.get(example_id) for example_id in ids] for scores in scores_of]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(ids))


def _row_means(scores: _Floats) -> _Floats:
    known = ~np.isnan(scores)
    means: _Floats = np.where(known, scores, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return means


def gain_of_knowing(lead: Sequence[float] | _Floats, std: Sequence[float] | _Floats) -> _Floats:
    """Return by how much knowing a difference better is expected to raise the score of a choice.

    Args:
        lead: By how much the leader is ahead of each challenger, as estimated.
        std: By how much each estimate is expected to move.

    Returns:
        The expected gains: std · (φ(z) - z·Φ(-z)) with z = lead / std (Frazier et al. 2009).
    """
    leads, stds = np.asarray(lead, dtype=np.float64), np.maximum(np.asarray(std, dtype=np.float64), 1e-12)
    z = leads / stds
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    tail = np.array([_NORMAL.cdf(-float(x)) for x in z])
    gains: _Floats = stds * (density - z * tail)
    return gains
