"""Fitting the confidence of a rung: a logistic model with a squared penalty on the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agenttts.policies.nodes import Floats
from pipelines.policy import Confidence

PENALTY = 3.0
"""Half of the weight of a squared coefficient, in examples."""
_STEPS = 30


def fit_confidence(names: Sequence[str], features: Floats, scores: Floats) -> Confidence:
    """Fit the probability that an outcome is right.

    The sum of the examples' log losses, each averaged over the orders of its samples, and of the penalty is
    minimised by Newton's method. A score between 0 and 1 counts as that probability of being right.

    Args:
        names: The names of the features.
        features: Of shape [order, example, feature].
        scores: Of shape [order, example]; NaN where the example is missing.

    Returns:
        The confidence. Without any scores it is one half everywhere.
    """
    present = ~np.isnan(scores)
    x, y = features[present], scores[present]
    if not len(y):
        zeros = (0.0,) * len(names)
        return Confidence(
            features=tuple(names), means=zeros, scales=(1.0,) * len(names), weights=zeros, intercept=0.0
        )
    means, scales = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = np.concatenate([np.ones((len(x), 1)), (x - means) / scales], axis=1)
    penalty = np.full(z.shape[1], PENALTY * scores.shape[0])
    penalty[0] = 1e-6
    weights = np.zeros(z.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(z @ weights, -30, 30)))
        gradient = z.T @ (p - y) + penalty * weights
        hessian = (z.T * (p * (1 - p))) @ z + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        weights -= step * min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return Confidence(
        features=tuple(names),
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        weights=tuple(weights[1:].tolist()),
        intercept=float(weights[0]),
    )


def confidences(confidence: Confidence, features: Floats) -> Floats:
    """Return a confidence at many points.

    Args:
        confidence: The model.
        features: Of shape [..., feature].

    Returns:
        Probabilities of shape [...].
    """
    z = (features - np.array(confidence.means)) / np.array(confidence.scales)
    logits = z @ np.array(confidence.weights) + confidence.intercept
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -500, 500))))
