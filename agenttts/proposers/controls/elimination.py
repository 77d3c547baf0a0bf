"""Arm elimination, as AgentOpt selects models: every allocation runs until it is clearly behind another one.

All allocations are scored on a tenth of the examples, those left on twice as many more, and so on. One
is left out as soon as its mean plus a standard error is below the mean less a standard error of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.proposers.moves import drawn, grid
from agenttts.results.trials import TrialResult
from pipelines.allocation import Allocation

_LISTED, _DRAWN = 500, 100  # grids up to this size are run as a whole; so many allocations of larger ones


class EliminationProposer:
    """Proposes the next part of every allocation that is still in. The same view gives the same turn."""

    name = "elimination"
    batch = 32

    def seeds(self, view: SearchView) -> Sequence[Suggestion]:
        """There are no seeds: every allocation starts alike."""
        return ()

    async def propose(self, view: SearchView, count: int) -> Turn:
        """Suggest the next part.

        Args:
            view: What the proposer may know.
            count: The largest number of suggestions.

        Returns:
            The turn; `finished` when one allocation is left, or those that are left were run in full.
        """
        for end, active in _rounds(view):
            counts = {trial.allocation: len(trial.scores) for trial in view.trials}
            waiting = [a for a in active if counts.get(a, 0) < end and a not in view.tried]
            if waiting:
                reason = f"One of {len(active)} that are not clearly behind."
                return Turn(tuple(Suggestion(a, reason, n_examples=end) for a in waiting[:count]))
        return Turn(finished="every other allocation is clearly behind, or was run in full")

    def leader(self, view: SearchView) -> Allocation | None:
        """Return the allocation with the best mean of those that are still in."""
        tried = {trial.allocation: trial for trial in view.trials if trial.score is not None}
        *_, (_, active) = _rounds(view)
        among = [tried[a] for a in active if a in tried]
        return max(among, key=lambda trial: trial.score or 0.0).allocation if among else None


def _rounds(view: SearchView) -> Iterator[tuple[int, list[Allocation]]]:
    """Generate where each part ends and which allocations run on it, up to the first that is not complete."""
    listed = grid(view.space, _LISTED)
    if listed is None:
        rng = np.random.default_rng(view.seed)
        listed = list(dict.fromkeys(drawn(view.space, rng) for _ in range(_DRAWN)))
    tried = {trial.allocation: trial for trial in view.trials}
    failed = {trial.allocation for trial in view.trials if trial.status == "failed"}.union(view.refused)
    active = [a for a in listed if a not in failed]
    size = end = max(1, view.n_examples // 10)
    while True:
        yield min(end, view.n_examples), active
        scores = [_scores(tried[a], end) for a in active if a in tried]
        if len(scores) < len(active) or end >= view.n_examples or len(active) <= 1:
            return
        means = np.array([np.nanmean(s) for s in scores])
        errors = np.array([np.nanstd(s, ddof=1) / np.sqrt((~np.isnan(s)).sum()) for s in scores])
        bar = (means - errors).max()
        active = [a for a, high in zip(active, means + errors, strict=True) if high >= bar]
        size, end = 2 * size, end + 2 * size


def _scores(trial: TrialResult, end: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([np.nan if s is None else s for s in list(trial.scores.values())[:end]])
