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
from agenttts.proposers.solver import SolverProposer
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
        search._try(Suggestion(allocation, "test"), 0.0)
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


def test_the_solver_weighs_beliefs(landscape: Landscape) -> None:
    """What it expects of an untried allocation follows the ratings, whichever way they point."""
    view = after(landscape, landscape.space.defaults()[:1])
    expectations = []
    priors = [prior_of(landscape, right=right) for right in (True, False)]
    for prior in priors:
        outlook = SolverProposer().outlook(replace(view, beliefs=prior.beliefs(view)))
        assert outlook is not None
        expectations.append({e.allocation: e.score for e in outlook.expected})
    both = expectations[0].keys() & expectations[1].keys()
    beliefs = [{b.allocation: b.score for b in prior.beliefs(view)} for prior in priors]
    known = [a for a in both if a in beliefs[0] and a in beliefs[1]]
    changes = [(expectations[0][a] - expectations[1][a], beliefs[0][a] - beliefs[1][a]) for a in known]
    assert known and sum(change * believed for change, believed in changes) > 0


def test_an_empty_prior_believes_nothing(landscape: Landscape) -> None:
    """Without ratings the solver decides as it does alone."""
    assert Prior().beliefs(after(landscape, [])) == ()
