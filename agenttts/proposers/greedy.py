"""Stage by stage: first each stage's model, the others held, then each stage's number of samples.

Choosing models one stage at a time is the manner of LLMSelector (arXiv 2502.14815); it ends when a round
changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.proposers.moves import models_at_equal_budget, samples, units_left
from agenttts.space import SearchSpace
from agenttts.trial import merit
from pipelines.allocation import Allocation, StageChoice


class GreedyProposer:
    """Deterministic: coordinate ascent from the best trial so far."""

    name = "greedy"
    batch = 1

    async def propose(self, view: SearchView, count: int) -> Turn:
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
    for stage in space.stages:  # what is freed upstream goes downstream, and the other way round
        now = base[stage.name]
        fewer = base.replace(stage.name, StageChoice(now.model, max(1, now.n_samples // 2)))
        for other in space.stages:
            model = fewer[other.name].model
            most = space.max_samples(other.name, model, units_left(space, fewer, other.name))
            if other.name != stage.name and most > fewer[other.name].n_samples:
                richer = fewer.replace(other.name, StageChoice(model, most))
                yield richer, f"Units from {stage.name} to {other.name}"
