"""Combinations of one choice for each stage that an allowance pays for: listed, or counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipelines.allocation import StageChoice

Choices = Sequence[Sequence[tuple[StageChoice, int]]]
"""For each stage its choices, each with its cost in whole ticks."""

_Ints = npt.NDArray[np.int64]
_MOST_PARTIAL_SUMS = 8_000_000


def combinations(by_stage: Choices, allowance: int) -> Iterator[tuple[StageChoice, ...]]:
    """List the combinations, in the order of the stages and of their choices.

    Args:
        by_stage: The choices.
        allowance: The most ticks of a combination.
    """
    cheapest_after = [0]  # the fewest ticks of all stages from one on
    for choices in reversed(by_stage):
        cheapest_after.insert(0, cheapest_after[0] + min(ticks for _, ticks in choices))

    def extended(combination: tuple[StageChoice, ...], spent: int) -> Iterator[tuple[StageChoice, ...]]:
        n = len(combination)
        if n == len(by_stage):
            yield combination
            return
        for choice, ticks in by_stage[n]:
            if spent + ticks + cheapest_after[n + 1] <= allowance:
                yield from extended((*combination, choice), spent + ticks)

    return extended((), 0)


def n_combinations(by_stage: Choices, allowance: int) -> int:
    """Count the combinations without listing them.

    The count is exact while the distinct partial sums of half the stages stay under some millions (six stages
    of 100 choices and more, as a rule); beyond that, costs are rounded to a coarser tick.

    Args:
        by_stage: The choices.
        allowance: The most ticks of a combination.
    """
    half = len(by_stage) // 2
    left, left_count = _partial_sums(by_stage[:half])
    right, right_count = _partial_sums(by_stage[half:])
    below = np.concatenate([[0], np.cumsum(right_count)])
    fitting = below[np.searchsorted(right, allowance - left, side="right")]
    return int(np.dot(left_count.astype(object), fitting.astype(object)))


def _partial_sums(by_stage: Choices) -> tuple[_Ints, _Ints]:
    """Distinct sums of ticks over some stages, ascending, and how often each occurs."""
    sums, counts, tick = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64), 1
    for choices in by_stage:
        ticks, repeats = np.unique([t for _, t in choices], return_counts=True)
        while len(sums) * len(ticks) > _MOST_PARTIAL_SUMS and len(sums) > 1:
            tick *= 10
            sums, counts = _merged(sums // tick * tick, counts)
        every_sum = (sums[:, None] + ticks[None, :]).ravel()
        sums, counts = _merged(every_sum, (counts[:, None] * repeats[None, :]).ravel())
    return sums, counts


def _merged(sums: _Ints, counts: _Ints) -> tuple[_Ints, _Ints]:
    distinct, where = np.unique(sums, return_inverse=True)
    merged = np.zeros(len(distinct), dtype=np.int64)
    np.add.at(merged, where, counts)
    return distinct, merged
