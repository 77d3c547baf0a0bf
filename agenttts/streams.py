"""Random streams by name: each kind of interval draws its resamples from a stream of its own.

The values are part of every stored figure: the same seed, stream and numbers give the same interval.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What random numbers are drawn for. The last two belong to `tune evaluate`, where numbers follow."""

    SEARCH_SCORE = 1
    TEST_SCORE = 2
    TEST_DIFFERENCE = 3
    EQUIVALENCE = 4
    RETEST = 5
    FURTHER_METRIC = 6
    HEADROOM = 7
    IMPROVEMENT = 11
    MODEL_SCORE = 1
    MODEL_DIFFERENCE = 2


def stream_rng(seed: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """The generator of a stream; `numbers` tell its members apart, such as a trial's number."""
    return np.random.default_rng([seed, stream, *numbers])
