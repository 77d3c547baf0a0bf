"""Racing: a trial that is clearly losing is not run to its end (successive halving on paired examples).

A raced trial runs on a growing part of the examples, always the first ones in their order. After each part it
is compared, example by example, with the best trial so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agenttts.stats import paired_difference

SHARES = (0.125, 0.25, 0.5)
"""The shares of the examples after which a raced trial is compared with the best."""

CONFIDENCE = 0.9
_FEWEST = 12  # examples that say anything


def rungs(n_examples: int) -> list[int]:
    """Return the numbers of examples after which a raced trial is compared with the best.

    Args:
        n_examples: The number of all examples.

    Returns:
        The numbers in ascending order; the last is `n_examples`.
    """
    looks = sorted({round(share * n_examples) for share in SHARES})
    return [look for look in looks if _FEWEST <= look < n_examples] + [n_examples]


def stop_of(
    scores: Mapping[str, float | None],
    best: Mapping[str, float | None],
    ids: Sequence[str],
    n_before: int,
    seed: int,
) -> int:
    """Return after how many examples a trial that was raced went no further.

    Args:
        scores: The scores of the raced trial, by example id.
        best: The scores of the best trial then.
        ids: The ids of all examples, in the run's order.
        n_before: How many of them the trial had been run on before the race.
        seed: The seed of the bootstrap.
    """
    for look in rungs(len(ids))[:-1]:
        known = {i: scores[i] for i in ids[:look] if i in scores}
        if n_before < look == len(known) and is_losing(known, best, seed):
            return look
    return len(ids)


def is_losing(scores: Mapping[str, float | None], best: Mapping[str, float | None], seed: int) -> bool:
    """Return whether a raced trial is clearly worse than the best.

    Args:
        scores: The scores of the raced trial so far, by example id; None where an example is missing.
        best: The scores of the best trial.
        seed: The seed of the bootstrap.

    Returns:
        Whether the interval of the paired difference lies below 0, on enough examples.
    """
    rng = np.random.default_rng([seed, len(scores)])
    difference = paired_difference(scores, best, rng, confidence=CONFIDENCE)
    return difference.n >= _FEWEST and difference.high < 0
