"""What the history says of allocations not yet tried: score curves over n, interpolated between trials.

A Gaussian process over allocations. Two allocations resemble one another stage by stage: more where the model
is the same and the logarithms of n are near. How much, and how far stages interact, is averaged over a small
fixed grid, weighted by the likelihood of the trials' scores, so that the same history gives the same
estimate. Which allocation to try is left to the rules.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve  # type: ignore[import-untyped]
from scipy.special import ndtr  # type: ignore[import-untyped]

from pipelines.allocation import Allocation

_Floats = npt.NDArray[np.float64]
_DOUBLINGS = (1.5, 3.0, 6.0)  # how many doublings of n until two counts are unlike
_OTHER_MODEL = (0.1, 0.5, 0.8)  # resemblance of two models at one stage
_INTERACTION = (0.1, 0.5)  # share of the variance that belongs to the stages together
_NOISE = (0.003, 0.03)  # share of the variance that no curve explains
_UNLIKELY = 1e-3  # shapes this much less likely than the best are left out
_PRIOR_SPREAD, _PRIOR_COUNT = 0.05, 2.0  # scores differ by this much, as sure as after so many trials


@dataclass(frozen=True)
class _Shape:
    doublings: float
    other_model: float
    interaction: float
    noise: float


@dataclass(frozen=True)
class _Fit:
    shape: _Shape
    likelihood: float  # natural logarithm, up to a constant
    mean: float
    scale: float  # variance
    factor: tuple[_Floats, bool]
    weights: _Floats


class Estimate:
    """Expected scores of allocations, given those of at least one allocation (`scores`, 0 to 1).

    spreads: standard deviations of the scores given, where they rest on a part of the examples.
    """

    def __init__(
        self, allocations: Sequence[Allocation], scores: Sequence[float], spreads: Sequence[float] = ()
    ) -> None:
        self._known = _features(allocations)
        self._scores = np.asarray(scores, dtype=np.float64)
        own = np.asarray(spreads, dtype=np.float64) if len(spreads) else np.zeros(len(self._scores))
        self._unsure = own**2 / max(float(self._scores.var()), _PRIOR_SPREAD**2)
        shapes = itertools.product(_DOUBLINGS, _OTHER_MODEL, _INTERACTION, _NOISE)
        fits = [self._fit(_Shape(*values)) for values in shapes]
        chances = np.exp([fit.likelihood for fit in fits] - np.max([fit.likelihood for fit in fits]))
        likely = chances > _UNLIKELY
        self._fits = [fit for fit, kept in zip(fits, likely, strict=True) if kept]
        self._chances = chances[likely] / chances[likely].sum()

    def predict(self, allocations: Sequence[Allocation]) -> tuple[_Floats, _Floats]:
        """Expected score and its standard deviation, each of shape (len(allocations),)."""
        means, variances = self._each(allocations)
        mean: _Floats = self._chances @ means
        spread: _Floats = np.sqrt(self._chances @ (variances + (means - mean) ** 2))
        return mean, spread

    def expected_gain(self, allocations: Sequence[Allocation], best: float) -> _Floats:
        """By how much each is expected to exceed `best`, falling short counting as 0."""
        gain: _Floats = self.expected_gains(allocations, [best])[0]
        return gain

    def expected_gains(self, allocations: Sequence[Allocation], levels: Sequence[float]) -> _Floats:
        """The same for several levels: [level, allocation]."""
        means, variances = self._each(allocations)
        spread = np.sqrt(np.maximum(variances, 1e-18))
        gains = np.empty((len(levels), len(allocations)))
        for i, level in enumerate(levels):
            z = (means - level) / spread
            density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
            gains[i] = self._chances @ ((means - level) * ndtr(z) + spread * density)
        return gains

    def _each(self, allocations: Sequence[Allocation]) -> tuple[_Floats, _Floats]:
        """Mean and variance under each likely shape: (shapes, allocations)."""
        asked = _features(allocations)
        means, variances = [], []
        for fit in self._fits:
            cross = _resemblance(asked, self._known, fit.shape)
            left = 1.0 - np.einsum("ij,ji->i", cross, cho_solve(fit.factor, cross.T))
            means.append(fit.mean + cross @ fit.weights)
            variances.append(fit.scale * np.maximum(left, 0.0))
        return np.array(means), np.array(variances)

    def _fit(self, shape: _Shape) -> _Fit:
        """Generalised least squares for the mean; the variance has a weak prior around that of 5 points."""
        count = len(self._scores)
        kernel = _resemblance(self._known, self._known, shape) + np.diag(shape.noise + self._unsure)
        factor = cho_factor(kernel, lower=True)
        ones = np.ones(count)
        solved_ones = cho_solve(factor, ones)
        mean = float(solved_ones @ self._scores / (ones @ solved_ones))
        left = self._scores - mean
        weights = cho_solve(factor, left)
        scale = float((left @ weights + _PRIOR_COUNT * _PRIOR_SPREAD**2) / (count + _PRIOR_COUNT))
        log_det = 2 * float(np.log(np.diag(factor[0])).sum())
        likelihood = -0.5 * ((count + _PRIOR_COUNT) * float(np.log(scale)) + log_det)
        return _Fit(shape, likelihood, mean, scale, factor, weights)


def _features(allocations: Sequence[Allocation]) -> list[tuple[npt.NDArray[np.str_], _Floats]]:
    """For each stage: models and log2 of the counts, both of shape (len(allocations),)."""
    return [
        (
            np.array([a[stage].model for a in allocations]),
            np.log2(np.array([a[stage].n_samples for a in allocations], dtype=np.float64)),
        )
        for stage in allocations[0]
    ]


def _resemblance(
    left: list[tuple[npt.NDArray[np.str_], _Floats]],
    right: list[tuple[npt.NDArray[np.str_], _Floats]],
    shape: _Shape,
) -> _Floats:
    """Covariance of scores in units of the variance: 1 for an allocation with itself."""
    by_stage = []
    for (models_a, logs_a), (models_b, logs_b) in zip(left, right, strict=True):
        same = models_a[:, None] == models_b[None, :]
        apart = (logs_a[:, None] - logs_b[None, :]) / shape.doublings
        by_stage.append(np.where(same, 1.0, shape.other_model) * np.exp(-0.5 * apart**2))
    together = np.prod(by_stage, axis=0)
    alone = np.mean(by_stage, axis=0)
    found: _Floats = shape.interaction * together + (1 - shape.interaction) * alone
    return found
