"""A Gaussian process that estimates scores of allocations from cells: scores of single examples.

The score of an allocation on an example is the allocation's own level, plus what the example does to every
allocation, to similar ones and to this one alone. Allocations are the more alike, stage by stage, the nearer
the logarithms of n are and where the option is the same. What is estimated is the level, so that to be lucky
with these examples is not taken for merit; what two allocations share on the same examples cancels in their
difference. The hyperparameters are averaged over the likely ones of a small fixed grid, so that the same
history gives the same estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve  # type: ignore[import-untyped]
from scipy.special import ndtr  # type: ignore[import-untyped]
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from agenttts.proposers.evidence import Evidence
from agenttts.proposers.likeness import ALIKE, MIDDLE, MIDDLE_STD, Coder, Kernel, correlation, levels, spread
from pipelines.allocation import Allocation

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


_GRID: dict[str, tuple[float, ...]] = {
    "std": (0.03, 0.06, 0.12, 0.24),
    "option_correlation": (0.1, 0.5, 0.8),
    "interaction": (0.1, 0.5),
    "length_scale": (1.5, 3.0, 6.0),
    "own": (0.003, 0.03),
}
_SWEEPS = 2  # over the grid, one hyperparameter at a time
_UNLIKELY, _KERNELS = 0.05, 3  # kernels this much less likely than the best are left out; so many are kept
_JITTER = 1e-7


@dataclass(frozen=True)
class _Fit:
    """The Gaussian process under one kernel.

    Attributes:
        kernel: The kernel.
        log_likelihood: Log likelihood of the evidence, up to a constant.
        weights: What the levels of the known allocations add to a mean, of shape [known].
        precision: What they take from a covariance, of shape [known, known].
        inverse: The inverse of the covariance of the observations, of shape [observation, observation].
    """

    kernel: Kernel
    log_likelihood: float
    weights: _Floats
    precision: _Floats
    inverse: _Floats


@dataclass(frozen=True)
class Rivals:
    """Estimated scores of allocations beside that of a leader, each field of shape [kernel, allocation].

    Attributes:
        means: The expected scores less the leader's.
        variances: The variances of these differences.
        chances: The weight of each kernel, of shape [kernel].
    """

    means: _Floats
    variances: _Floats
    chances: _Floats

    def gains(self, stds: _Floats | None = None) -> _Floats:
        """Return the expected excess over the leader, of shape [allocation].

        Args:
            stds: By how much the differences may be seen to change, of shape [kernel, allocation]; None: as
                much as they are uncertain.
        """
        stds = np.sqrt(self.variances) if stds is None else stds
        gains: _Floats = self.chances @ excess(self.means, stds)
        return gains


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """Let linear algebra run on one thread within a block.

    The matrices are small: threads that wait for each other would take most of the time.
    """
    limiter: AbstractContextManager[object] = _libraries().limit(limits=1, user_api="blas")
    return limiter


class Estimate:
    """Estimates the scores of allocations.

    Args:
        evidence: What is known of at least one allocation.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._coder = Coder()
        self._crossed: tuple[Sequence[Allocation], list[_Floats]] | None = None
        self._known = self._coder.features(evidence.allocations)
        self._place = {allocation: i for i, allocation in enumerate(evidence.allocations)}
        self._spread = spread(
            evidence.scores, self._coder.features(evidence.allocations[: len(evidence.scores)])
        )
        shared, alike, own = self._spread
        same = np.eye(len(evidence.allocations))
        self._by_example = shared + alike * correlation(self._known, self._known, ALIKE) + own * same
        overlap = (evidence.weights / evidence.sizes) @ evidence.weights.T
        rows = np.ix_(evidence.rows, evidence.rows)
        self._noise = overlap * self._by_example[rows] + np.diag(evidence.variances + _JITTER)
        fits: dict[Kernel, _Fit] = {}
        best = Kernel()
        for _ in range(_SWEEPS):
            for name, values in _GRID.items():
                for value in values:
                    kernel = replace(best, **{name: value})
                    if kernel not in fits:
                        fits[kernel] = self._fit(kernel)
                best = max(fits.values(), key=lambda fit: fit.log_likelihood).kernel
        chances = {k: np.exp(fit.log_likelihood - fits[best].log_likelihood) for k, fit in fits.items()}
        likely = sorted(chances, key=lambda kernel: -chances[kernel])[:_KERNELS]
        likely = [kernel for kernel in likely if chances[kernel] > _UNLIKELY]
        self._fits = [fits[kernel] for kernel in likely]
        weights = np.array([chances[kernel] for kernel in likely])
        self._chances: _Floats = weights / weights.sum()

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

    def expected_gains(self, allocations: Sequence[Allocation], levels: Sequence[float]) -> _Floats:
        """Return the expected improvement of each allocation over each of several scores.

        Args:
            allocations: The allocations to estimate.
            levels: The scores to exceed, 0 to 1.

        Returns:
            The expected excess over each level, of shape [level, allocation].
        """
        means, variances = self._each(allocations)
        stds = np.sqrt(variances)
        return np.array([self._chances @ excess(means - level, stds) for level in levels])

    def rivals(self, allocations: Sequence[Allocation], leader: Allocation) -> Rivals:
        """Return the estimates of allocations beside that of a leader, whose score is known in part.

        Args:
            allocations: The allocations to estimate.
            leader: The leader, one of those in the evidence.
        """
        means, variances = [], []
        at = self._place[leader]
        for fit, cross, (own,) in zip(
            self._fits, self._cross(allocations), self._cross([leader]), strict=True
        ):
            reduced = cross @ fit.precision
            variance = self._prior(fit) - np.einsum("ij,ij->i", reduced, cross)
            of_leader = self._prior(fit) - own @ fit.precision @ own
            covariance = cross[:, at] - reduced @ own
            means.append((cross - own) @ fit.weights)
            variances.append(np.maximum(variance + of_leader - 2 * covariance, 1e-12))
        return Rivals(np.array(means), np.array(variances), self._chances)

    def changes(
        self, allocations: Sequence[Allocation], leader: Allocation, counts: _Ints, end: int
    ) -> _Floats:
        """Return by how much differences from the leader are expected to change by more examples.

        Similar allocations go by the same examples: where the others were scored on them already, they say
        little that is new.

        Args:
            allocations: The allocations, each of which is scored on more examples.
            leader: The leader.
            counts: On how many examples each was scored so far, of shape [allocation].
            end: On how many it is scored then.

        Returns:
            The standard deviations of the changes, of shape [kernel, allocation].
        """
        rows, weights = self.evidence.rows, self.evidence.weights / self.evidence.sizes
        ends = np.cumsum(self.evidence.sizes)
        starts = ends - self.evidence.sizes
        fresh = np.maximum(end - counts, 1)
        within = np.clip(np.minimum(ends, end) - np.maximum(starts, counts[:, None]), 0, None)
        overlap = (within / fresh[:, None]) @ weights.T
        features = self._coder.features(allocations)
        shared, alike, own = self._spread
        by_example = shared + alike * correlation(features, self._known, ALIKE)
        for i, allocation in enumerate(allocations):
            if allocation in self._place:
                by_example[i, self._place[allocation]] += own
        at, stds = self._place[leader], []
        crosses = zip(self._fits, self._cross(allocations), self._cross([leader]), strict=True)
        for fit, cross, (of_leader,) in crosses:
            seen = cross[:, rows] + by_example[:, rows] * overlap
            solved = seen @ fit.inverse
            prior = self._prior(fit)
            variance = prior + sum(self._spread) / fresh - np.einsum("ij,ij->i", solved, seen)
            difference = cross[:, rows] - of_leader[rows]
            covariance = prior - cross[:, at] - np.einsum("ij,ij->i", solved, difference)
            stds.append(np.abs(covariance) / np.sqrt(np.maximum(variance, 1e-12)))
        return np.array(stds)

    def draws(self, allocations: Sequence[Allocation], count: int, rng: np.random.Generator) -> _Floats:
        """Draw the scores that allocations have on these examples, together, from what is likely.

        Args:
            allocations: The allocations.
            count: The number of draws.
            rng: The random generator.

        Returns:
            The scores, of shape [draw, allocation].
        """
        features, parts = self._coder.features(allocations), []
        shared, alike, own = self._spread
        by_example = shared + alike * correlation(features, features, ALIKE)
        same = np.eye(len(allocations))
        of_each = rng.multinomial(count, self._chances)
        for fit, cross, n in zip(self._fits, self._cross(allocations, True), of_each, strict=True):
            prior = levels(correlation(features, features, fit.kernel), same, fit.kernel)
            prior += (by_example + own * same) / self.evidence.n_examples
            covariance = prior - cross @ fit.precision @ cross.T
            root = np.linalg.cholesky(covariance + 10 * _JITTER * same)
            mean = MIDDLE + cross @ fit.weights
            parts.append(mean + rng.standard_normal((n, len(allocations))) @ root.T)
        return np.concatenate(parts)

    def _each(self, allocations: Sequence[Allocation]) -> tuple[_Floats, _Floats]:
        """Return mean and variance under each likely kernel, each of shape [kernel, allocation]."""
        means, variances = [], []
        for fit, cross in zip(self._fits, self._cross(allocations), strict=True):
            means.append(MIDDLE + cross @ fit.weights)
            explained = np.einsum("ij,ij->i", cross @ fit.precision, cross)
            variances.append(np.maximum(self._prior(fit) - explained, 1e-12))
        return np.array(means), np.array(variances)

    def _cross(self, allocations: Sequence[Allocation], on_these: bool = False) -> list[_Floats]:
        """Return the covariances of levels with the evidence under each likely kernel.

        Each is of shape [allocation, known]. Those of the last list are kept.

        Args:
            allocations: The allocations.
            on_these: Take the scores on these examples in the place of the levels.
        """
        if not on_these and self._crossed is not None and self._crossed[0] is allocations:
            return self._crossed[1]
        features = self._coder.features(allocations)
        same = np.zeros((len(allocations), len(self._place)))
        for i, allocation in enumerate(allocations):
            if allocation in self._place:
                same[i, self._place[allocation]] = 1.0
        crosses = [
            levels(correlation(features, self._known, fit.kernel), same, fit.kernel) for fit in self._fits
        ]
        if on_these:
            shared, alike, own = self._spread
            by_example = shared + alike * correlation(features, self._known, ALIKE) + own * same
            return [cross + by_example / self.evidence.n_examples for cross in crosses]
        if len(allocations) > 1:
            self._crossed = allocations, crosses
        return crosses

    def _prior(self, fit: _Fit) -> float:
        return float(MIDDLE_STD**2 + fit.kernel.std**2 * (1 + fit.kernel.own))

    def _fit(self, kernel: Kernel) -> _Fit:
        known, rows = self._known, self.evidence.rows
        covariance = levels(correlation(known, known, kernel), np.eye(len(self._place)), kernel)
        factor = cho_factor(covariance[np.ix_(rows, rows)] + self._noise, lower=True)
        residuals = self.evidence.means - MIDDLE
        inverse = cho_solve(factor, np.eye(len(rows)))
        solved = inverse @ residuals
        log_det = 2 * float(np.log(np.diag(factor[0])).sum())
        member = np.zeros((len(rows), len(self._place)))
        member[np.arange(len(rows)), rows] = 1.0
        precision = member.T @ inverse @ member
        likelihood = -0.5 * (float(residuals @ solved) + log_det)
        return _Fit(kernel, likelihood, member.T @ solved, precision, inverse)


def excess(means: _Floats, stds: _Floats) -> _Floats:
    """Return the expected excess over 0 of normal variables.

    Args:
        means: Their means.
        stds: Their standard deviations.
    """
    stds = np.maximum(stds, 1e-9)
    z = means / stds
    gains: _Floats = means * ndtr(z) + stds * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return gains
