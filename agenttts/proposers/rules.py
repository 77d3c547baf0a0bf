"""The three insights of AgentTTS (arXiv 2508.00890, section 4) as rules, without an LLM.

First the models of each stage are compared at equal stage budget, with the other stages as in the best
default; a smaller model stays unless the larger is clearly better. Then the moves of `moves` from the best
allocations so far are ranked by the expected gain that `gp` estimates from the history. When no move is
expected to help, the whole space is considered; when nothing in it is expected to help, the search is
finished. The lessons are put in words in `wording`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from agenttts.proposers import moves, wording
from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.proposers.evidence import Evidence
from agenttts.proposers.gp import Estimate
from agenttts.proposers.moves import Move, Rule
from agenttts.results.trials import TrialResult, merit
from agenttts.stats import paired_difference
from pipelines.allocation import Allocation

_LISTED = 20_000  # spaces up to this size are looked at as a whole
_DRAWN = 2_000  # allocations drawn from larger ones
_BASES = 3  # moves start from this many of the best trials
_HELPS = 0.02  # examples: a move is expected to help when its expected gain is worth this many


class InsightsProposer:
    """Proposes by the three insights. Deterministic: the same view gives the same turn.

    Args:
        without: Rules to leave out, to measure what they contribute.
    """

    name = "insights"
    batch = 1

    def __init__(self, without: Collection[Rule] = ()) -> None:
        self._without = frozenset(without)

    async def propose(self, view: SearchView, count: int) -> Turn:
        """Suggest allocations, as `decide`."""
        return self.decide(view, count)

    def decide(self, view: SearchView, count: int) -> Turn:
        """Suggest allocations.

        Args:
            view: What the proposer may know.
            count: The largest number of suggestions.

        Returns:
            The turn: suggestions that are in the space and untried, or `finished` when none is expected to
            help.
        """
        lessons = tuple(wording.lessons(view))
        suggestions: list[Suggestion] = []
        finished = None
        tried = set(view.tried)
        while len(suggestions) < count and finished is None:
            step = self._next(view, tried, suggestions)
            if isinstance(step, str):
                finished = step
            else:
                suggestions.append(step)
                tried.add(step.allocation)
        return Turn(tuple(suggestions), lessons, finished if not suggestions else None)

    def in_place(self, view: SearchView, count: int) -> Turn:
        """Take the turn of a silent proposer; the suggestions carry the rules' name.

        Args:
            view: What the proposer may know.
            count: The largest number of suggestions.

        Returns:
            The turn.
        """
        turn = self.decide(view, count)
        return replace(turn, suggestions=tuple(replace(s, proposer=self.name) for s in turn.suggestions))

    def fallback(self, view: SearchView, taken: Sequence[Allocation] = ()) -> Suggestion | None:
        """Suggest the best untried allocation, whether it is expected to help or not.

        Args:
            view: What the proposer may know.
            taken: Further allocations to leave out.

        Returns:
            The suggestion; None when every allocation was tried.
        """
        tried = set(view.tried) | set(taken)
        step = self._next(view, tried, [], always=True)
        return None if isinstance(step, str) else step

    def _next(
        self,
        view: SearchView,
        tried: set[Allocation],
        planned: Sequence[Suggestion],
        always: bool = False,
    ) -> Suggestion | str:
        """Return the next suggestion, or why there is none."""
        space = view.space
        if not view.scored:
            candidates = moves.untried(_anywhere(view), tried, space)
            if not candidates:
                return "every allocation of the space was tried"
            return Suggestion(
                candidates[0].allocation, "nothing has a score yet: the next allocation in order"
            )
        rivals = moves.models_at_equal_budget(space, _best_default(view).allocation)
        seed = [] if "model" in self._without else moves.untried(rivals, tried, space)
        if seed:
            return Suggestion(seed[0].allocation, wording.seed_reason(seed[0], _best_default(view)))
        return self._climb(view, tried, planned, always)

    def _climb(
        self, view: SearchView, tried: set[Allocation], planned: Sequence[Suggestion], always: bool
    ) -> Suggestion | str:
        space, scored = view.space, view.scored
        best = max(scored, key=merit)
        evidence = Evidence.of_scores([t.allocation for t in scored], [_score(t) for t in scored])
        estimate = Estimate(evidence)
        if planned:  # several at once: take what is planned to score as expected
            ahead = [s.allocation for s in planned]
            means, _ = estimate.predict(ahead)
            estimate = Estimate(evidence.supposing(ahead, [float(mean) for mean in means]))
        enough = _HELPS / max(view.n_examples, 1)
        near = [Move(winning_options(view), "combine")]
        for base in sorted(scored, key=merit, reverse=True)[:_BASES]:
            around = moves.around(space, base.allocation, base.number)
            near += [move for move in around if move.rule not in self._without]
        anywhere = moves.untried(_anywhere(view), tried, space)
        for candidates in (moves.untried(near, tried, space), anywhere):
            if not candidates:
                continue
            allocations = [move.allocation for move in candidates]
            (gains,) = estimate.expected_gains(allocations, [_score(best)])
            pick = int(np.argmax(gains))
            if gains[pick] >= enough or (always and candidates[0].rule == "explore"):
                (mean,), (std,) = estimate.predict([allocations[pick]])
                promise = wording.Promise(float(mean), float(std), _score(best), best.number)
                bases = {t.number: t for t in scored}
                base = bases.get(candidates[pick].base, best)
                return Suggestion(
                    allocations[pick], wording.move_reason(candidates[pick], base, promise, view)
                )
        if not anywhere:
            return "every allocation of the space was tried"
        return (
            f"no untried allocation is expected to beat trial {best.number} by as much as "
            f"{_HELPS:g} of an example"
        )


def winning_options(view: SearchView) -> Allocation:
    """Combine the option that won the comparison at equal stage budget at each stage.

    The smaller of two options stays unless the larger is clearly better: the 95 % interval of the paired
    difference excludes 0.

    Args:
        view: What the proposer may know; at least one trial has a score.

    Returns:
        The allocation, with units shared as in the best default and projected into the budget.
    """
    base = _best_default(view)
    by_allocation = {trial.allocation: trial for trial in view.scored}
    winners = base.allocation
    for stage in view.space.stages:
        rivals = [base] + [
            by_allocation[move.allocation]
            for move in moves.models_at_equal_budget(view.space, base.allocation)
            if move.stage == stage.name and move.allocation in by_allocation
        ]
        rivals.sort(key=lambda t: view.space.magnitude(stage.name, t.allocation[stage.name].option))
        winner = rivals[0]
        for larger in rivals[1:]:
            rng = np.random.default_rng([view.seed, larger.number, winner.number])
            if paired_difference(larger.scores, winner.scores, rng).low > 0:
                winner = larger
        winners = winners.replace(stage.name, winner.allocation[stage.name])
    return view.space.project(winners)


def _best_default(view: SearchView) -> TrialResult:
    """Return the best default that has a score; the best trial when no default has one."""
    defaults = set(view.space.defaults())
    scored_defaults = [t for t in view.scored if t.allocation in defaults]
    return max(scored_defaults or view.scored, key=merit)


def _anywhere(view: SearchView) -> list[Move]:
    """Return the whole space when it is small, else a seeded draw from it."""
    space = view.space
    if space.size <= _LISTED:
        return [Move(a, "explore") for a in space.enumerate(_LISTED)]
    rng = np.random.default_rng([view.seed, view.step])
    return [Move(moves.drawn(space, rng), "explore") for _ in range(_DRAWN)]


def _score(trial: TrialResult) -> float:
    assert trial.score is not None
    return trial.score
