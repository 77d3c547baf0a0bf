"""Which cells to buy next: how many examples an allocation is tried on, and what they cost and tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agenttts.proposers.base import SearchView, Suggestion
from agenttts.proposers.gp import Estimate
from pipelines.allocation import Allocation

FIRST_SHARE, FIRST_LEAST = 0.1, 8
"""The first part of the examples that an allocation is tried on: a share of them, and at least so many."""

_SEEDS_SHARE = 0.3  # of the cells left, at most, for seeds
_WEIGHED = 150  # the most promising allocations, whose purchases are weighed one by one
_CELL = 1.0  # what a cell costs beside its units, as a share of the budget


def steps(n_examples: int) -> list[int]:
    """Return the numbers of examples that a trial is scored on as it grows: each part doubles the last.

    Args:
        n_examples: The number of all examples, which is the last one.
    """
    size = max(FIRST_LEAST, math.ceil(FIRST_SHARE * n_examples))
    ends = []
    while size <= 0.75 * n_examples:
        ends.append(size)
        size *= 2
    return [*ends, n_examples]


def seeds(view: SearchView) -> list[Suggestion]:
    """Suggest the defaults, and allocations that spread every stage's options, all on the first part.

    Where one model answers at every stage, the stages can't be told apart; the others mix models. They are in
    the order of their cost, so that the first ones say whether the dearer ones are worth more.

    Args:
        view: What the proposer may know.
    """
    first = steps(view.n_examples)[0]
    defaults = view.space.defaults()
    mixed = [a for a in view.space.mixed() if a not in defaults]
    most = len(defaults) + len(mixed)
    if view.cells_left is not None:
        most = max(1, int(_SEEDS_SHARE * view.cells_left / first))
    chosen = sorted([*defaults, *mixed][:most], key=view.space.units)
    return [
        Suggestion(a, "default", "default", n_examples=first)
        if a in defaults
        else Suggestion(a, "The models of its stages differ.", n_examples=first)
        for a in chosen
    ]


@dataclass(frozen=True)
class Purchase:
    """The cells that are expected to gain most for their cost.

    Attributes:
        allocation: The allocation whose cells they are.
        end: On how many examples it is scored with them.
    """

    allocation: Allocation
    end: int


def best_purchase(
    view: SearchView, estimate: Estimate, leader: Allocation, allocations: Sequence[Allocation]
) -> Purchase:
    """Return the best purchase, in the order of expected gain per cost.

    Args:
        view: What the proposer may know.
        estimate: The estimated scores.
        leader: The allocation with the best of them.
        allocations: What may be bought, at least one allocation.
    """
    prices = np.array([max(view.space.units(a), 0.0) for a in allocations]) / view.space.budget_units + _CELL
    promises = estimate.rivals(allocations, leader).gains() / prices
    order = np.argsort(-promises, kind="stable")[:_WEIGHED]
    rivals = [allocations[i] for i in order if allocations[i] != leader]
    if not rivals:
        return Purchase(leader, view.n_examples)
    beside, prices = estimate.rivals(rivals, leader), prices[[i for i in order if allocations[i] != leader]]
    counts = np.array([estimate.evidence.counts.get(a, 0) for a in rivals])
    rates, ends = np.full(len(rivals), -1.0), np.full(len(rivals), view.n_examples)
    for end in steps(view.n_examples):
        gains = beside.gains(estimate.changes(rivals, leader, np.minimum(counts, end - 1), end))
        rate = gains / (np.maximum(end - counts, 1) * prices)
        better = (end > counts) & (rate > rates)
        rates, ends = np.where(better, rate, rates), np.where(better, end, ends)
    pick = int(np.argmax(rates))
    return Purchase(rivals[pick], int(ends[pick]))


def next_step(count: int, n_examples: int) -> int:
    """Return the number of examples that a trial on `count` of them is scored on next."""
    return next((end for end in steps(n_examples) if end > count), n_examples)
