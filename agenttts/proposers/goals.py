"""What an allocation is worth where the search seeks a saving at the required quality, or a frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr  # type: ignore[import-untyped]

from agenttts.proposers.base import SearchView
from agenttts.proposers.gp import Estimate
from pipelines.allocation import Allocation

_Floats = npt.NDArray[np.float64]


def front(view: SearchView, known: Mapping[Allocation, float]) -> list[Allocation]:
    """Return the allocations that no other beats for as few units, cheapest first.

    Args:
        view: What the proposer may know.
        known: Allocations whose scores on all examples are known, and the scores.
    """
    best: list[Allocation] = []
    for allocation in sorted(known, key=lambda a: (view.space.units(a), -known[a])):
        if not best or known[allocation] > known[best[-1]]:
            best.append(allocation)
    return best


def cheapest_of_quality(view: SearchView, known: Mapping[Allocation, float]) -> Allocation | None:
    """Return the cheapest allocation of the required quality; None when none is required or reached.

    Args:
        view: What the proposer may know.
        known: Allocations whose scores on all examples are known, and the scores.
    """
    quality = view.goal.min_quality
    sufficient = [] if quality is None else [a for a, score in known.items() if score >= quality]
    return min(sufficient, key=lambda a: (view.burden(a), view.space.units(a)), default=None)


def savings(
    view: SearchView, estimate: Estimate, cheapest: Allocation, allocations: Sequence[Allocation]
) -> _Floats:
    """Return the share of the budget, or of the seconds, that each is expected to save at the quality.

    Args:
        view: What the proposer may know.
        estimate: The estimated scores.
        cheapest: The cheapest allocation that has the quality.
        allocations: The allocations to weigh.
    """
    assert view.goal.min_quality is not None
    means, stds = estimate.predict(allocations)
    chance = ndtr((means - view.goal.min_quality) / np.maximum(stds, 1e-9))
    now = view.burden(cheapest)
    burdens = np.array([view.burden(a) for a in allocations])
    whole = now if view.goal.objective == "latency" else view.space.budget_units
    saved: _Floats = chance * (np.maximum(0.0, now - burdens) / whole)
    return saved


def area_gains(
    view: SearchView, estimate: Estimate, known: Mapping[Allocation, float], allocations: Sequence[Allocation]
) -> _Floats:
    """Return how much each is expected to raise the mean best score over all costs up to the budget.

    Args:
        view: What the proposer may know.
        estimate: The estimated scores.
        known: Allocations whose scores on all examples are known, and the scores.
        allocations: The allocations to weigh.
    """
    budget = view.space.budget_units
    units = np.array([max(0.0, view.space.units(a)) for a in allocations])
    best = front(view, known)
    starts = [0.0, *(max(0.0, view.space.units(a)) for a in best)]
    gains = estimate.expected_gains(allocations, [0.0, *(known[a] for a in best)])
    area: _Floats = np.zeros(len(allocations))
    for gain, start, end in zip(gains, starts, [*starts[1:], budget], strict=True):
        area += gain * np.maximum(0.0, end - np.maximum(start, units)) / budget
    return area
