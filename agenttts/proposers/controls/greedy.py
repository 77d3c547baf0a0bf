"""Coordinate ascent: the model of each stage with the others unchanged, then its number of samples.

LLMSelector (arXiv 2502.14815) chooses models one stage at a time in this way. The search ends when a round
changes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.proposers.moves import models_at_equal_budget, samples, units_left
from agenttts.results.trials import merit
from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation


class GreedyProposer:
    """Proposes by coordinate ascent from the best trial so far. Deterministic."""

    name = "greedy"
    batch = 1

    async def propose(self, view: SearchView, count: int) -> Turn:
        """Suggest one allocation.

        Args:
            view: What the proposer may know.
            count: Ignored; there is one suggestion at most.

        Returns:
            The turn; `finished` when every change of one stage was tried, or when no default has a score.
        """
        if not view.scored:
            start = next((a for a in view.space.defaults() if a not in view.tried), None)
            if start is None:
                return Turn(finished="no default has a score to start from")
            return Turn((Suggestion(start, "A default to start from."),))
        best = max(view.scored, key=merit)
        for allocation, reason in _steps(view.space, best.allocation):
            if allocation in view.space and allocation not in view.tried:
                return Turn((Suggestion(allocation, f"{reason}, the rest as in trial {best.number}."),))
        return Turn(finished=f"no change of one stage beats trial {best.number}")


def _steps(space: SearchSpace, base: Allocation) -> Iterator[tuple[Allocation, str]]:
    for move in models_at_equal_budget(space, base):
        yield move.allocation, f"Another model at {move.stage}"
    for move in samples(space, base):
        yield move.allocation, f"Another number of samples at {move.stage}"
    for giver, taker in itertools.permutations(space.options, 2):  # downstream and upstream
        now = base[giver]
        fewer = base.replace(giver, now.option.with_samples(max(1, now.n_samples // 2)))
        option = fewer[taker].option
        most = space.max_samples(taker, option, units_left(space, fewer, taker))
        if most > fewer[taker].n_samples:
            yield fewer.replace(taker, option.with_samples(most)), f"Units from {giver} to {taker}"
