"""The default proposer buys cells: seeds on a first part, growth where it pays, an end with its reason."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from agenttts.compare.landscapes import FAMILIES, Landscape, draw, pipeline
from agenttts.compare.simulation import SimulatedSearch
from agenttts.proposers import purchases
from agenttts.proposers.base import Suggestion
from agenttts.proposers.evidence import Evidence
from agenttts.proposers.gp import Estimate
from agenttts.proposers.registry import classical_proposer
from agenttts.proposers.solver import SolverProposer
from agenttts.results.ranking import unfinished
from pipelines.allocation import Allocation, StageChoice


@pytest.fixture(scope="module")
def voting() -> Landscape:
    return draw("voting", 2)


@pytest.fixture(scope="module")
def mixing() -> Landscape:
    return draw("voting", 0)


@pytest.fixture(scope="module")
def searched(voting: Landscape) -> SimulatedSearch:
    search = SimulatedSearch(voting, SolverProposer(), 3, seeded=True)
    asyncio.run(search.run(trials=8))
    return search


def test_seeds_are_spread_partial_and_cheap_ones_first(mixing: Landscape) -> None:
    """The defaults and mixed allocations, in the order of their cost, on the first tenth of the examples."""
    view = SimulatedSearch(mixing, SolverProposer(), 0, seeded=True).view(0, 10_000)
    seeds = purchases.seeds(view)
    units = [mixing.space.units(seed.allocation) for seed in seeds]
    assert units == sorted(units)
    assert {seed.n_examples for seed in seeds} == {max(8, -(-view.n_examples // 10))}
    assert [s.allocation for s in seeds if s.proposer == "default"] == sorted(
        mixing.space.defaults(), key=mixing.space.units
    )
    for stage, options in mixing.space.options.items():
        mixed = {a[stage].option for a in mixing.space.mixed()}
        assert mixed <= set(options) and len(mixed) > 1
    assert len(purchases.seeds(replace(view, cells_left=view.n_examples))) < len(seeds)


def test_mixed_allocations_differ_between_the_stages(mixing: Landscape) -> None:
    """No mixed allocation has one model at every stage, and all are within the budget."""
    mixed = mixing.space.mixed()
    assert mixed and all(a in mixing.space for a in mixed)
    assert any(len({choice.model for choice in a.values()}) > 1 for a in mixed)


def test_trials_grow_and_share_their_examples(searched: SimulatedSearch) -> None:
    """An allocation has one trial, which grows; every trial is on the first examples in the common order."""
    ids = searched.landscape.outcomes.example_ids
    assert len({t.allocation for t in searched.trials}) == len(searched.trials) < len(searched.moments)
    for trial in searched.trials:
        assert tuple(trial.scores) == ids[: len(trial.scores)]
        assert trial.status == ("complete" if len(trial.scores) == len(ids) else "partial")
    assert [m.cells for m in searched.moments] == sorted(m.cells for m in searched.moments)
    assert searched.cells == searched.moments[-1].cells <= 8 * len(ids)


def test_the_leader_and_the_best_default_are_complete_at_the_end(searched: SimulatedSearch) -> None:
    """Before the cells are used up, what the search returns and what it is compared with have all scores."""
    complete = {t.allocation for t in searched.trials if t.status == "complete"}
    assert complete & set(searched.landscape.space.defaults())
    assert searched.moments[-1].choice is not None


def test_what_looks_best_is_completed_and_a_default_stays_one(mixing: Landscape) -> None:
    """A default that a proposer lets grow is still one; the end completes the best one and the leader."""
    search = SimulatedSearch(mixing, SolverProposer(), 0, seeded=False)
    default, other = mixing.space.defaults()[0], mixing.space.mixed()[0]
    search._try(Suggestion(default, "a part", "default", n_examples=10), 0.0, 10**6)
    search._try(Suggestion(default, "a larger part", n_examples=20), 0.0, 10**6)
    search._try(Suggestion(other, "a part", n_examples=10), 0.0, 10**6)
    assert [(t.purpose, t.status) for t in search.trials] == [("baseline", "partial"), ("search", "partial")]
    search.complete()
    assert (search.trials[0].purpose, search.trials[0].status) == ("baseline", "complete")
    assert not unfinished(search.trials)


async def test_the_same_view_gives_the_same_turn(searched: SimulatedSearch) -> None:
    """Another proposer, which has seen nothing before, decides alike."""
    view = searched.view(5, 300)
    first, second = SolverProposer().decide(view, 2), SolverProposer().decide(view, 2)
    assert first == second
    assert len({s.allocation for s in first.suggestions}) == len(first.suggestions)


async def test_it_stops_by_itself_and_says_why() -> None:
    """A small space is settled long before its cells are used up, in words that give a number."""
    kind = replace(FAMILIES["voting"], stages=(2, 2), models=(2, 2), samples=(2,), examples=(400,))
    space, outcomes, truth = pipeline(kind, "small", np.random.default_rng(1))
    landscape = Landscape(name="small", space=space, outcomes=outcomes, truth=truth, best=1.0, exact=False)
    search = SimulatedSearch(landscape, SolverProposer(), 0, seeded=True)
    await search.run(trials=40)
    assert search.finished is not None
    assert "points" in search.finished or "every allocation" in search.finished
    assert search.cells < 0.8 * space.size * 400


@pytest.mark.parametrize("goal", ["frontier", "cost"])
async def test_other_goals_are_pursued(goal: str, voting: Landscape) -> None:
    """With a frontier or a required quality the search ends with complete trials, cheap ones among them."""
    search = SimulatedSearch(voting, SolverProposer(), 1, seeded=True)
    if goal == "frontier":
        search.settings = replace(search.settings, frontier=True)
    else:
        search.settings = replace(search.settings, objective="cost", min_quality=0.3)
    await search.run(trials=8)
    complete = [t for t in search.trials if t.status == "complete"]
    units = sorted(t.budget_units for t in complete)
    assert len(complete) >= 2 and units[0] < units[-1]


async def test_elimination_drops_what_is_clearly_behind() -> None:
    """Every allocation starts on the same part; those that go on are on further parts, the best in full."""
    kind = replace(FAMILIES["voting"], stages=(2, 2), models=(3, 3), samples=(4,), examples=(200,))
    space, outcomes, truth = pipeline(kind, "arms", np.random.default_rng(1))
    landscape = Landscape(name="arms", space=space, outcomes=outcomes, truth=truth, best=1.0, exact=False)
    search = SimulatedSearch(landscape, classical_proposer("elimination"), 0, seeded=True)
    await search.run(trials=200)
    assert search.finished is not None
    counts = [len(t.scores) for t in search.trials]
    assert len(counts) == space.size and set(counts) <= {20, 60, 140, 200} and min(counts) == 20
    best = max(search.trials, key=lambda t: (len(t.scores), t.score or 0.0))
    assert search.moments[-1].choice == best.allocation


def _pair(n: int, m: int) -> Allocation:
    return Allocation({"a": StageChoice("x", n), "b": StageChoice("y", m)})


def test_paired_examples_say_more_than_others() -> None:
    """A trial on the examples on which the leader was scored leaves less doubt about their difference."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0.5, 0.4, 40)
    allocations = (_pair(1, 1), _pair(16, 16))
    scores = np.stack([hard + rng.normal(0, 0.1, 40), hard + rng.normal(0.05, 0.1, 40)])
    scores[1, 20:] = np.nan
    evidence = Evidence(
        allocations=allocations,
        n_examples=40,
        rows=np.array([0, 1, 0]),
        weights=np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
        sizes=np.array([20.0, 20.0]),
        means=np.array([scores[0, :20].mean(), scores[1, :20].mean(), scores[0, 20:].mean()]),
        variances=np.zeros(3),
        scores=scores,
        counts={allocations[0]: 40, allocations[1]: 20},
        settled={},
    )
    estimate = Estimate(evidence)
    rivals = estimate.rivals([allocations[1], _pair(4, 4)], allocations[0])
    _, stds = estimate.predict(allocations)
    assert rivals.chances @ rivals.variances[:, 0] < stds[1] ** 2
    new = estimate.changes([allocations[1], _pair(4, 4)], allocations[0], np.array([20, 0]), 40)
    assert (new > 0).all()
    draws = estimate.draws(list(allocations), 200, rng)
    assert abs(draws[:, 0].mean() - scores[0].mean()) < 0.01 and draws[:, 0].std() < 0.01


async def test_a_suggestion_asks_for_a_part_of_the_examples(voting: Landscape) -> None:
    """The first examples are scored; asked again for more, the same trial has those too."""
    search = SimulatedSearch(voting, SolverProposer(), 0, seeded=False)
    allocation = voting.space.defaults()[0]
    search._try(Suggestion(allocation, "a part", n_examples=10), 0.0, 10**6)
    before = dict(search.trials[0].scores)
    assert search.view(1, 100).partial == tuple(search.trials) and not search.view(1, 100).tried
    search._try(Suggestion(allocation, "the rest"), 0.0, 10**6)
    (trial,) = search.trials
    assert trial.status == "complete" and dict(list(trial.scores.items())[:10]) == before
    assert search.view(2, 150).trials_left == -(-150 // search.n_examples)
