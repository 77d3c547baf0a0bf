"""An LLM's ratings as a prior: what the solver is told of them, and how trials change that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from agenttts.compare.landscapes import Landscape, draw
from agenttts.compare.simulation import SimulatedSearch
from agenttts.proposers.base import SearchView, Suggestion
from agenttts.proposers.moves import grid
from agenttts.proposers.prior import Prior, Rating
from agenttts.proposers.solver import Outlook, SolverProposer
from pipelines.allocation import Allocation


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return draw("voting", 2)


def prior_of(landscape: Landscape, right: bool) -> Prior:
    """Ratings that order the options of each stage as their sizes do, or the other way round."""
    ratings = {}
    for stage, options in landscape.space.options.items():
        shares = np.linspace(0.4, 0.8, len(options))
        shares = shares if right else shares[::-1]
        ratings[stage] = {o: Rating(float(s), float(s) + 0.1) for o, s in zip(options, shares, strict=True)}
    return Prior(ratings)


def after(landscape: Landscape, allocations: Sequence[Allocation]) -> SearchView:
    search = SimulatedSearch(landscape, SolverProposer(), 0, seeded=False)
    for allocation in allocations:
        search._try(Suggestion(allocation, "test"), 0.0, 10_000)
    return search.view(1, 10)


def test_beliefs_move_with_the_level_of_the_trials(landscape: Landscape) -> None:
    """Before trials the ratings stand as they are; after one their level is the trial's score."""
    prior = prior_of(landscape, right=True)
    before = prior.beliefs(after(landscape, []))
    assert before and all(
        b.score == pytest.approx(prior.expected(landscape.space, b.allocation)) for b in before
    )
    tried = landscape.space.defaults()[0]
    view = after(landscape, [tried])
    off = view.scored[0].score - prior.expected(landscape.space, tried)  # type: ignore[operator]
    for belief in prior.beliefs(view):
        expected = np.clip(prior.expected(landscape.space, belief.allocation) + off, 0, 1)
        assert belief.score == pytest.approx(float(expected))


def test_trials_that_contradict_a_prior_end_it(landscape: Landscape) -> None:
    """With scores that fall as the ratings rise nothing is believed; with scores that rise it is."""
    prior = prior_of(landscape, right=True)
    every = sorted(grid(landscape.space, 5000) or (), key=lambda a: prior.expected(landscape.space, a))
    view = after(landscape, [*every[:4], *every[-4:]])
    expected = [prior.expected(landscape.space, t.allocation) for t in view.trials]

    def scored(slope: float) -> SearchView:
        trials = tuple(
            replace(t, score=0.5 + slope * (e - float(np.mean(expected))))
            for t, e in zip(view.trials, expected, strict=True)
        )
        return replace(view, trials=trials)

    assert prior.beliefs(scored(2.0)) and not prior.beliefs(scored(-4.0))
    spread = [np.std([b.score for b in prior.beliefs(scored(slope))]) for slope in (0.5, 2.0)]
    assert spread[0] < spread[1]


@pytest.mark.parametrize("right", [True, False])
def test_the_solver_weighs_beliefs(right: bool) -> None:
    """What it tries and expects next is rated higher than without them, whichever way the ratings point."""
    landscape = draw("scarce", 1)
    view = after(landscape, landscape.space.defaults()[:1])
    prior = prior_of(landscape, right)
    alone = SolverProposer().outlook(view)
    informed = SolverProposer().outlook(replace(view, beliefs=prior.beliefs(view)))
    assert alone is not None and informed is not None

    def rated(outlook: Outlook) -> float:
        return float(np.mean([prior.expected(landscape.space, a) for a in outlook.next]))

    assert rated(informed) > rated(alone)


def test_an_empty_prior_believes_nothing(landscape: Landscape) -> None:
    """Without ratings the solver decides as it does alone."""
    assert Prior().beliefs(after(landscape, [])) == ()
