"""How votes are counted, sets merged and the best sample picked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import BestOfN, Candidate, Example, LinesParser, Plurality, SetVote
from pipelines.errors import AggregationFailed, CustomCodeFailed
from pipelines.reading.comparing import vote_key
from pipelines.stages.aggregators import aggregate, best_of_n, mean_logprob, plurality
from tests.pipelines.stages.voting import stage

EXAMPLE = Example("1", {"candidates": ["c", "b", "a"]})
ITEMS = "abcd"
VALUES = st.one_of(
    st.none(), st.sampled_from(["A", "a ", "b", "c"]), st.lists(st.sampled_from("xy"), max_size=2)
)
VOTES = st.lists(VALUES, max_size=8)
BALLOTS = st.lists(
    st.one_of(st.none(), st.lists(st.sampled_from(ITEMS), max_size=4, unique=True)), max_size=8
)


def drawn(values: list[Any]) -> list[Candidate]:
    return [Candidate(index, f"text {index}", value) for index, value in enumerate(values)]


def set_vote(
    candidates: list[Candidate], threshold: float = 0.5, union: bool = False, order: list[str] | None = None
) -> Any:
    """The vote of a stage, whose allowed values are the order."""
    parser = None if order is None else LinesParser(allowed="order")
    voting = stage(SetVote(threshold=threshold, union=union), parser)
    return aggregate(voting, candidates, Example("1", {"order": order}), {})


def test_plurality_takes_the_most_votes() -> None:
    """Texts vote whatever their case and spacing, and the winner is written as first drawn."""
    assert plurality(drawn(["b", "New  York", "new york", None, None, None])) == "New  York"
    assert plurality(drawn([["x"], "x", ["x"]])) == ["x"]
    assert plurality(drawn([1, "1", True, 1])) == 1


def test_plurality_ties_go_to_the_first_drawn() -> None:
    """Of values with equally many votes the one drawn first wins."""
    assert plurality(drawn(["b", "a", "a", "b", "c"])) == "b"


@given(VOTES, st.randoms())
def test_order_of_arrival_does_not_matter(values: list[Any], random: Any) -> None:
    """Samples carry their index, so a permutation gives the same output from every aggregator."""
    candidates = [Candidate(i, "", v, mean_logprob=-float(i % 3)) for i, v in enumerate(values)]
    shuffled = random.sample(candidates, len(candidates))
    assert plurality(shuffled) == plurality(candidates)
    assert set_vote(shuffled) == set_vote(candidates)
    pick = [best_of_n(c, mean_logprob, EXAMPLE, {}) for c in (shuffled, candidates)]
    assert pick[0] == pick[1]


@given(VOTES)
def test_a_vote_for_the_winner_keeps_it(values: list[Any]) -> None:
    """One further sample of the winning value never changes the outcome; one that does not parse neither."""
    winner = plurality(drawn(values))
    assert plurality(drawn([*values, None])) == winner
    assert winner is None or plurality(drawn([*values, winner])) == winner


@given(VOTES)
def test_plurality_winner_was_drawn_and_is_unbeaten(values: list[Any]) -> None:
    """The output is one of the values, and no other has more votes."""
    winner = plurality(drawn(values))
    keys = [key for v in values if (key := vote_key(v))]
    assert (winner is None) == (not keys)
    if keys:
        assert winner in values
        assert keys.count(vote_key(winner)) == max(map(keys.count, keys))


@given(BALLOTS, st.floats(0.01, 1), st.floats(0.01, 1))
def test_set_vote_shrinks_with_the_threshold(ballots: list[Any], one: float, other: float) -> None:
    """A higher threshold keeps a subset, and the union holds every vote's outcome."""
    low, high = sorted((one, other))
    kept_low, kept_high = (set_vote(drawn(ballots), threshold) for threshold in (low, high))
    union = set_vote(drawn(ballots), high, union=True)
    if all(ballot is None for ballot in ballots):
        assert kept_low is kept_high is union is None
    else:
        assert kept_low is not None and kept_high is not None and union is not None
        assert set(kept_high) <= set(kept_low) <= set(union)
        assert set(union) == {item for ballot in ballots if ballot for item in ballot}


@given(BALLOTS, st.integers(1, 8))
def test_set_vote_counts_shares_of_parsed_lists(ballots: list[Any], tenths: int) -> None:
    """An item is kept when at least the share `threshold` of the parsed lists names it, exactly."""
    parsed = [ballot for ballot in ballots if ballot is not None]
    kept = set_vote(drawn(ballots), tenths / 10)
    expected = {i for i in ITEMS if parsed and 10 * sum(i in b for b in parsed) >= tenths * len(parsed)}
    expected &= {item for ballot in parsed for item in ballot}
    assert set(kept or ()) == expected


def test_set_vote_order() -> None:
    """Items stand in the given order, else as first drawn; an item twice in a list is one vote."""
    ballots = drawn([["b", "b", "a"], ["c", "a"], ["c", "b"]])
    assert set_vote(ballots) == ["b", "a", "c"]
    assert set_vote(ballots, order=["c", "a"]) == ["c", "a", "b"]
    assert set_vote(drawn([["a", "a"], ["b"], ["c"]])) == []


def test_set_vote_of_a_stage_uses_the_order_of_its_allowed_values() -> None:
    """A stage with allowed values gives its sets in their order."""
    voting = stage(SetVote(), LinesParser(allowed="candidates"))
    assert aggregate(voting, drawn([["a", "c"], ["a", "c"]]), EXAMPLE, {}) == ["c", "a"]


def test_best_of_n_takes_the_highest_score() -> None:
    """The parsed sample with the highest mean log-probability wins, ties go to the first drawn."""
    logprobs = [(None, -0.1), ("a", -3.0), ("b", -1.0), ("c", -1.0), ("d", None), ("e", float("nan"))]
    candidates = [Candidate(i, "", v, lp) for i, (v, lp) in enumerate(logprobs)]
    assert aggregate(stage(BestOfN()), candidates, EXAMPLE, {}) == "b"
    longest = BestOfN(scorer=lambda candidate, example, outputs: outputs[candidate.value])
    outputs = {"a": 1, "b": 2, "c": 3, "d": 9, "e": None}
    assert aggregate(stage(longest), candidates, EXAMPLE, outputs) == "d"


def test_best_of_n_without_scores_fails() -> None:
    """Parsed samples without a single score are a failure that says so; no parsed sample is just None."""
    with pytest.raises(
        AggregationFailed, match=r"needs a score for at least one sample, got none from .*mean_logprob"
    ):
        best_of_n(drawn(["a"]), mean_logprob, EXAMPLE, {})
    assert best_of_n(drawn([None]), mean_logprob, EXAMPLE, {}) is None


@pytest.mark.parametrize("aggregator", [Plurality(), SetVote(), BestOfN()])
@pytest.mark.parametrize("values", [[], [None, None]])
def test_nothing_parsed_gives_none(aggregator: Any, values: list[Any]) -> None:
    """Where no sample parsed the output is None, from every aggregator."""
    assert aggregate(stage(aggregator), drawn(values), EXAMPLE, {}) is None


def test_functions_aggregate() -> None:
    """A function gets the samples in order of drawing and the example; its fault is named."""
    joined = stage(lambda candidates, example: (*(c.value for c in candidates if c.value), example.id))
    assert aggregate(joined, reversed(drawn(["a", None, "b"])), EXAMPLE, {}) == ["a", "b", "1"]
    with pytest.raises(CustomCodeFailed, match=r"aggregator .* raised KeyError"):
        aggregate(stage(lambda candidates, example: example["nope"]), drawn(["a"]), EXAMPLE, {})
    with pytest.raises(CustomCodeFailed, match="JSON-able"):
        aggregate(stage(lambda candidates, example: object()), drawn(["a"]), EXAMPLE, {})


def test_votes_are_counted_as_scores_compare() -> None:
    """Two forms of Unicode are one text, true and "true" are one value, and a blank has no vote."""
    assert plurality(drawn(["caf\u00e9", "tea", "cafe\u0301"])) == "caf\u00e9"
    assert plurality(drawn([True, "no", "true"])) is True
    assert plurality(drawn([" ", " ", "tea"])) == "tea"
    assert plurality(drawn([" ", " "])) is None
