"""Scores and costs by example id, kept as arrays."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.results.byexample import CostsByExample, ExampleIds, ScoresByExample
from agenttts.results.trials import QueryCost
from pipelines.examples import Example

IDS = [f"e{i}" for i in range(6)]
SCORES = st.none() | st.floats(0, 1)


@given(st.dictionaries(st.sampled_from(IDS), SCORES))
def test_scores_in_the_order_of_the_examples(scores: Mapping[str, float | None]) -> None:
    """They are what a dict in the order of the ids is, whichever examples have been run."""
    ordered = ScoresByExample.of(ExampleIds(IDS), scores)
    assert list(ordered.items()) == sorted(scores.items())
    assert ordered == scores and len(ordered) == len(scores)
    assert [example_id for example_id in [*IDS, "other"] if example_id in ordered] == sorted(scores)


def test_the_same_examples_share_their_ids() -> None:
    """Trials on the same examples in the same order have one object of ids, and others their own."""
    examples = [Example(example_id, {}) for example_id in IDS]
    assert ExampleIds.of(examples) is ExampleIds.of(list(examples))
    assert ExampleIds.of(examples) is not ExampleIds.of(examples[::-1])


def test_what_has_no_score_has_no_cost() -> None:
    """Costs are those of the scored examples, with None for what is not known."""
    scores, flops, usd = (
        array("d", values) for values in ([1.0, nan, 0.0], [2.0, nan, 3.0], [0.1, 0.2, nan])
    )
    costs = CostsByExample(ExampleIds(IDS), scores, flops, usd)
    assert costs == {"e0": QueryCost(2.0, 0.1), "e2": QueryCost(3.0, None)} and len(costs) == 2
    for example_id in ("e1", "e5", "other"):
        with pytest.raises(KeyError):
            costs[example_id]
