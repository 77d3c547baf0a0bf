"""How alike allocations are: in the level of their scores, and in what an example does to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.allocation import Allocation

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
MIDDLE, MIDDLE_STD = 0.5, 0.3  # the mean level, before any score
_TOTAL, _TOTAL_COUNT = 0.15, 10.0  # the variance of the scores of examples, as sure as after so many cells
_LEAST_OWN = 0.1  # share of that variance that allocations never have in common


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """How the levels of two allocations vary together.

    Attributes:
        length_scale: In log2 of n: at 3, counts a factor of 8 apart are unlike.
        option_correlation: Of the levels of two options at one stage.
        interaction: The share of the variance that belongs to the stages together.
        own: The share of the variance that no curve explains.
        std: The standard deviation of levels.
    """

    length_scale: float = 3.0
    option_correlation: float = 0.5
    interaction: float = 0.5
    own: float = 0.003
    std: float = 0.06


ALIKE = Kernel(option_correlation=0.1)
"""Which allocations one example treats alike."""


@dataclass(frozen=True)
class Features:
    """The choices of allocations as numbers, each field of shape [allocation, stage]."""

    options: _Ints
    log2_counts: _Floats


class Coder:
    """Turns allocations into features; the same option of a stage gets the same number."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str, str | None, str | None], int] = {}

    def features(self, allocations: Sequence[Allocation]) -> Features:
        """Return the features of allocations.

        Args:
            allocations: The allocations.
        """
        stages = len(allocations[0]) if allocations else 0
        options = np.empty((len(allocations), stages), dtype=np.int64)
        counts = np.empty(options.shape)
        for i, allocation in enumerate(allocations):
            for k, (stage, choice) in enumerate(allocation.items()):
                option = stage, choice.model, choice.verifier, choice.prompt
                options[i, k] = self._codes.setdefault(option, len(self._codes))
                counts[i, k] = choice.n_samples
        return Features(options, np.log2(counts))


def levels(correlation: _Floats, same: _Floats, kernel: Kernel) -> _Floats:
    covariance: _Floats = MIDDLE_STD**2 + kernel.std**2 * (correlation + kernel.own * same)
    return covariance


def correlation(left: Features, right: Features, kernel: Kernel) -> _Floats:
    """Return the correlation of levels, of shape [left, right]; 1 for an allocation with itself."""
    together = alone = np.array(0.0)
    for k in range(left.options.shape[1]):
        same = left.options[:, k, None] == right.options[None, :, k]
        distance = (left.log2_counts[:, k, None] - right.log2_counts[None, :, k]) / kernel.length_scale
        stage = np.where(same, 1.0, kernel.option_correlation) * np.exp(-0.5 * distance**2)
        together = stage if k == 0 else together * stage
        alone = alone + stage
    result: _Floats = kernel.interaction * together + (1 - kernel.interaction) * alone / left.options.shape[1]
    return result


def spread(scores: _Floats, features: Features) -> tuple[float, float, float]:
    """Estimate the variance of one example's scores by moments: what all share, similar ones, and none.

    Args:
        scores: Of shape [trial, example]; NaN where there is none.
        features: Those of the trials.
    """
    if not len(scores):
        return 0.0, 0.0, 0.0
    present = ~np.isnan(scores)
    counts = present.sum(axis=1)
    residuals = np.where(present, scores - np.nanmean(scores, axis=1, keepdims=True), 0.0)
    together = (present.astype(np.float64) @ present.T).astype(np.float64)
    products = residuals @ residuals.T
    degrees = float(np.maximum(counts - 1, 0).sum())
    total = (float(np.trace(products)) + _TOTAL * _TOTAL_COUNT) / (degrees + _TOTAL_COUNT)
    upper = np.triu_indices(len(scores), 1)
    shared_counts = np.maximum(together[upper] - 1, 0)
    if not shared_counts.any():
        return 0.3 * total, 0.2 * total, 0.5 * total
    alike = correlation(features, features, ALIKE)[upper]
    covariances = products[upper] / np.maximum(together[upper] - 1, 1)
    design = np.stack([np.ones_like(alike), alike], axis=1)
    precision = (design * shared_counts[:, None]).T @ design + _TOTAL_COUNT * np.eye(2)
    prior = _TOTAL_COUNT * total * np.array([0.3, 0.2])
    shared, similar = np.linalg.solve(precision, (design * shared_counts[:, None]).T @ covariances + prior)
    shared, similar = max(float(shared), 0.0), max(float(similar), 0.0)
    scale = min(1.0, (1 - _LEAST_OWN) * total / max(shared + similar, 1e-12))
    return scale * shared, scale * similar, total - scale * (shared + similar)
