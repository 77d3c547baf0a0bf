"""What the default proposer does next: buy cells, complete what must be complete, or end the search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agenttts.proposers import goals, purchases
from agenttts.proposers.base import SearchView, Suggestion
from agenttts.proposers.evidence import Evidence
from agenttts.proposers.gp import Estimate
from pipelines.allocation import Allocation

_STEP, _SURE = 0.005, 0.9  # the search stops when the leader is so near to the best, with this probability
_CONTENDERS, _DRAWS = 100, 400  # allocations that may be the best, and joint draws of their scores
_HELPS = 0.0005  # examples: a saving or a gain of area counts while it is worth this many


def next_cells(
    view: SearchView, candidates: Sequence[Allocation], estimate: Estimate, planned: Sequence[Allocation]
) -> Suggestion | str:
    """Return the next suggestion, or why there is none.

    Args:
        view: What the proposer may know.
        candidates: The allocations to choose from.
        estimate: The estimate by all that is known.
        planned: Allocations that are suggested already.
    """
    evidence = estimate.evidence
    if planned:  # several at once: take what is planned to score as expected
        means, _ = estimate.predict(planned)
        estimate = Estimate(evidence.supposing(planned, [float(mean) for mean in means]))
    leader = leading(view, estimate)
    unfinished = [a for a in owed(view, evidence, estimate, leader) if a not in planned]
    step = _wanted(view, candidates, estimate, leader, planned)
    if unfinished and isinstance(step, str):
        return _completion(view, unfinished[0], evidence, step)
    if unfinished and not isinstance(step, str) and view.cells_left is not None:
        rest = sum(view.n_examples - evidence.counts[a] for a in unfinished)
        cells = (step.n_examples or view.n_examples) - evidence.counts.get(step.allocation, 0)
        if step.allocation not in unfinished and view.cells_left < rest + cells:
            return _completion(view, unfinished[0], evidence, "before the cells are used up")
    return step


def _wanted(
    view: SearchView,
    candidates: Sequence[Allocation],
    estimate: Estimate,
    leader: Allocation,
    planned: Sequence[Allocation],
) -> Suggestion | str:
    """Suggest what is worth most, as long as there are cells; or return why nothing is."""
    evidence = estimate.evidence
    open_ = [c for c in candidates if c not in evidence.settled and c not in view.tried and c not in planned]
    known = dict(evidence.settled) | {t.allocation: t.score or 0.0 for t in view.scored}
    if not open_:
        return "every allocation of the space was tried, or is answered by samples paid for"
    cheapest = goals.cheapest_of_quality(view, known)
    if view.frontier or cheapest is not None:
        return _towards_goal(view, estimate, known, open_, cheapest)
    if view.goal.min_quality is None:  # what falls short of a required score is never near enough
        near = _near_best(view, estimate, leader, open_)
        if near is not None:
            return near
    return _bought(view, estimate, leader, purchases.best_purchase(view, estimate, leader, open_), planned)


def _bought(
    view: SearchView,
    estimate: Estimate,
    leader: Allocation,
    purchase: purchases.Purchase,
    planned: Sequence[Allocation],
) -> Suggestion:
    """Suggest a purchase, or first the leader on the same examples, so that their difference is paired."""
    counts = estimate.evidence.counts
    behind = leader not in planned and counts.get(leader, view.n_examples) < purchase.end
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
    cheapest: Allocation | None,
) -> Suggestion | str:
    """Suggest the next part of what saves most at the required quality, or raises the frontier most."""
    if view.frontier or cheapest is None:
        gains, sought = goals.area_gains(view, estimate, known, open_), "raise the frontier"
    else:
        gains, sought = goals.savings(view, estimate, cheapest, open_), f"cost less than {cheapest}"
    pick = int(np.argmax(gains))
    if gains[pick] * view.n_examples < _HELPS:
        return f"no allocation that is not complete is expected to {sought}"
    (mean,), (std,) = estimate.predict([open_[pick]])
    end = purchases.next_step(estimate.evidence.counts.get(open_[pick], 0), view.n_examples)
    return Suggestion(
        open_[pick],
        f"{open_[pick]}: expected {mean:.3f} ± {std:.3f}, {view.space.share_text(open_[pick])}, to {sought}.",
        n_examples=end,
    )


def leading(view: SearchView, estimate: Estimate) -> Allocation:
    """Return what has the best expected score of the allocations tried or answered in full.

    Args:
        view: What the proposer may know.
        estimate: The estimate by all that is known.
    """
    evidence = estimate.evidence
    among = [a for a in (*evidence.counts, *evidence.settled) if a in evidence.allocations]
    means, _ = estimate.predict(among)
    merits = [(round(float(m), 9), -view.space.units(a)) for m, a in zip(means, among, strict=True)]
    return among[max(range(len(among)), key=merits.__getitem__)]


def owed(view: SearchView, evidence: Evidence, estimate: Estimate, leader: Allocation) -> list[Allocation]:
    """Return what must be complete when the search ends and isn't yet: the leader and the best default.

    Args:
        view: What the proposer may know.
        evidence: What is known of scores.
        estimate: The estimate by it.
        leader: The allocation with the best expected score.
    """
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
