"""The default proposer: it buys the cells that are expected to gain most for what they cost.

A cell is one example with one allocation. Seeds are scored on a first part of the examples; what they and the
bank say enters the Gaussian process of `gp`. Then the allocation with the largest expected gain over the
leader, for its cost, is scored on a further part, until the leader is within a step of the best with 90 %, or
no further cells are expected to gain anything. The leader and the best default are scored on all examples
before the cells are used up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from agenttts.proposers import goals, moves, purchases, wording
from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.proposers.evidence import Evidence, gather
from agenttts.proposers.gp import Estimate
from agenttts.results.trials import TrialResult
from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation

_LISTED = 1_000  # grids up to this size are looked at as a whole
_DRAWN = 600  # allocations drawn from larger ones
_BASES = 3  # moves start from this many of the best trials
_STEP, _SURE = 0.005, 0.9  # the search stops when the leader is so near to the best, with this probability
_CONTENDERS, _DRAWS = 100, 400  # allocations that may be the best, and joint draws of their scores
_GAIN = 0.0005  # the search stops when no allocation's remaining cells are expected to gain so much
_HELPS = 0.0005  # examples: a saving or a gain of area counts while it is worth this many
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
        evidence: What is known of allocations; None while nothing has a score.
        estimate: The estimate by the evidence; None as long as that is.
    """

    trials: tuple[TrialResult, ...]
    space: SearchSpace
    candidates: list[Allocation]
    evidence: Evidence | None
    estimate: Estimate | None

    def of(self, view: SearchView) -> bool:
        """Return whether the view is the one that was looked at."""
        same = len(view.trials) == len(self.trials) and view.space is self.space
        return same and all(a is b for a, b in zip(view.trials, self.trials, strict=True))


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
        while len(suggestions) < count and finished is None:
            step = _start(view, planned) if look.estimate is None else _next(view, look, planned)
            if isinstance(step, str):
                finished = step
            else:
                suggestions.append(step)
                planned.append(step.allocation)
        return Turn(tuple(suggestions), lessons, finished if not suggestions else None)

    def leader(self, view: SearchView) -> Allocation | None:
        """Return the allocation with the best expected score among those tried; None without a score.

        Args:
            view: What the proposer may know.
        """
        estimate = self._look(view).estimate
        return None if estimate is None else _leader(view, estimate)

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
        rivals = estimate.rivals(candidates, _leader(view, estimate))
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
            estimate = None if evidence is None else Estimate(evidence)
            self._last = _Look(view.trials, view.space, candidates, evidence, estimate)
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


def _next(view: SearchView, look: _Look, planned: Sequence[Allocation]) -> Suggestion | str:
    """Return the next suggestion, or why there is none."""
    assert look.evidence is not None and look.estimate is not None
    evidence, estimate, candidates = look.evidence, look.estimate, look.candidates
    if planned:  # several at once: take what is planned to score as expected
        means, _ = estimate.predict(planned)
        estimate = Estimate(evidence.supposing(planned, [float(mean) for mean in means]))
    leader = _leader(view, estimate)
    unfinished = [a for a in _owed(view, evidence, estimate, leader) if a not in planned]
    rest = sum(view.n_examples - evidence.counts[a] for a in unfinished)
    first = purchases.steps(view.n_examples)[0]
    if view.cells_left is not None and view.cells_left < rest + first and unfinished:
        return _completion(view, unfinished[0], evidence, "before the cells are used up")
    open_ = [c for c in candidates if c not in evidence.settled and c not in view.tried and c not in planned]
    known = dict(evidence.settled) | {t.allocation: t.score or 0.0 for t in view.scored}
    if not open_:
        enough = "every allocation of the space was tried, or is answered by samples paid for"
    elif view.frontier or goals.cheapest_of_quality(view, known) is not None:
        return _towards_goal(view, estimate, known, open_, evidence, unfinished)
    else:
        purchase = purchases.best_purchase(view, estimate, leader, open_)
        if purchase.gain >= _GAIN and (_near_best(view, estimate, leader, open_) is None):
            return _bought(view, estimate, leader, purchase)
        enough = _near_best(view, estimate, leader, open_) or (
            f"no further examples are expected to gain as much as {100 * _GAIN:.2g} points on {leader}"
        )
    if unfinished:
        return _completion(view, unfinished[0], evidence, enough)
    return enough


def _bought(
    view: SearchView, estimate: Estimate, leader: Allocation, purchase: purchases.Purchase
) -> Suggestion:
    """Suggest a purchase, or first the leader on the same examples, so that their difference is paired."""
    counts = estimate.evidence.counts
    behind = counts.get(leader, view.n_examples) < purchase.end
    allocation = leader if behind else purchase.allocation
    end = purchases.next_step(counts.get(allocation, 0), view.n_examples)
    (mean, best), (std, _) = estimate.predict([allocation, leader])
    return Suggestion(
        allocation,
        f"{allocation}: expected {mean:.3f} ± {std:.3f} against {best:.3f} of the leader, "
        f"{view.space.share_text(allocation)}, on {end} of {view.n_examples} examples.",
        n_examples=end,
    )


def _towards_goal(
    view: SearchView,
    estimate: Estimate,
    known: dict[Allocation, float],
    open_: Sequence[Allocation],
    evidence: Evidence,
    unfinished: Sequence[Allocation],
) -> Suggestion | str:
    """Suggest the next part of what saves most at the required quality, or raises the frontier most."""
    cheapest = goals.cheapest_of_quality(view, known)
    if view.frontier or cheapest is None:
        gains, sought = goals.area_gains(view, estimate, known, open_), "raise the frontier"
    else:
        gains, sought = goals.savings(view, estimate, cheapest, open_), f"cost less than {cheapest}"
    pick = int(np.argmax(gains))
    if gains[pick] * view.n_examples < _HELPS:
        enough = f"no allocation that is not complete is expected to {sought}"
        return _completion(view, unfinished[0], evidence, enough) if unfinished else enough
    (mean,), (std,) = estimate.predict([open_[pick]])
    end = purchases.next_step(evidence.counts.get(open_[pick], 0), view.n_examples)
    return Suggestion(
        open_[pick],
        f"{open_[pick]}: expected {mean:.3f} ± {std:.3f}, {view.space.share_text(open_[pick])}, to {sought}.",
        n_examples=end,
    )


def _leader(view: SearchView, estimate: Estimate) -> Allocation:
    """Return what has the best expected score of the allocations tried or answered in full."""
    evidence = estimate.evidence
    among = [a for a in (*evidence.counts, *evidence.settled) if a in evidence.allocations]
    means, _ = estimate.predict(among)
    merits = [(round(float(m), 9), -view.space.units(a)) for m, a in zip(means, among, strict=True)]
    return among[max(range(len(among)), key=merits.__getitem__)]


def _owed(view: SearchView, evidence: Evidence, estimate: Estimate, leader: Allocation) -> list[Allocation]:
    """Return what must be complete when the search ends and isn't yet: the leader and the best default."""
    defaults = [a for a in view.space.defaults() if a in evidence.counts]
    owed = [leader]
    if defaults:
        means, _ = estimate.predict(defaults)
        owed.append(defaults[int(np.argmax(means))])
    return [a for a in dict.fromkeys(owed) if a in evidence.counts and not evidence.known(a)]


def _completion(view: SearchView, allocation: Allocation, evidence: Evidence, why: str) -> Suggestion:
    left = view.n_examples - evidence.counts[allocation]
    return Suggestion(allocation, f"{allocation}: the other {left} examples; {why}.")


def _near_best(
    view: SearchView,
    estimate: Estimate,
    leader: Allocation,
    open_: Sequence[Allocation],
) -> str | None:
    """Return that the leader is near enough to the best, in words; None while it may not be."""
    step = max(_STEP, 1 / view.n_examples)
    means, stds = estimate.predict(open_)
    order = np.argsort(-(means + 3 * stds), kind="stable")[:_CONTENDERS]
    contenders = [leader, *(open_[i] for i in order if open_[i] != leader)]
    rng = np.random.default_rng([view.seed, len(view.trials)])
    draws = estimate.draws(contenders, _DRAWS, rng)
    near = float((draws.max(axis=1) - draws[:, 0] <= step).mean())
    return (
        f"{leader} is within {100 * step:.2g} points of the best with {near:.0%}" if near >= _SURE else None
    )


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
