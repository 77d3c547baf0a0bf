"""How votes are counted: a stage's aggregator, or a vote of a policy in its place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pipelines.policy import Vote
from pipelines.spec.variants import (
    AggregatorSpec,
    FunctionResult,
    LengthWeighted,
    Plurality,
    SetVote,
    Weighted,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """A rule by which votes are counted: a stage's aggregator, or a vote in its place.

    Attributes:
        kind: plain, weighted or length_weighted.
        threshold: The share of the weight that an item of a list needs; None where values are voted on whole.
        union: Whether every item that any list names is taken.
        t0: Of length_weighted, in tokens.
    """

    kind: Literal["plain", "weighted", "length_weighted"] = "plain"
    threshold: float | None = None
    union: bool = False
    t0: float = math.inf

    @classmethod
    def of(cls, aggregator: AggregatorSpec | FunctionResult, vote: Vote | None = None) -> Count | None:
        """Return how a stage counts.

        Args:
            aggregator: The aggregator of the stage's option.
            vote: The vote that takes its place; None for the stage's own.

        Returns:
            The rule; None where the aggregator is no vote and none takes its place.

        Raises:
            ValueError: The vote has a threshold and the stage votes on whole values, or the stage's
                aggregator is no vote.
        """
        own = _own(aggregator)
        if vote is None or vote == Vote():
            return own
        if own is None:
            raise ValueError(f"a stage whose aggregator is no vote takes none, got {vote}")
        if vote.threshold is not None and own.threshold is None:
            raise ValueError(f"a vote on whole values takes no threshold, got {vote}")
        kind = own.kind if vote.kind == "plain" else vote.kind
        t0 = own.t0 if vote.t0 is None else vote.t0
        threshold = own.threshold if vote.threshold is None else vote.threshold
        return cls(kind=kind, threshold=threshold, t0=t0, union=own.union and vote.threshold is None)


def _own(aggregator: AggregatorSpec | FunctionResult) -> Count | None:
    match aggregator:
        case Plurality():
            return Count()
        case SetVote(threshold=threshold, union=union):
            return Count(threshold=threshold, union=union)
        case Weighted(threshold=threshold):
            return Count(kind="weighted", threshold=threshold)
        case LengthWeighted(threshold=threshold, t0=t0):
            return Count(kind="length_weighted", threshold=threshold, t0=t0)
        case _:
            return None


@lru_cache(maxsize=1 << 16)
def share_above(votes: int, n: int, share: float) -> float:
    """Return the probability that the true share of a value is above `share`, given its votes out of n.

    The prior is uniform, so that this is the upper tail of Beta(votes + 1, n - votes + 1), computed as that
    of a binomial distribution: P(Bin(n + 1, share) <= votes).
    """
    if share >= 1:
        return 0.0
    trials, logs = n + 1, (math.log(share), math.log1p(-share))
    terms = (
        math.exp(
            math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            + k * logs[0] + (trials - k) * logs[1]
        )
        for k in range(votes + 1)
    )  # fmt: skip
    return min(1.0, math.fsum(terms))
