"""Holding the mean cost of a policy's queries, which grows with their difficulty."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

STEP = 0.2
"""How far the thresholds move, in logits, for a query that costs twice what it may."""
LOWEST = -12.0
"""As far as they move, in logits: the further, the more that cost too much is made up for later."""
AT_ONCE = 32
"""Queries that are under way together."""


class Pace:
    """Lowers a policy's thresholds while its queries cost more than they may, and raises them again after.

    After each query all thresholds move by STEP times its relative excess, as logits, and never above where
    they began. Where further rungs make the difference, what all queries together cost too much is then
    bounded, by about -LOWEST / STEP = 60 queries' worth, so that their mean tends to the target or below.
    This is the argument of adaptive conformal inference (arXiv 2106.00170).

    Args:
        thresholds: The policy's.
        mean: What a query may cost on average, in whatever `add` is told.

    Attributes:
        thresholds: Those for the next query.
    """

    def __init__(self, thresholds: Sequence[float], mean: float) -> None:
        self._first = tuple(thresholds)
        self._mean = mean
        self._shift = 0.0
        self.thresholds = self._first

    def add(self, cost: float) -> None:
        """Take a query's cost into account."""
        self._shift = min(0.0, max(LOWEST, self._shift - STEP * (cost / self._mean - 1)))
        self.thresholds = tuple(_moved(threshold, self._shift) for threshold in self._first)


class PacedQueries:
    """The thresholds of queries that come in order.

    Those of a query follow from the costs of all but the AT_ONCE before it, so that the same samples give the
    same outcomes, however long each takes. No more than AT_ONCE may be under way together.

    Args:
        pace: Moves the thresholds.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._costs = deque[float]()
        self._begun = 0

    def begin(self) -> tuple[float, ...]:
        """Return the thresholds of the next query."""
        if self._begun >= AT_ONCE:
            self._pace.add(self._costs.popleft())
        self._begun += 1
        return self._pace.thresholds

    def end(self, cost: float | None) -> None:
        """Take what the next query in order took, in what the pace holds; None counts as nothing."""
        self._costs.append(cost or 0.0)


def _moved(threshold: float, shift: float) -> float:
    """Move a probability by logits; 0 and 1 stay."""
    if not shift or not 0 < threshold < 1:
        return threshold
    return 1 / (1 + math.exp(-math.log(threshold / (1 - threshold)) - shift))
