"""The running count: it equals the aggregators, and what it calls decided is never undone."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import (
    BestOfN,
    Candidate,
    Example,
    LengthWeighted,
    LinesParser,
    Plurality,
    SetVote,
    Weighted,
)
from pipelines.policy import Stop, Vote
from pipelines.stages.aggregators import aggregate
from pipelines.stages.ballots import SET_FEATURES, VALUE_FEATURES, Ballots
from pipelines.stages.counts import Count, share_above
from tests.pipelines.stages.voting import plurality, set_vote, stage

ORDER = ["b", "a", "x"]
EXAMPLE = Example("1", {"candidates": ORDER})
ITEMS = "abcd"
ANY_VALUE = st.one_of(
    st.none(),
    st.sampled_from(["A", "a ", "b", "c", " ", "1", 1, True, 1.0, float("nan")]),
    st.lists(st.sampled_from(["x", "X", " ", 1, "1", None]), max_size=3),
)
THRESHOLDS = st.sampled_from([0.1, 0.15, 0.2, 0.25, 0.5, 0.7, 1.0])
PLAIN, WEIGHTED = Count(), Count(kind="weighted")


def counted(candidates: list[Candidate], count: Count, order: list[str] | None = None) -> Ballots:
    ballots = Ballots(of_lists=count.threshold is not None, order=order)
    for candidate in candidates:
        ballots.add(candidate)
    return ballots


@st.composite
def worlds(draw: st.DrawFn, of_lists: bool) -> list[tuple[str, Any, float]]:
    """All texts that a model can write, the value of each and its probability; together at most 1."""
    value = st.lists(st.sampled_from(ITEMS), max_size=3, unique=True) if of_lists else st.sampled_from(ITEMS)
    values = draw(st.lists(st.one_of(st.none(), value, value, value), min_size=1, max_size=6))
    sizes = [draw(st.floats(0.01, 1.0)) for _ in values]
    total = math.fsum(sizes) * draw(st.floats(1.0, 1.5))
    return [(f"text {i}", v, s / total) for i, (v, s) in enumerate(zip(values, sizes, strict=True))]


@st.composite
def draws(draw: st.DrawFn, of_lists: bool) -> list[Candidate]:
    """Samples from a world, in any order, with the probability that each text has there."""
    world = draw(worlds(of_lists))
    picks = draw(st.lists(st.sampled_from(world), min_size=1, max_size=9))
    tokens = draw(st.lists(st.integers(1, 9), min_size=len(picks), max_size=len(picks)))
    return [
        Candidate(i, text, value, math.log(p) / t, t)
        for i, ((text, value, p), t) in enumerate(zip(picks, tokens, strict=True))
    ]


@given(st.lists(ANY_VALUE, max_size=8))
def test_the_plain_vote_on_values_is_the_plurality(values: list[Any]) -> None:
    """After every sample the output is what the aggregator makes of the samples so far."""
    candidates = [Candidate(i, f"text {i % 3}", value) for i, value in enumerate(values)]
    ballots = Ballots(of_lists=False)
    for n, candidate in enumerate(candidates, 1):
        ballots.add(candidate)
        expected = plurality(candidates[:n])
        assert repr(ballots.output(PLAIN)) == repr(expected)
        assert repr(aggregate(stage(Plurality()), candidates[:n], EXAMPLE, {})) == repr(expected)


@given(st.lists(ANY_VALUE, max_size=8), THRESHOLDS, st.booleans())
def test_the_plain_vote_on_lists_is_the_set_vote(values: list[Any], threshold: float, union: bool) -> None:
    """The same for votes item by item, with the order of the allowed values."""
    candidates = [Candidate(i, f"text {i % 3}", value) for i, value in enumerate(values)]
    voting = stage(SetVote(threshold=threshold, union=union), LinesParser(allowed="candidates"))
    count = Count.of(voting.aggregator)
    assert count is not None
    ballots = Ballots.of(voting, count, EXAMPLE)
    for n, candidate in enumerate(candidates, 1):
        ballots.add(candidate)
        expected = set_vote(candidates[:n], threshold, union, ORDER)
        assert repr(ballots.output(count)) == repr(expected)
        assert repr(aggregate(voting, reversed(candidates[:n]), EXAMPLE, {})) == repr(expected)


@pytest.mark.parametrize("of_lists", [False, True])
@pytest.mark.parametrize("kind", ["plain", "weighted", "length_weighted"])
@given(data=st.data(), threshold=THRESHOLDS)
def test_what_is_decided_stays(kind: Any, of_lists: bool, data: st.DataObject, threshold: float) -> None:
    """Once decided for n samples, the output after any number of further ones up to n is the same."""
    candidates = data.draw(draws(of_lists))
    t0 = 4.0 if kind == "length_weighted" else math.inf
    count = Count(kind=kind, threshold=threshold if of_lists else None, t0=t0)
    ballots = Ballots(of_lists=of_lists)
    for n, candidate in enumerate(candidates, 1):
        ballots.add(candidate)
        if ballots.decided(count, len(candidates)):
            for further in range(n, len(candidates) + 1):
                assert counted(candidates[:further], count).output(count) == ballots.output(count)


@pytest.mark.parametrize("of_lists", [False, True])
@given(data=st.data(), threshold=THRESHOLDS)
def test_the_strongest_rivals_do_not_undo_what_is_decided(
    of_lists: bool, data: st.DataObject, threshold: float
) -> None:
    """Nor does the worst that can come: all further samples for one rival, with all unseen probability."""
    seen = data.draw(draws(of_lists))
    left = data.draw(st.integers(1, 6))
    for kind in ("plain", "weighted"):
        count = Count(kind=kind, threshold=threshold if of_lists else None)  # type: ignore[arg-type]
        ballots = counted(seen, count)
        n = len(seen)
        if not ballots.decided(count, n + left):
            continue
        unseen = max(ballots.unseen_mass, 1e-300)
        for rival in ([], *([item] for item in "abcdz")) if of_lists else (*"abcdz", None):
            worst = [Candidate(n + i, "rival", rival, math.log(unseen), 1) for i in range(left)]
            for k in range(1, left + 1):
                assert counted([*seen, *worst[:k]], count).output(count) == ballots.output(count)


def test_decided_at_the_first_sample_that_settles_it() -> None:
    """Of 8 samples 5 alike decide, and 4 where the tie would go to them as first drawn."""
    alike = [Candidate(i, "a", "a") for i in range(8)]
    assert [counted(alike[:n], PLAIN).decided(PLAIN, 8) for n in (3, 4, 5)] == [False, True, True]
    later = [Candidate(0, "b", "b"), *alike[1:]]
    assert [counted(later[:n], PLAIN).decided(PLAIN, 8) for n in (5, 6)] == [False, True]


def test_probability_outweighs_repetition() -> None:
    """A text drawn twice counts its probability once, and two texts of one value add up."""
    rare = [Candidate(i, "rare", "a", math.log(0.05), 1) for i in range(2)]
    common = [Candidate(2, "common", "b", math.log(0.6), 1)]
    candidates = [*rare, *common]
    assert counted(candidates, PLAIN).output(PLAIN) == "a"
    assert counted(candidates, WEIGHTED).output(WEIGHTED) == "b"
    assert aggregate(stage(Weighted()), candidates, EXAMPLE, {}) == "b"


def test_sets_weigh_share_and_probability_half_and_half() -> None:
    """An item of half the lists and a tenth of their probability weighs 0.3."""
    lists = [Candidate(0, "x", ["x"], math.log(0.1), 1), Candidate(1, "a", ["a"], math.log(0.9), 1)]
    for threshold, expected in ((0.29, ["a", "x"]), (0.31, ["a"]), (0.71, [])):
        voting = stage(Weighted(threshold=threshold), LinesParser(allowed="candidates"))
        assert aggregate(voting, lists, EXAMPLE, {}) == expected


def test_short_samples_weigh_more() -> None:
    """One short sample outweighs two long ones; with a long t0 the two win."""
    candidates = [
        Candidate(0, "", "a", None, 100),
        Candidate(1, "", "a", None, 100),
        Candidate(2, "", "b", None, 10),
    ]
    assert aggregate(stage(LengthWeighted(t0=20)), candidates, EXAMPLE, {}) == "b"
    assert aggregate(stage(LengthWeighted(t0=2000)), candidates, EXAMPLE, {}) == "a"


@pytest.mark.parametrize("logprob", [None, -500.0, float("nan")])
def test_weighted_steps_back_to_the_plain_vote(logprob: float | None) -> None:
    """Without log-probabilities, and where texts never repeat, ballots count alike, and it says so."""
    values = ["b", "a", "a", None]
    candidates = [Candidate(i, f"long {i}", value, logprob, 3) for i, value in enumerate(values)]
    ballots = counted(candidates, WEIGHTED)
    assert ballots.steps_back(WEIGHTED)
    assert ballots.output(WEIGHTED) == ballots.output(PLAIN) == "a"
    likely = counted([Candidate(0, "b", "b", -0.1, 3)], WEIGHTED)
    assert not likely.steps_back(WEIGHTED)


def test_confidence_by_votes_and_by_probability() -> None:
    """4 of 4 alike are as sure as the beta posterior says; of weighted, what is unseen may not matter."""
    alike = [Candidate(i, f"{i}", "a") for i in range(4)]
    assert share_above(4, 4, 0.5) == pytest.approx(1 - 1 / 32)
    assert counted(alike, PLAIN).confident(PLAIN, 0.95) and not counted(alike, PLAIN).confident(PLAIN, 0.97)
    seen = [Candidate(0, "a", "a", math.log(0.6), 1), Candidate(1, "b", "b", math.log(0.2), 1)]
    assert counted(seen, WEIGHTED).confident(WEIGHTED, 1.0)
    close = [Candidate(0, "a", "a", math.log(0.4), 1), Candidate(1, "b", "b", math.log(0.3), 1)]
    assert [counted(close, WEIGHTED).confident(WEIGHTED, level) for level in (0.3, 0.4)] == [True, False]


@given(st.lists(ANY_VALUE, max_size=8), THRESHOLDS)
def test_features_are_numbers_of_a_fixed_count(values: list[Any], threshold: float) -> None:
    """Whatever was drawn, also nothing, there are as many features as names, all finite."""
    candidates = [Candidate(i, f"text {i % 3}", v, -float(i), 2) for i, v in enumerate(values)]
    for kind in ("plain", "weighted"):
        for limit, names in ((None, VALUE_FEATURES), (threshold, SET_FEATURES)):
            count = Count(kind=kind, threshold=limit)  # type: ignore[arg-type]
            features = counted(candidates, count).features(count)
            assert len(features) == len(names) and all(map(math.isfinite, features))


def test_a_vote_takes_the_place_of_the_aggregator() -> None:
    """A vote has the stage's threshold unless it brings its own; stages without a vote take none."""
    assert Count.of(SetVote(threshold=0.25), Vote(kind="weighted")) == Count(kind="weighted", threshold=0.25)
    assert Count.of(SetVote(union=True), Vote(threshold=0.2)) == Count(threshold=0.2)
    assert Count.of(Plurality(), Vote(kind="length_weighted", t0=9.0)) == Count(kind="length_weighted", t0=9)
    assert Count.of(BestOfN()) is None
    with pytest.raises(ValueError, match="whole values takes no threshold"):
        Count.of(Plurality(), Vote(kind="weighted", threshold=0.2))
    with pytest.raises(ValueError, match="is no vote"):
        Count.of(BestOfN(), Vote(kind="weighted"))


def asked(candidates: list[Candidate], count: Count, stop: Stop) -> list[int]:
    """After how many samples it is asked whether to stop, to the end."""
    ballots, n_max, asked_at = counted([], count), len(candidates), list[int]()
    while not ballots.stops(count, stop, n_max):
        asked_at.append(ballots.next_check(count, stop, n_max))
        for candidate in candidates[ballots.n_samples : asked_at[-1]]:
            ballots.add(candidate)
    return asked_at


def test_a_stop_asks_ever_less_often() -> None:
    """After the first samples, and then each time their number has grown by half; if fixed, never."""
    values = [Candidate(i, f"{i}", "ab"[i % 2]) for i in range(32)]
    assert asked(values, PLAIN, Stop(kind="confidence", level=1.0)) == [2, 3, 5, 8, 12, 18, 27, 32]
    assert asked(values, PLAIN, Stop()) == [32]


def test_nothing_is_asked_before_it_can_be_decided() -> None:
    """Half of the samples of a plain vote are drawn at once, and all but a share of those for sets."""
    alike = [Candidate(i, "a", "a") for i in range(32)]
    assert asked(alike, PLAIN, Stop(kind="decided")) == [16]
    split = [Candidate(i, f"{i}", "b" if i % 3 == 0 else "a") for i in range(32)]
    assert asked(split, PLAIN, Stop(kind="decided")) == [16, 22, 24, 25, 26]
    lists = [Candidate(i, "a", ["a"]) for i in range(32)]
    assert asked(lists, Count(threshold=0.25), Stop(kind="decided")) == [25]


@pytest.mark.parametrize("of_lists", [False, True])
@given(data=st.data(), threshold=THRESHOLDS)
def test_a_plain_vote_is_asked_at_the_first_sample_that_decides_it(
    of_lists: bool, data: st.DataObject, threshold: float
) -> None:
    """No sample is drawn needlessly: where it is asked last is the first n that is decided."""
    candidates = data.draw(draws(of_lists))
    count = Count(threshold=threshold if of_lists else None)
    n_max = len(candidates)
    first = next(n for n in range(1, n_max + 1) if counted(candidates[:n], count).decided(count, n_max))
    assert asked(candidates, count, Stop(kind="decided"))[-1] == first
