"""Intervals by bootstrap over examples, and what a number of examples can resolve."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttts.stats import (
    ExactSum,
    holm,
    mean_interval,
    paired_difference,
    pass_at_k,
    smallest_resolvable_difference,
    vote_curve,
)

score_lists = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=40)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(deadline=None)
@given(score_lists)
def test_the_interval_holds_the_mean(scores: list[float | None]) -> None:
    """An interval lies in [0, 1] and holds the mean of the present scores; without any there is none."""
    found = mean_interval(scores, _rng())
    present = [score for score in scores if score is not None]
    if not present:
        assert found is None
        return
    assert found is not None
    assert found.n == len(present)
    assert found.mean == pytest.approx(sum(present) / len(present))
    assert -1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= 1 + 1e-9


def test_missing_is_not_zero() -> None:
    """A missing score changes neither mean nor interval."""
    scores = [1.0, 0.0, 1.0, 1.0, 0.0]
    assert mean_interval(scores, _rng()) == mean_interval([*scores, None, None], _rng())


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=30), st.randoms())
def test_the_order_of_examples_does_not_matter(scores: dict[str, float], random: object) -> None:
    """The same seed gives the same interval in whatever order the examples come."""
    values = list(scores.values())
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert mean_interval(values, _rng(3)) == mean_interval(shuffled, _rng(3))


def test_coverage() -> None:
    """Of 400 intervals of 100 right-or-wrong scores, about 95 % hold the true mean."""
    rng = _rng(1)
    held = 0
    for _ in range(400):
        found = mean_interval((rng.random(100) < 0.3).astype(float), rng, n_resamples=1000)
        assert found is not None
        held += found.holds(0.3)
    assert 0.92 <= held / 400 <= 0.98


def test_all_alike_is_no_certainty() -> None:
    """Ten right answers of ten leave room for a worse mean, as one error in four would hide that often."""
    found = mean_interval([1.0] * 10, _rng())
    assert found is not None
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025**0.1)


def test_differences_are_paired() -> None:
    """Only examples that both have count, and the pairing finds a difference that the means hide."""
    rng = _rng(2)
    base = {str(i): float(rng.random()) * 0.9 for i in range(100)}
    better: dict[str, float | None] = {key: value + 0.1 for key, value in base.items()}
    better["5"] = None
    found = paired_difference({**better, "more": 0.0}, base, _rng())
    assert found.n == 99
    assert found.mean == pytest.approx(0.1)
    assert found.low > 0
    swapped = paired_difference(base, better, _rng())
    assert swapped.mean == pytest.approx(-0.1)


def test_no_pair_no_knowledge() -> None:
    """Without a common example the difference may be anything."""
    found = paired_difference({"a": 1.0}, {"b": 0.0}, _rng())
    assert (found.n, found.low, found.high) == (0, -1.0, 1.0)


def test_few_examples_do_not_tell_apart() -> None:
    """One example on which two allocations differ says nothing, three hundred do."""
    assert paired_difference({"a": 1.0}, {"a": 0.0}, _rng()).holds(0.0)
    many = {str(i): 1.0 for i in range(300)}
    assert not paired_difference(many, dict.fromkeys(many, 0.0), _rng()).holds(0.0)


def test_resolvable_difference() -> None:
    """More examples resolve smaller differences: 200, of which 0.3 are discordant, about 0.11."""
    assert smallest_resolvable_difference(200) == pytest.approx(0.108, abs=0.002)
    steps = [smallest_resolvable_difference(n) for n in (1, 3, 10, 30, 100, 1000, 10_000)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == pytest.approx(1.0)


def test_holm_corrects_in_order() -> None:
    """The example of Holm's method: the smallest counts m times, none falls below one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    subsets = list(itertools.combinations(range(n), k))
    share = sum(any(i < right for i in subset) for subset in subsets) / len(subsets)
    assert pass_at_k(n, right, k) == pytest.approx(share)


def test_pass_at_k_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="n=4, c=2, k=5"):
        pass_at_k(4, 2, 5)


def test_a_vote_curve_is_over_orders_and_not_over_right_and_wrong() -> None:
    """Two right votes beat three wrong ones that disagree; one sample is right as often as they are."""
    answers = ["a", "a", "b", "c", "d"]
    curve = vote_curve(answers, {"a"}, np.random.default_rng(0), n_orders=4000)
    assert curve.shape == (5,) and curve[0] == pytest.approx(0.4, abs=0.03) and curve[-1] == 1.0
    turned = vote_curve(["a", "a", "b", "b", "b"], {"a"}, np.random.default_rng(0), n_orders=4000)
    assert turned[-1] == 0.0 < turned[0]
    exact = np.mean([_wins(order, 3) for order in itertools.permutations(answers)])
    assert curve[2] == pytest.approx(exact, abs=0.03)


def _wins(order: tuple[str, ...], n: int) -> bool:
    first = list(order[:n])
    return max(dict.fromkeys(first), key=first.count) == "a"


@given(st.lists(st.floats(-1e12, 1e12)))
def test_a_running_sum_is_exact(numbers: list[float]) -> None:
    """It comes to what `math.fsum` says of all numbers together, after each of them."""
    running = ExactSum()
    assert running.mean is None
    for n, number in enumerate(numbers, 1):
        running.add(number)
        assert running.total == math.fsum(numbers[:n])
        assert running.mean == math.fsum(numbers[:n]) / n
