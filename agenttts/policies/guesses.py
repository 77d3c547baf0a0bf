"""Guesses where samples were never drawn, so that policies can be compared before their samples are bought.

What is missing is not missing at random: most of it is what a dearer rung would say of the queries that
escalate. So its cost is guessed, not left out, and its score is guessed from what is known of the same query.
A choice that is final rests on policies whose outcomes are practically all known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from agenttts.policies.nodes import Floats, Ints
from agenttts.policies.paths import Path, StagePath
from pipelines.policy import Rung

LEAST_KNOWN = 0.2
"""A rung is guessed where this share of the examples is known; else it is left out."""
_PRIOR = 20.0  # examples that speak for no difference
_FIRST_GUESS = -10  # answers from here down are guesses, which agree with nothing


def with_guesses(paths: Mapping[Rung, Path], on: Ints) -> dict[Rung, Path]:
    """Fill in what is missing.

    A score is that of the rung that is known best, on the same example, plus the mean paired difference to
    it, shrunk towards none; a cost is the mean cost of the same plan.

    Args:
        paths: The paths of rungs.
        on: The examples whose scores may be used.

    Returns:
        The paths of the rungs that are known on enough of the examples.
    """
    if all(path.known.all() for path in paths.values()):
        return dict(paths)
    known = {rung: path for rung, path in paths.items() if _share(path, on) >= LEAST_KNOWN}
    if not known:
        return {}
    best = max(known.values(), key=lambda path: (_share(path, on), np.nanmean(path.score[:, on])))
    base = _by_example(best)
    base = np.where(np.isnan(base), np.nanmean(base[on]), base)
    return {
        rung: _with_guesses(path, base, on, _FIRST_GUESS - number)
        for number, (rung, path) in enumerate(known.items())
    }


def _share(path: Path, on: Ints) -> float:
    return float(path.known[:, on].any(axis=0).mean())


def _by_example(path: Path) -> Floats:
    """The mean score over the known orders; NaN where none is."""
    n = path.known.sum(axis=0)
    total = np.where(path.known, path.score, 0.0).sum(axis=0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _with_guesses(path: Path, base: Floats, on: Ints, answer: int) -> Path:
    guessed = ~path.known
    if not guessed.any():
        return path
    gains = (_by_example(path) - base)[on]
    gains = gains[~np.isnan(gains)]
    guess = np.clip(base + gains.sum() / (len(gains) + _PRIOR), 0.0, 1.0)
    return replace(
        path,
        stages=tuple(_with_costs(stage, on) for stage in path.stages),
        answer=np.where(guessed, answer, path.answer),
        score=np.where(guessed, guess, path.score),
        guessed=guessed,
    )


def _with_costs(stage: StagePath, on: Ints) -> StagePath:
    """Samples that were drawn cost something; what costs nothing was not."""
    costs = stage.cost[:, on]
    mean = costs[costs > 0].mean() if (costs > 0).any() else 0.0
    return replace(stage, cost=np.where(stage.cost > 0, stage.cost, mean))
