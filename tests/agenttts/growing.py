"""A proposer whose trials grow, and a search with it in a process of its own.

`python -m tests.agenttts.growing SPEC DB` searches SPEC and goes on where DB has an unfinished run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agenttts import SearchResult, search
from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.proposers.moves import drawn
from agenttts.results.trials import merit
from agenttts.search.events import OnEvent

FIRST, SECOND = 6, 14
TRIALS = 4


class Growing:
    """Defaults and some others on a first part of the examples; the best four grow, and then the best two.

    Nothing is completed: that is left to the confirmation.
    """

    name = "growing"
    batch = 4

    def seeds(self, view: SearchView) -> Sequence[Suggestion]:
        return [Suggestion(a, "a default, on a part", "default", FIRST) for a in view.space.defaults()]

    async def propose(self, view: SearchView, count: int) -> Turn:
        best = sorted(view.partial, key=merit, reverse=True)
        if view.step == 1:
            rng = np.random.default_rng(view.seed)
            others = {a: None for _ in range(40) if (a := drawn(view.space, rng)) not in _known(view)}
            return Turn(tuple(Suggestion(a, "at random, on a part", None, FIRST) for a in [*others][:4]))
        if view.step == 2:
            return Turn(tuple(Suggestion(t.allocation, "it grows", None, SECOND) for t in best[:4]))
        return Turn(finished="the best have grown")


def _known(view: SearchView) -> set[object]:
    return {trial.allocation for trial in view.trials}


def grown(spec: Path, db: Path, on_event: OnEvent | None = None, *, replay: bool = False) -> SearchResult:
    """Search with the proposer; an unfinished run goes on."""
    return search(
        spec,
        proposer=Growing(),
        trials=TRIALS,
        db=db,
        resume=True,
        replay=replay,
        policy="fixed",
        on_event=on_event,
    )


if __name__ == "__main__":
    grown(Path(sys.argv[1]), Path(sys.argv[2]))
