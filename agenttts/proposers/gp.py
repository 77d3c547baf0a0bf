"""A Gaussian process that estimates the scores of untried allocations from the history.

The kernel compares two allocations stage by stage: their scores are the more correlated, the nearer the
logarithms of n are and where the option is the same. The length scale, and the degree to which stages
interact, are averaged over a small fixed grid, weighted by the likelihood of the trials' scores, so that the
same history gives the same estimate. The proposers choose which allocation to try.
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
_LENGTH_SCALES = (1.5, 3.0, 6.0)  # in log2 of n: at 3, counts a factor of 8 apart are unlike
_OPTION_CORRELATIONS = (0.1, 0.5, 0.8)  # of the scores of two options at one stage
_INTERACTIONS = (0.1, 0.5)  # share of the variance that belongs to the stages together
_NOISES = (0.003, 0.03)  # share of the variance that no curve explains
_UNLIKELY = 1e-3  # kernels this much less likely than the best are left out
_PRIOR_STD, _PRIOR_COUNT = 0.05, 2.0  # scores differ by this much, as sure as after so many trials


@dataclass(frozen=True)
class _Kernel:
    """Hyperparameters, from the grid above."""

    length_scale: float
    option_correlation: float
    interaction: float
    noise: float


@dataclass(frozen=True)
class _Fit:
    """A Gaussian process with one kernel.

    Attributes:
        kernel: The hyperparameters.
        log_likelihood: Log likelihood of the scores, up to a constant.
        mean: Prior mean of the scores.
        variance: Scale of the kernel.
        factor: Cholesky factor of the kernel of the known allocations, noise included.
        weights: The inverse of that kernel times the scores less the mean, of shape [allocation].
    """

    kernel: _Kernel
    log_likelihood: float
    mean: float
    variance: float
    factor: tuple[_Floats, bool]
    weights: _Floats


@dataclass(frozen=True)
class _StageFeatures:
    """The choices of several allocations at one stage, each field of shape [allocation]."""

    options: npt.NDArray[np.str_]
    log2_counts: _Floats


class Estimate:
    """Estimates the scores of allocations, given those of at least one allocation.

    Args:
        allocations: The allocations whose scores are known.
        scores: Their mean scores, 0 to 1.
        stds: Standard deviations of the scores, above 0 where a score rests on a part of the examples. Empty:
            all are 0.
    """

    def __init__(
        self, allocations: Sequence[Allocation], scores: Sequence[float], stds: Sequence[float] = ()
    ) -> None:
        self._known = _features(allocations)
        self._scores = np.asarray(scores, dtype=np.float64)
        std_array = np.asarray(stds, dtype=np.float64) if len(stds) else np.zeros(len(self._scores))
        self._score_noise = std_array**2 / max(float(self._scores.var()), _PRIOR_STD**2)
        grid = itertools.product(_LENGTH_SCALES, _OPTION_CORRELATIONS, _INTERACTIONS, _NOISES)
        fits = [self._fit(_Kernel(*values)) for values in grid]
        largest = np.max([fit.log_likelihood for fit in fits])
        chances = np.exp([fit.log_likelihood for fit in fits] - largest)
        likely = chances > _UNLIKELY
        self._fits = [fit for fit, is_likely in zip(fits, likely, strict=True) if is_likely]
        self._chances = chances[likely] / chances[likely].sum()

    def predict(self, allocations: Sequence[Allocation]) -> tuple[_Floats, _Floats]:
        """Return the expected scores of allocations and their standard deviations.

        Args:
            allocations: The allocations to estimate.

        Returns:
            The expected scores and the standard deviations, each of shape [allocation].
        """
        means, variances = self._each(allocations)
        mean: _Floats = self._chances @ means
        std: _Floats = np.sqrt(self._chances @ (variances + (means - mean) ** 2))
        return mean, std

    def expected_gain(self, allocations: Sequence[Allocation], best: float) -> _Floats:
        """Return the expected improvement of each allocation over a score.

        Args:
            allocations: The allocations to estimate.
            best: The score to exceed, 0 to 1.

        Returns:
            The expected excess over `best`, with 0 for falling short, of shape [allocation].
        """
        gain: _Floats = self.expected_gains(allocations, [best])[0]
        return gain

    def expected_gains(self, allocations: Sequence[Allocation], levels: Sequence[float]) -> _Floats:
        """Return the expected improvement of each allocation over each of several scores.

        Args:
            allocations: The allocations to estimate.
            levels: The scores to exceed.

        Returns:
            The expected excess over each level, of shape [level, allocation].
        """
        means, variances = self._each(allocations)
        std = np.sqrt(np.maximum(variances, 1e-18))
        gains = np.empty((len(levels), len(allocations)))
        for i, level in enumerate(levels):
            z = (means - level) / std
            density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
            gains[i] = self._chances @ ((means - level) * ndtr(z) + std * density)
        return gains

    def _each(self, allocations: Sequence[Allocation]) -> tuple[_Floats, _Floats]:
        """Return mean and variance under each likely kernel, each of shape [kernel, allocation]."""
        candidates = _features(allocations)
        means, variances = [], []
        for fit in self._fits:
            cross = _covariance(candidates, self._known, fit.kernel)
            unexplained = 1.0 - np.einsum("ij,ji->i", cross, cho_solve(fit.factor, cross.T))
            means.append(fit.mean + cross @ fit.weights)
            variances.append(fit.variance * np.maximum(unexplained, 0.0))
        return np.array(means), np.array(variances)

    def _fit(self, kernel: _Kernel) -> _Fit:
        """Fit the mean by generalised least squares, the variance with a weak prior at that of 5 points."""
        count = len(self._scores)
        noise = np.diag(kernel.noise + self._score_noise)
        factor = cho_factor(_covariance(self._known, self._known, kernel) + noise, lower=True)
        ones = np.ones(count)
        solved_ones = cho_solve(factor, ones)
        mean = float(solved_ones @ self._scores / (ones @ solved_ones))
        residuals = self._scores - mean
        weights = cho_solve(factor, residuals)
        variance = float((residuals @ weights + _PRIOR_COUNT * _PRIOR_STD**2) / (count + _PRIOR_COUNT))
        log_det = 2 * float(np.log(np.diag(factor[0])).sum())
        log_likelihood = -0.5 * ((count + _PRIOR_COUNT) * float(np.log(variance)) + log_det)
        return _Fit(kernel, log_likelihood, mean, variance, factor, weights)


def _features(allocations: Sequence[Allocation]) -> list[_StageFeatures]:
    """Return the choices of the allocations, stage by stage."""
    return [
        _StageFeatures(
            np.array([str(a[stage].option) for a in allocations]),
            np.log2(np.array([a[stage].n_samples for a in allocations], dtype=np.float64)),
        )
        for stage in allocations[0]
    ]


def _covariance(left: Sequence[_StageFeatures], right: Sequence[_StageFeatures], kernel: _Kernel) -> _Floats:
    """Return the correlation of scores, of shape [left, right]; 1 for an allocation with itself."""
    by_stage = []
    for a, b in zip(left, right, strict=True):
        same = a.options[:, None] == b.options[None, :]
        distance = (a.log2_counts[:, None] - b.log2_counts[None, :]) / kernel.length_scale
        by_stage.append(np.where(same, 1.0, kernel.option_correlation) * np.exp(-0.5 * distance**2))
    together = np.prod(by_stage, axis=0)
    alone = np.mean(by_stage, axis=0)
    covariance: _Floats = kernel.interaction * together + (1 - kernel.interaction) * alone
    return covariance
