"""How good a classifier is: accuracy, macro-F1, Matthews, calibration, and whether it keeps preferences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_BINS = 15


def accuracy(gold: ArrayLike, predicted: ArrayLike) -> float:
    """The share of right classes.

    Args:
        gold: The right class of each text, by position, shape (N,).
        predicted: The predicted class of each text, shape (N,).
    """
    return float(np.mean(np.asarray(gold) == np.asarray(predicted)))


def macro_f1(gold: ArrayLike, predicted: ArrayLike) -> float:
    """F1 of each class that occurs, averaged, so that every class counts alike.

    Args:
        gold: The right class of each text, shape (N,).
        predicted: The predicted class of each text, shape (N,).
    """
    y, z = np.asarray(gold), np.asarray(predicted)
    scores = []
    for c in np.union1d(y, z):
        both, either = np.sum((y == c) & (z == c)), np.sum(y == c) + np.sum(z == c)
        scores.append(2 * both / either)
    return float(np.mean(scores))


def matthews(gold: ArrayLike, predicted: ArrayLike) -> float:
    """The correlation of right and predicted classes (Gorodkin 2004 for several classes).

    Args:
        gold: The right class of each text, shape (N,).
        predicted: The predicted class of each text, shape (N,).

    Returns:
        From -1 to 1; 0 where either is constant.
    """
    y, z = np.asarray(gold), np.asarray(predicted)
    classes = np.union1d(y, z)
    table = np.array([[np.sum((y == a) & (z == b)) for b in classes] for a in classes], dtype=float)
    n, right = table.sum(), np.trace(table)
    rows, columns = table.sum(1), table.sum(0)
    below = (n**2 - columns @ columns) * (n**2 - rows @ rows)
    return float((right * n - rows @ columns) / np.sqrt(below)) if below > 0 else 0.0


def reliability(
    gold: ArrayLike, probs: NDArray[np.float64], n_bins: int = N_BINS
) -> list[tuple[float, float, int]]:
    """Compare confidence with accuracy in bins of equal width.

    Args:
        gold: The right class of each text, shape (N,).
        probs: The probability of each class, shape (N, C).
        n_bins: The number of bins from 0 to 1.

    Returns:
        (mean confidence, accuracy, number of texts) of each bin that has texts.
    """
    confidence = probs.max(1)
    right = probs.argmax(1) == np.asarray(gold)
    place = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    return [
        (float(confidence[place == b].mean()), float(right[place == b].mean()), int(np.sum(place == b)))
        for b in range(n_bins)
        if np.any(place == b)
    ]


def calibration_error(gold: ArrayLike, probs: NDArray[np.float64], n_bins: int = N_BINS) -> float:
    """The expected calibration error (Guo et al. 2017): mean |accuracy − confidence|, bins by their texts.

    Args:
        gold: The right class of each text, shape (N,).
        probs: The probability of each class, shape (N, C).
        n_bins: The number of bins from 0 to 1.
    """
    bins = reliability(gold, probs, n_bins)
    return sum(n * abs(right - confidence) for confidence, right, n in bins) / sum(n for _, _, n in bins)


def preference_accuracy(
    scores: NDArray[np.float64], pairs: Sequence[tuple[int, int]], preferred: Sequence[float]
) -> float | None:
    """How often the preference heads, on average, prefer the text that is preferred.

    Args:
        scores: The score of each text by each head, shape (N, K).
        pairs: The positions of two texts each.
        preferred: For each pair 1 where the first text is preferred, 0 where the second is, 0.5 for a tie.

    Returns:
        The share of the pairs that are no ties; None when all are.
    """
    right = [
        bool(scores[i].mean() > scores[j].mean()) == (p > 0.5)
        for (i, j), p in zip(pairs, preferred, strict=True)
        if p != 0.5
    ]
    return float(np.mean(right)) if right else None


def consistency(
    probs: NDArray[np.float64],
    labels: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    preferred: Sequence[float],
) -> float | None:
    """How often the task head gives the preferred text of a pair the higher probability of their label.

    Args:
        probs: The probability of each class, shape (N, C).
        labels: The label of each text, by position, length N.
        pairs: The positions of two texts each.
        preferred: For each pair 1 where the first text is preferred, 0 where the second is, 0.5 for a tie.

    Returns:
        The share of the pairs that are no ties; None when all are.
    """
    right = [
        bool(probs[i, labels[i]] > probs[j, labels[i]]) == (p > 0.5)
        for (i, j), p in zip(pairs, preferred, strict=True)
        if p != 0.5
    ]
    return float(np.mean(right)) if right else None
