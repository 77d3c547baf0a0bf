"""How good a classifier is: accuracy, macro-F1, Matthews, calibration, and whether it keeps preferences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_BINS = 15


def accuracy(gold: ArrayLike, said: ArrayLike) -> float:
    """The share of right classes."""
    return float(np.mean(np.asarray(gold) == np.asarray(said)))


def macro_f1(gold: ArrayLike, said: ArrayLike) -> float:
    """F1 of each class that is gold or said, averaged; every class counts alike."""
    y, z = np.asarray(gold), np.asarray(said)
    scores = []
    for c in np.union1d(y, z):
        both, either = np.sum((y == c) & (z == c)), np.sum(y == c) + np.sum(z == c)
        scores.append(2 * both / either)
    return float(np.mean(scores))


def matthews(gold: ArrayLike, said: ArrayLike) -> float:
    """The correlation of gold and said classes (Gorodkin 2004 for several); 0 where either is constant."""
    y, z = np.asarray(gold), np.asarray(said)
    classes = np.union1d(y, z)
    table = np.array([[np.sum((y == a) & (z == b)) for b in classes] for a in classes], dtype=float)
    n, right = table.sum(), np.trace(table)
    rows, columns = table.sum(1), table.sum(0)
    below = (n**2 - columns @ columns) * (n**2 - rows @ rows)
    return float((right * n - rows @ columns) / np.sqrt(below)) if below > 0 else 0.0


def reliability(
    gold: ArrayLike, probs: NDArray[np.float64], n_bins: int = N_BINS
) -> list[tuple[float, float, int]]:
    """(mean confidence, accuracy, texts) of each bin of equal width that has texts."""
    confidence = probs.max(1)
    right = probs.argmax(1) == np.asarray(gold)
    place = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    return [
        (float(confidence[place == b].mean()), float(right[place == b].mean()), int(np.sum(place == b)))
        for b in range(n_bins)
        if np.any(place == b)
    ]


def calibration_error(gold: ArrayLike, probs: NDArray[np.float64], n_bins: int = N_BINS) -> float:
    """Expected calibration error (Guo et al. 2017): |accuracy − confidence| over bins, by their texts."""
    bins = reliability(gold, probs, n_bins)
    return sum(n * abs(right - sure) for sure, right, n in bins) / sum(n for _, _, n in bins)


def preference_accuracy(
    scores: NDArray[np.float64], pairs: Sequence[tuple[int, int]], preferred: Sequence[float]
) -> float | None:
    """How often the heads' mean preference (scores: texts, heads) is the one given; ties are left out."""
    found = [
        bool(scores[i].mean() > scores[j].mean()) == (p > 0.5)
        for (i, j), p in zip(pairs, preferred, strict=True)
        if p != 0.5
    ]
    return float(np.mean(found)) if found else None


def consistency(
    probs: NDArray[np.float64],
    labels: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    preferred: Sequence[float],
) -> float | None:
    """How often the task head gives the preferred text of a pair more of their label; ties are left out."""
    found = [
        bool(probs[i, labels[i]] > probs[j, labels[i]]) == (p > 0.5)
        for (i, j), p in zip(pairs, preferred, strict=True)
        if p != 0.5
    ]
    return float(np.mean(found)) if found else None
