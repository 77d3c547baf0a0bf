"""Confidence intervals of scores and of paired differences: bootstrap over examples.

Scores and metrics lie between 0 and 1; a missing score (None) is left out, never counted as 0. Random numbers
come from the generator that is passed in; results do not depend on the order of the examples. Intervals are
not corrected for many comparisons; `holm` corrects p-values.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
N_RESAMPLES = 2000

_DECIMALS = 12  # scores closer than this are the same
_NORMAL = NormalDist()
_DISCORDANT, _LEVEL, _POWER = 0.3, 0.05, 0.8  # of `smallest_resolvable_difference`
_Floats = npt.NDArray[np.float64]

Scores = Mapping[str, float | None]
"""Score by example id; None where the example is missing."""


class ExactSum:
    """A running sum that comes to the same number in any order, as `math.fsum` does, without the numbers.

    It is kept as partial sums that do not overlap (Shewchuk, "Adaptive Precision Floating-Point Arithmetic
    and Fast Robust Geometric Predicates", 1997, section 2.4).

    Attributes:
        count: How many numbers were added.
    """

    def __init__(self) -> None:
        self.count = 0
        self._parts: list[float] = []

    def add(self, number: float) -> None:
        """Add a finite number."""
        self.count += 1
        parts = list[float]()
        for part in self._parts:
            if abs(number) < abs(part):
                number, part = part, number
            high = number + part
            low = part - (high - number)
            if low:
                parts.append(low)
            number = high
        parts.append(number)
        self._parts = parts

    @property
    def total(self) -> float:
        """The sum, rounded once."""
        return math.fsum(self._parts)

    @property
    def mean(self) -> float | None:
        """The mean; None without numbers."""
        return self.total / self.count if self.count else None


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: The mean.
        low: The lower end of the interval.
        high: The upper end of the interval.
        n: The number of examples.
    """

    mean: float
    low: float
    high: float
    n: int

    def holds(self, value: float) -> bool:
        """Return whether the value lies in the interval, ends included.

        Args:
            value: The value.
        """
        return self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """The mean of first minus second, over the `n` examples that both have scores for."""


def mean_interval(
    scores: Iterable[float | None],
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
) -> Interval | None:
    """Compute the mean score and its confidence interval.

    Args:
        scores: The scores, 0 to 1; None for a missing one.
        rng: The generator of the resamples.
        confidence: The level of the interval.
        n_resamples: The number of bootstrap resamples.

    Returns:
        The interval; None when there is no score.
    """
    values = _present(scores)
    if not len(values):
        return None
    low, high = _bounds(values, (0.0, 1.0), rng, confidence, n_resamples)
    return Interval(mean=_mean(values), low=low, high=high, n=len(values))


def normal_interval(values: Sequence[float]) -> Interval:
    """Compute a mean and its 95 % interval by the normal approximation, for amounts without bounds.

    Args:
        values: The amounts, at least one; of a single one the interval is a point.
    """
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    half = 1.96 * math.sqrt(variance / len(values))
    return Interval(mean=mean, low=mean - half, high=mean + half, n=len(values))


def paired_difference(
    first: Scores,
    second: Scores,
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
) -> Difference:
    """Compute the mean of first minus second over the examples that both have scores for.

    Args:
        first: Score by example id; None where the example is missing.
        second: The scores that are subtracted.
        rng: The generator of the resamples.
        confidence: The level of the interval.
        n_resamples: The number of bootstrap resamples.

    Returns:
        The difference. Without a common example nothing is known: 0, from -1 to 1.
    """
    values = _present(_paired(first, second))
    if not len(values):
        return Difference(mean=0.0, low=-1.0, high=1.0, n=0)
    low, high = _bounds(values, (-1.0, 1.0), rng, confidence, n_resamples)
    return Difference(mean=_mean(values), low=low, high=high, n=len(values))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple tests (Holm 1979).

    Args:
        p_values: The p-values.

    Returns:
        The corrected p-values in the same order, at most 1.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def pass_at_k(n_samples: int, n_right: int, k: int) -> float:
    """Estimate the chance that k samples hold a right one: 1 - C(n-c, k) / C(n, k), unbiased (Chen et al.
    2021).

    Args:
        n_samples: The number of samples that were drawn, n.
        n_right: The number of right ones among them, c.
        k: The number of samples to choose.

    Raises:
        ValueError: It does not hold that 0 <= n_right <= n_samples and 1 <= k <= n_samples.
    """
    if not (0 <= n_right <= n_samples and 1 <= k <= n_samples):
        raise ValueError(f"pass@k takes 0 <= c <= n and 1 <= k <= n, got n={n_samples}, c={n_right}, k={k}")
    return 1.0 - math.comb(n_samples - n_right, k) / math.comb(n_samples, k)


def vote_curve(
    answers: Sequence[str], right: Collection[str], rng: np.random.Generator, *, n_orders: int = 200
) -> _Floats:
    """Estimate the chance that a plurality vote of the first n answers is right, for n = 1 to all.

    The mean is over random orders of the answers. A vote is won against each other answer by itself, not
    against all wrong ones together; of answers with equally many votes, the one drawn first wins.

    Args:
        answers: The answers that were drawn.
        right: The right answers.
        rng: The generator of the orders.
        n_orders: The number of random orders.

    Returns:
        The chances, shape (len(answers),).

    Raises:
        ValueError: There are no answers.
    """
    if not answers:
        raise ValueError("a vote curve needs at least one answer, got none")
    names, codes = np.unique(np.asarray(answers, dtype=object).astype(str), return_inverse=True)
    good = np.isin(names, list(right))
    count = len(codes)
    orders = rng.permuted(np.tile(codes, (n_orders, 1)), axis=1)
    votes = orders[:, :, None] == np.arange(len(names))
    first = np.where(votes.any(axis=1), votes.argmax(axis=1), count)
    ranked = np.cumsum(votes, axis=1) * (count + 1) - first[:, None, :]
    curve: _Floats = good[ranked.argmax(axis=2)].mean(axis=0)
    return curve


def smallest_resolvable_difference(n_examples: int) -> float:
    """Compute the smallest true difference of two allocations that a number of paired examples can show.

    For right-or-wrong scores and a two-sided test: n = (z_level·√d + z_power·√(d - δ²))² / δ² (McNemar's
    test; Connor 1987). d, the share of examples whose scores differ, is 0.3 at least; the
    level is 0.05 and the power 0.8.

    Args:
        n_examples: The number of paired examples.

    Returns:
        The difference δ; 1.0 when even the largest can't be detected.
    """
    z_level, z_power = _NORMAL.inv_cdf(1 - _LEVEL / 2), _NORMAL.inv_cdf(_POWER)

    def is_detected(difference: float) -> bool:
        share = max(_DISCORDANT, difference)
        needed = z_level * math.sqrt(share) + z_power * math.sqrt(share - difference**2)
        return needed <= difference * math.sqrt(n_examples)

    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if is_detected(middle) else (middle, high)
    return high


def _present(scores: Iterable[float | None]) -> _Floats:
    return np.array([score for score in scores if score is not None], dtype=np.float64)


def _paired(first: Scores, second: Scores) -> Iterable[float | None]:
    for example_id, a in first.items():
        b = second.get(example_id)
        yield None if a is None or b is None else a - b


def _mean(values: _Floats) -> float:
    return math.fsum(values) / len(values)


def _bounds(
    values: _Floats,
    scale: tuple[float, float],
    rng: np.random.Generator,
    confidence: float,
    n_resamples: int,
) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of the mean (Efron 1987).

    Where all values are the same, resampling varies nothing: then the mean may still be as far off as unseen
    values at the ends of the scale could pull it, at the largest share of them that n draws miss with
    probability 1 - confidence on either side together.
    """
    n, alpha = len(values), 1 - confidence
    mean = _mean(values)
    distinct, counts = np.unique(values.round(_DECIMALS), return_counts=True)
    if len(distinct) == 1:
        unseen, value = 1 - (alpha / 2) ** (1 / n), float(distinct[0])
        return value - unseen * (value - scale[0]), value + unseen * (scale[1] - value)
    means = np.sort(rng.multinomial(n, counts / n, size=n_resamples) @ distinct / n)
    deviation = np.repeat(distinct, counts) - mean
    acceleration = float((deviation**3).sum()) / (6 * float((deviation**2).sum()) ** 1.5)
    below, equal = np.searchsorted(means, [mean - 10**-_DECIMALS, mean + 10**-_DECIMALS])
    share = min(max((below + equal) / 2 / n_resamples, 1 / n_resamples), 1 - 1 / n_resamples)
    bias = _NORMAL.inv_cdf(share)
    ends = []
    for tail in (alpha / 2, 1 - alpha / 2):
        z = bias + _NORMAL.inv_cdf(tail)
        ends.append(_NORMAL.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(means, ends)
    return min(float(low), mean), max(float(high), mean)


class Stream(IntEnum):
    """The purposes that random numbers are drawn for.

    MODEL_SCORE and MODEL_DIFFERENCE belong to `agenttts tune eval`, whose generators take further numbers.
    """

    TEST_SCORE = 2
    TEST_DIFFERENCE = 3
    EQUIVALENCE = 4
    SELECTION = 5
    FURTHER_METRIC = 6
    HEADROOM = 7
    FOLDS = 8
    POLICY_DIFFERENCE = 9
    IMPROVEMENT = 11
    POLICY_TEST = 14
    MODEL_SCORE = 1
    MODEL_DIFFERENCE = 2


def stream_rng(seed: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """Create the random generator of a stream.

    Args:
        seed: The seed of the run.
        stream: What the numbers are drawn for.
        numbers: What distinguishes the members of the stream, such as a trial's number.
    """
    return np.random.default_rng([seed, stream, *numbers])
