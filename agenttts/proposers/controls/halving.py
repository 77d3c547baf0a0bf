"""Successive halving by racing: a random allocation grows until it is clearly behind the best."""

from __future__ import annotations

import numpy as np

from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.proposers.moves import drawn
from agenttts.proposers.rules import InsightsProposer

_TRIES = 200


class HalvingProposer:
    """Proposes random allocations, seeded by the view, whose cost depends on how far they get."""

    name = "halving"
    batch = 4
    races = True

    async def propose(self, view: SearchView, count: int) -> Turn:
        """Suggest random allocations.

        Args:
            view: What the proposer may know.
            count: The largest number of suggestions.

        Returns:
            The turn; `finished` when the whole space was tried.
        """
        suggestions: list[Suggestion] = []
        excluded = {trial.allocation for trial in view.trials}.union(view.refused)
        rng = np.random.default_rng([view.seed, len(view.trials)])
        for _ in range(_TRIES):
            if len(suggestions) == count:
                break
            allocation = drawn(view.space, rng)
            if allocation not in excluded:
                excluded.add(allocation)
                suggestions.append(Suggestion(allocation, "A candidate at random, in a race with the best."))
        if not suggestions:
            stand_in = InsightsProposer().fallback(view)
            if stand_in is None:
                return Turn(finished="every allocation of the space was tried")
            suggestions.append(stand_in)
        return Turn(tuple(suggestions))
