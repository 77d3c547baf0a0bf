"""Racing: a trial that is clearly losing is pruned (successive halving on paired examples).

A raced trial runs on a growing part of the examples, always the first ones in their order; after each part it
is compared, example by example, with the best trial so far.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from agenttts.stats import paired_difference

SHARES = (0.125, 0.25, 0.5)
"""After these shares of the examples a raced trial is looked at."""

CONFIDENCE = 0.9
_FEWEST = 12  # examples that say anything


def rungs(n_examples: int) -> list[int]:
    """After how many examples a raced trial is looked at; the last entry is all of them."""
    looks = sorted({round(share * n_examples) for share in SHARES})
    return [look for look in looks if _FEWEST <= look < n_examples] + [n_examples]


def is_losing(scores: Mapping[str, float | None], best: Mapping[str, float | None], seed: int) -> bool:
    """Whether the paired difference from the best lies below 0, interval and all."""
    rng = np.random.default_rng([seed, len(scores)])
    difference = paired_difference(scores, best, rng, confidence=CONFIDENCE)
    return difference.n >= _FEWEST and difference.high < 0
