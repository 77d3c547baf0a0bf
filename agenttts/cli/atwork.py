"""What `agenttts run` tells of a policy at work: what its queries cost, and whether they are as expected."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field

from agenttts.answering import Answer, MeanCost
from agenttts.cli.options import say
from agenttts.space.measure import amount_text
from pipelines.policy import Policy

_FEWEST, _DRIFT = 20, 0.05  # outcomes from which, and by how much, a fall of the confidence is told
_HARDER = 1.1  # times the mean cost on the test split, from which inputs are called harder


@dataclass(slots=True)
class _Mean:
    """A mean and a standard deviation of values that come one by one (Welford's method)."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        off = value - self.mean
        self.mean += off / self.n
        self.squares += off * (value - self.mean)

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.squares / (self.n - 1) / self.n)


@dataclass
class AtWork:
    """What the queries of a policy took, in a few numbers however many they are.

    Attributes:
        policy: The policy.
        key: The field of an answer with what a query took: "units" or "cost_usd".
    """

    policy: Policy
    key: str
    _cost: _Mean = field(default_factory=_Mean)
    _first: _Mean = field(default_factory=_Mean)  # of queries that ended on the first rung
    _further: _Mean = field(default_factory=_Mean)
    _unspared: _Mean = field(default_factory=_Mean)  # of queries that own thresholds would not have sent on
    _spared: array[float] = field(default_factory=lambda: array("d"))
    _confidence: _Mean = field(default_factory=_Mean)
    _lowest: list[float] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        """Take the answer to a query into account; one to an input that was not run is none."""
        if "n_rungs" not in answer:
            return
        cost, n_rungs, confidence = answer[self.key] or 0.0, answer["n_rungs"], answer["confidence"]
        self._cost.add(cost)
        (self._first if n_rungs == 1 else self._further).add(cost)
        own = [*self.policy.thresholds, 0.0][n_rungs - 1]
        if confidence is not None and confidence < own:
            self._spared.append(cost)
        else:
            self._unspared.add(cost)
        if confidence is not None:
            self._confidence.add(confidence)
        self._lowest = list(map(min, self._lowest or answer["thresholds"], answer["thresholds"]))

    @property
    def lowered(self) -> bool:
        """Whether any query was decided on by lower thresholds than the policy's own."""
        return self._cost.n > 0 and self._lowest != list(self.policy.thresholds)

    def tell_pace(self, mean: MeanCost, expected: float | None) -> None:
        """Say what the queries cost where thresholds gave way, the mean was missed, or inputs are harder.

        Args:
            mean: What a query may cost on average, in the measure of `key`.
            expected: What a query cost on the test split, in the same measure; None where it is not known.
        """
        if not self._cost.n:
            return
        spent, facts = self._cost.mean, []
        if self.lowered:
            pairs = zip(self.policy.thresholds, self._lowest, strict=True)
            moved = (f"{own:g} to {low:.2g}" for own, low in pairs)
            facts.append(f"thresholds were lowered from {', '.join(moved)}")
        missed = spent > mean.amount * (1 + 1e-9)
        if missed:
            facts.append(f"the mean was not held: {self._why_missed(mean)}")
        harder = expected is not None and self._unheld() > _HARDER * expected
        if harder and expected is not None:
            certified = amount_text(expected, mean.measure)
            facts.append(f"these inputs are harder than those of the test split, {certified} a query")
        if facts:
            took, wanted = (amount_text(amount, mean.measure) for amount in (spent, mean.amount))
            say(
                f"{took} a query, at most {wanted} wanted: {'; '.join(facts)}",
                "yellow" if missed or harder else "dim",
            )

    def _why_missed(self, mean: MeanCost) -> str:
        from pipelines.runtime.pace import AT_ONCE

        if not self.policy.thresholds:
            return "a policy of one rung has no thresholds to lower"
        if self._first.n and self._first.mean > mean.amount:
            least = amount_text(self._first.mean, mean.measure)
            return f"the first rung, which every query takes, costs {least} alone"
        if self._cost.n <= AT_ONCE:
            return f"thresholds move from query {AT_ONCE + 1} on, and there were {self._cost.n}"
        return f"{self._cost.n} queries are too few for lower thresholds to make up for the dear ones"

    def _unheld(self) -> float:
        """Return the mean cost had thresholds stayed: a spared query costs what those that went on did."""
        dear = sum(max(cost, self._further.mean) for cost in self._spared)
        return (dear + self._unspared.n * self._unspared.mean) / self._cost.n

    def tell_drift(self, expected: float) -> None:
        """Say so where the outcomes are less sure than on the test split, by more than sampling explains.

        Args:
            expected: The mean confidence on the test split, by the policy's own thresholds.
        """
        sure = self._confidence
        if sure.n < _FEWEST:
            return
        if expected - sure.mean > max(_DRIFT, 2 * sure.standard_error):
            say(
                f"the outcomes are less sure than on the test split: mean confidence {sure.mean:.2f} after "
                f"{expected:.2f}; these inputs differ from those that the certificate speaks of",
                "yellow",
            )
