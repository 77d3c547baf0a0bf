"""Successive halving by racing: random allocations, each dropped as soon as it is clearly behind the best."""

from __future__ import annotations

import numpy as np

from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.proposers.insights import InsightsProposer
from agenttts.proposers.moves import drawn

_TRIES = 200


class HalvingProposer:
    """Space-filling candidates, seeded by the view; what a candidate costs depends on how long it holds."""

    name = "halving"
    batch = 4
    races = True

    async def propose(self, view: SearchView, count: int) -> Turn:
        found: list[Suggestion] = []
        taken = set(view.tried)
        rng = np.random.default_rng([view.seed, len(view.trials)])
        for _ in range(_TRIES):
            allocation = drawn(view.space, rng)
            if allocation not in taken and len(found) < count:
                taken.add(allocation)
                found.append(Suggestion(allocation, "A candidate at random, in a race with the best."))
        if not found:
            stand_in = InsightsProposer().fallback(view)
            if stand_in is None:
                return Turn(finished="every allocation of the space was tried")
            found.append(stand_in)
        return Turn(tuple(found))
