"""The check of a step's proposals: what can't be run is marked, and the rules stand in for it.

The limit on trials is one on cells, each an example with an allocation: proposals are taken while it has
room.
"""

from __future__ import annotations

import math
from dataclasses import replace

from agenttts.proposers.base import SearchView, Suggestion
from agenttts.search.drafts import Draft
from agenttts.search.state import SearchWork
from pipelines.allocation import Allocation


def validated(work: SearchWork, step: int) -> list[Draft]:
    """Mark the drafts that can't be run as invalid, and add the rules' suggestions in their place.

    Args:
        work: The work of the search, with the drafts of the step.
        step: The step of the search.

    Returns:
        The drafts that the limit on trials has room for, and all invalid ones, with their positions.
    """
    view = work.view(step)
    admission = _Admission(work, view)
    checked = [draft for drafted in work.drafts for draft in admission.checked(drafted)]
    for draft in [draft for draft in checked if draft.status == "invalid"]:
        stand_in = work.rules.fallback(view, admission.taken) if admission.room > 0 else None
        if stand_in is not None:
            reason = f"In place of proposal {draft.position} of {draft.proposer}. {stand_in.reason}"
            suggestion = Suggestion(stand_in.allocation, reason)
            checked += admission.checked(Draft.of(suggestion, work.rules.name, step, len(checked)))
    return [replace(draft, position=i) for i, draft in enumerate(checked)]


class _Admission:
    """What the limit on trials still has room for, in cells, and the allocations that were admitted."""

    def __init__(self, work: SearchWork, view: SearchView) -> None:
        self.room = math.inf if view.cells_left is None else view.cells_left
        self.taken: list[Allocation] = []
        self._space = work.space
        self._tried = view.tried
        self._n_all = view.n_examples
        self._n_before = {trial.allocation: trial.n_run for trial in view.partial}

    def checked(self, draft: Draft) -> list[Draft]:
        """Return the draft, as invalid where it can't be run; nothing where there is no room for it."""
        allocation = draft.allocation
        if isinstance(allocation, str):
            return [draft]
        n_before = self._n_before.get(allocation, 0)
        n = self._n_all if draft.n_examples is None else min(draft.n_examples, self._n_all)
        problem = self._space.problem(allocation)
        if problem is None and (allocation in self._tried or allocation in self.taken):
            problem = "tried before, or refused"
        elif problem is None and n <= n_before:
            problem = f"n_examples is above the {n_before} that its trial has, of {self._n_all}, got {n}"
        if problem is not None:
            return [draft.invalid(problem)]
        if self.room <= 0:
            return []
        self.room -= n - n_before
        self.taken.append(allocation)
        return [replace(draft, n_examples=None if n == self._n_all else n)]
