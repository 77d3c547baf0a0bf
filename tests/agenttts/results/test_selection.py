"""The correction of a chosen score: no bias where all trials are equal, and intervals that hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agenttts.results.selection import Scoreboard, gain_of_knowing

N_SEARCH, N_FRESH = 120, 40


def ties(seed: int, n_trials: int = 20, chance: float = 0.6) -> tuple[Scoreboard, float]:
    """Trials that are equally good on questions of unequal difficulty; the default is the first."""
    rng = np.random.default_rng(seed)
    hardness = rng.beta(2 * chance, 2 * (1 - chance), N_SEARCH + N_FRESH)
    scores = (rng.random((n_trials, len(hardness))) < hardness).astype(float)
    fresh = np.arange(len(hardness)) >= N_SEARCH
    is_default = np.arange(n_trials) == 0
    return Scoreboard(scores=scores, fresh=fresh, is_default=is_default, seed=seed), chance


def without_fresh(board: Scoreboard) -> Scoreboard:
    return Scoreboard(
        scores=board.scores[:, ~board.fresh],
        fresh=board.fresh[~board.fresh],
        is_default=board.is_default,
        seed=board.seed,
    )


@pytest.mark.parametrize("uses_fresh", [False, True])
def test_the_winner_of_equals_is_not_said_to_be_better(uses_fresh: bool) -> None:
    """Over many searches the claimed score and lead are near the truth, and their intervals hold it."""
    errors, leads, held = [], [], []
    for seed in range(60):
        board, truth = ties(seed)
        board = board if uses_fresh else without_fresh(board)
        winner = int(board.levels.argmax())
        claim, lead = board.claim(winner), board.difference(winner, 0)
        errors.append(claim.mean - truth)
        leads.append(lead.mean)
        held.append(claim.holds(truth) and lead.holds(0.0))
        assert uses_fresh or board.search_means[winner] > claim.mean
    assert -0.035 < np.mean(errors) < 0.015 and -0.035 < np.mean(leads) < 0.015
    assert np.mean(held) >= 0.9


def test_trials_that_were_dropped_count_as_luck() -> None:
    """Where the best of equals on a few examples grow to all, their luck on the few is taken out, too."""
    aware, unaware = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scores = (rng.random((60, N_SEARCH)) < 0.6).astype(float)
        order = np.argsort(-scores[:, :40].mean(axis=1))
        grown, dropped = scores[order[:4]], scores[order[4:]]
        dropped[:, 40:] = np.nan
        alone = Scoreboard(
            scores=grown, fresh=np.zeros(N_SEARCH, bool), is_default=np.arange(4) == 0, seed=seed
        )
        beside = replace(alone, dropped=dropped, dropped_default=np.zeros(len(dropped), bool))
        winner = int(alone.levels.argmax())
        unaware.append(alone.claim(winner).mean - 0.6)
        aware.append(beside.claim(winner).mean - 0.6)
        assert beside.luck - beside.luck_of_default > alone.luck - alone.luck_of_default
    assert np.mean(aware) < np.mean(unaware) - 0.01 and abs(np.mean(aware)) < abs(np.mean(unaware))


def test_fresh_examples_weigh_by_their_number() -> None:
    """With fresh examples the interval is narrower, and a required score is easier to show."""
    board, _ = ties(3)
    plain = without_fresh(board)
    winner = int(plain.levels.argmax())
    wide, narrow = plain.claim(winner), board.claim(winner)
    assert narrow.n == N_SEARCH + N_FRESH and wide.n == N_SEARCH
    assert narrow.high - narrow.low < wide.high - wide.low
    assert plain.lower_bound(winner) < plain.bound_after(winner, 500) < wide.mean


def test_a_fresh_example_that_a_trial_lacks_does_not_move_its_rank() -> None:
    """Hard fresh examples lower those that have them and those that have not alike."""
    scores = np.array([[1.0, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, np.nan], [1, 0, 1, 1, np.nan, np.nan]])
    board = Scoreboard(
        scores=scores, fresh=np.arange(6) >= 4, is_default=np.array([True, False, False]), seed=0
    )
    assert board.search_means == pytest.approx([0.75, 0.5, 0.75])
    assert board.levels[0] - board.levels[1] == pytest.approx((3 - (2 - 0.25)) / 6)
    assert board.levels[2] > board.levels[1] and list(board.n_fresh) == [2, 1, 0]


def test_scores_that_are_all_the_same_leave_doubt() -> None:
    """Fifty right of fifty are no proof of perfection, nor equals on fifty examples of equality."""
    board = Scoreboard(
        scores=np.ones((2, 50)), fresh=np.zeros(50, bool), is_default=np.array([True, False]), seed=0
    )
    claim = board.claim(1)
    assert claim.mean == 1.0 and 0.9 < claim.low < 0.96
    assert 0.9 < board.lower_bound(1) < 1.0
    assert board.difference(0, 0).low == board.difference(0, 0).high == 0.0
    (few,) = board.shortfall_bounds([0], 1)
    (many,) = Scoreboard(
        scores=np.ones((2, 400)), fresh=np.zeros(400, bool), is_default=np.array([True, False]), seed=0
    ).shortfall_bounds([0], 1)
    assert few < many < 0 and many > -0.01


def test_the_best_of_many_that_is_right_on_all_of_few_examples_is_doubted() -> None:
    """Of 40 at 0.7 the best is often right on 12 of 12; what is claimed of it then still allows for 0.7."""
    n_perfect = 0
    for seed in range(40):
        scores = (np.random.default_rng(seed).random((40, 12)) < 0.7).astype(float)
        board = Scoreboard(scores=scores, fresh=np.zeros(12, bool), is_default=np.arange(40) < 1, seed=seed)
        winner = int(board.levels.argmax())
        n_perfect += bool(scores[winner].all())
        claim = board.claim(winner)
        assert claim.low <= 0.7 <= claim.high and board.lower_bound(winner) < 0.7
        lead = board.difference(winner, 0).mean
        assert not winner or lead == pytest.approx(
            claim.mean - board.claim(0, of_defaults=True).mean, abs=0.05
        )
    assert n_perfect > 10


def test_trials_without_a_common_example_leave_everything_open() -> None:
    """Their difference may be anything from -1 to 1, on no example."""
    scores = np.array([[1.0, 0, np.nan, np.nan], [np.nan, np.nan, 1, 1], [np.nan] * 4])
    board = Scoreboard(
        scores=scores, fresh=np.zeros(4, bool), is_default=np.array([True, False, False]), seed=0
    )
    lead, claim = board.difference(1, 0), board.claim(2)
    assert (lead.low, lead.high, lead.n) == (-1.0, 1.0, 0) and (claim.low, claim.high, claim.n) == (
        0.0,
        1.0,
        0,
    )
    assert board.lower_bound(2) < 0 and board.shortfall_bounds([0], 1)[0] < -0.5


@pytest.mark.parametrize("n_cheaper", [1, 7])
def test_a_cheaper_one_that_is_worse_than_the_margin_is_rarely_recommended(n_cheaper: int) -> None:
    """Copies of the best that fail where it does not, on 2 % of examples, are not shown to lose under 1 %."""
    n_false = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        best = (rng.random(180) < 0.75).astype(float)
        copies = [np.where(rng.random(180) < 0.02 / 0.75, 0.0, best) for _ in range(n_cheaper)]
        board = Scoreboard(
            scores=np.array([*copies, best]),
            fresh=np.zeros(180, bool),
            is_default=np.arange(n_cheaper + 1) < 1,
            seed=seed,
        )
        n_false += max(board.shortfall_bounds(range(n_cheaper), n_cheaper)) > -0.01
    assert n_false <= 0.05 * 200


def test_knowing_more_is_worth_most_where_the_order_is_open() -> None:
    """A tie that further examples can move is worth looking at; a clear lead, or a sure tie, is not."""
    gains = gain_of_knowing([0.0, 0.0, 0.3], [0.02, 1e-9, 0.02])
    assert gains[0] == pytest.approx(0.02 / np.sqrt(2 * np.pi))
    assert gains[1] < 1e-6 and gains[2] < 1e-6
