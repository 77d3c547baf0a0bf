"""The default proposer: it buys the cells that are expected to gain most for what they cost.

A cell is one example with one allocation. Seeds are scored on a first part of the examples; what they and the
bank say enters the Gaussian process of `gp`. Then the allocation with the largest expected gain over the
leader, for its cost, is scored on a further part, until the leader is within half a point, or one example,
of the best with 90 %, or the cells are used up. First the leader and the best default are scored on all
examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agenttts.proposers import goals, moves, purchases, wording
from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.proposers.evidence import gather
from agenttts.proposers.gp import Estimate, one_thread
from agenttts.proposers.next_cells import leading, next_cells, owed
from agenttts.results.trials import TrialResult
from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation

_LISTED = 1_000  # grids up to this size are looked at as a whole
_DRAWN = 600  # allocations drawn from larger ones
_BASES = 3  # moves start from this many of the best trials
_FINALISTS = 3
_SHOWN = 6


@dataclass(frozen=True)
class Expectation:
    """The expected score of an allocation that is not complete.

    Attributes:
        allocation: The allocation.
        score: The expected score.
        std: Its standard deviation.
    """

    allocation: Allocation
    score: float
    std: float


@dataclass(frozen=True)
class Outlook:
    """What the solver expects of the trials to come.

    Attributes:
        expected: The most promising allocations that are not complete, best first.
        next: The allocations that the solver would suggest now.
    """

    expected: tuple[Expectation, ...]
    next: tuple[Allocation, ...]


@dataclass(frozen=True)
class _Look:
    """What the solver makes of a view.

    Attributes:
        trials: The trials of the view.
        space: Its space.
        candidates: The allocations to choose from.
        estimate: The estimate by all that is known; None while nothing has a score.
    """

    trials: tuple[TrialResult, ...]
    space: SearchSpace
    candidates: list[Allocation]
    estimate: Estimate | None

    def of(self, view: SearchView) -> bool:
        """Return whether the view is the one that was looked at."""
        same = len(view.trials) == len(self.trials) and view.space is self.space
        return same and all(a is b for a, b in zip(view.trials, self.trials, strict=True))

    def after(self, view: SearchView, suggestion: Suggestion) -> SearchView:
        """Return the view with the cells left that a suggestion leaves."""
        if view.cells_left is None:
            return view
        before = 0 if self.estimate is None else self.estimate.evidence.counts.get(suggestion.allocation, 0)
        cells = (suggestion.n_examples or view.n_examples) - before
        return replace(view, cells_left=max(0, view.cells_left - cells))


class SolverProposer:
    """Proposes the cells with the largest expected gain for their cost. The same view gives the same turn.

    Draws are seeded by the view.

    Args:
        bank: Whether the bank scores allocations that were not trials; off to measure what that contributes.
        finalists: Whether finalists are named; off to measure what that contributes.
    """

    name = "solve"
    batch = 1

    def __init__(self, *, bank: bool = True, finalists: bool = True) -> None:
        self._uses_bank = bank
        self._names_finalists = bank and finalists
        self._last: _Look | None = None
        self._anywhere: tuple[SearchSpace, int, list[Allocation]] | None = None
        self._around: dict[Allocation, list[Allocation]] = {}

    async def propose(self, view: SearchView, count: int) -> Turn:
        """Suggest allocations, as `decide`."""
        return self.decide(view, count)

    def seeds(self, view: SearchView) -> Sequence[Suggestion]:
        """Suggest what a search begins with, as `purchases.seeds`."""
        return purchases.seeds(view)

    def decide(self, view: SearchView, count: int, taken: Iterable[Allocation] = ()) -> Turn:
        """Suggest allocations.

        Args:
            view: What the proposer may know.
            count: The largest number of suggestions.
            taken: Allocations that are suggested already, which are left out.

        Returns:
            The turn; `finished` when no further cell is expected to help.
        """
        lessons = tuple(wording.lessons(view))
        suggestions: list[Suggestion] = []
        planned = list(taken)
        finished = None
        look = self._look(view)
        for allocation in planned:
            view = look.after(view, Suggestion(allocation, "taken"))
        with one_thread():
            while len(suggestions) < count and finished is None and view.cells_left != 0:
                step = (
                    _start(view, planned)
                    if look.estimate is None
                    else next_cells(view, look.candidates, look.estimate, planned)
                )
                if isinstance(step, str):
                    finished = step
                else:
                    suggestions.append(step)
                    planned.append(step.allocation)
                    view = look.after(view, step)
        return Turn(tuple(suggestions), lessons, finished if not suggestions else None)

    def leader(self, view: SearchView) -> Allocation | None:
        """Return the allocation with the best expected score among those tried; None without a score.

        Args:
            view: What the proposer may know.
        """
        estimate = self._look(view).estimate
        return None if estimate is None else leading(view, estimate)

    def cells_owed(self, view: SearchView) -> int:
        """Return how many cells complete the leader and the best default; 0 without a score.

        Args:
            view: What the proposer may know.
        """
        estimate = self._look(view).estimate
        if estimate is None:
            return 0
        evidence = estimate.evidence
        unfinished = owed(view, evidence, estimate, leading(view, estimate))
        return sum(view.n_examples - evidence.counts[a] for a in unfinished)

    def finalists(self, view: SearchView) -> Sequence[Allocation]:
        """Return the best untried allocations that are answered in full.

        Args:
            view: What the proposer may know.

        Returns:
            Every such allocation on the frontier when that is sought; with a required quality the cheapest
            allocation that reaches it; else the best few, best first.
        """
        if not self._names_finalists or view.bank is None or not view.scored:
            return ()
        near = [a for a in _prefixes(view) if a in view.space]
        evidence = gather(view, list(dict.fromkeys([*self._candidates(view), *near])), bank=True)
        assert evidence is not None
        settled = {a: score for a, score in evidence.settled.items() if a not in view.tried}
        if view.frontier:
            known = settled | {t.allocation: t.score or 0.0 for t in view.scored}
            return [a for a in goals.front(view, known) if a not in view.tried]
        cheapest = goals.cheapest_of_quality(view, settled)
        if cheapest is not None:
            return [cheapest]
        return sorted(settled, key=lambda a: (-settled[a], view.space.units(a)))[:_FINALISTS]

    def outlook(self, view: SearchView) -> Outlook | None:
        """Return what is expected of the best allocations that are not complete.

        Args:
            view: What the proposer may know.

        Returns:
            The outlook; None without a score, or when every candidate was tried.
        """
        look = self._look(view)
        candidates, estimate = [c for c in look.candidates if c not in view.tried], look.estimate
        if estimate is None or not candidates:
            return None
        rivals = estimate.rivals(candidates, leading(view, estimate))
        shown = [candidates[i] for i in np.argsort(-rivals.gains(), kind="stable")[:_SHOWN]]
        means, stds = estimate.predict(shown)
        return Outlook(
            tuple(Expectation(a, float(m), float(s)) for a, m, s in zip(shown, means, stds, strict=True)),
            tuple(suggestion.allocation for suggestion in self.decide(view, 2).suggestions),
        )

    def _look(self, view: SearchView) -> _Look:
        if self._last is None or not self._last.of(view):
            candidates = self._candidates(view)
            evidence = gather(view, candidates, bank=self._uses_bank)
            with one_thread():
                estimate = None if evidence is None else Estimate(evidence)
            self._last = _Look(view.trials, view.space, candidates, estimate)
        return self._last

    def _candidates(self, view: SearchView) -> list[Allocation]:
        """Return a grid over the space, or a seeded draw when it is large, and all moves from the best
        trials.
        """
        space = view.space
        if self._anywhere is None or self._anywhere[:2] != (space, view.seed):
            listed = moves.grid(space, _LISTED)
            if listed is None:
                rng = np.random.default_rng(view.seed)
                listed = [moves.drawn(space, rng) for _ in range(_DRAWN)]
            self._anywhere, self._around = (space, view.seed, listed), {}
        tried = [t for t in view.trials if t.status in ("complete", "partial") and t.score is not None]
        near = [t.allocation for t in tried]
        for base in sorted(tried, key=lambda t: (-(t.score or 0.0), t.number))[:_BASES]:
            if base.allocation not in self._around:
                around = moves.untried(moves.around(space, base.allocation, base.number), (), space)
                self._around[base.allocation] = [move.allocation for move in around]
            near += self._around[base.allocation]
        return list(dict.fromkeys([*near, *self._anywhere[2]]))


def _start(view: SearchView, planned: Sequence[Allocation]) -> Suggestion | str:
    """Suggest an untried seed, or a random allocation, as long as nothing has a score."""
    rng = np.random.default_rng([view.seed, len(view.trials), len(planned)])
    suggestions = [
        *purchases.seeds(view),
        *(Suggestion(moves.drawn(view.space, rng), "Nothing has a score yet.") for _ in range(100)),
    ]
    tried = {trial.allocation for trial in view.trials}.union(view.refused, planned)
    for suggestion in suggestions:
        if suggestion.allocation not in tried:
            return suggestion
    return "every allocation that was tried has failed"


def _prefixes(view: SearchView) -> Iterable[Allocation]:
    """Generate every complete trial's allocation with fewer samples at one stage."""
    for trial in view.scored:
        for stage, choice in trial.allocation.items():
            for n in range(1, choice.n_samples):
                yield trial.allocation.replace(stage, choice.option.with_samples(n))
