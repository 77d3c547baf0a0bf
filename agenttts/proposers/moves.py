"""Moves from an allocation to its neighbours, after the three insights of AgentTTS (arXiv 2508.00890).

Insight 1, which model: another option at one stage for the same stage budget. Insight 2, how many samples:
increase n, step back, refine. Insight 3, which stage: take units from one stage and give them to another,
upstream first. The proposers choose among the moves with the estimate of `gp`; the reasons are put in words
in `wording`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation, StageChoice

Rule = Literal["model", "climb", "step back", "shift", "combine", "explore"]
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Move:
    """A step from one allocation to another.

    Attributes:
        allocation: The allocation that the move leads to.
        rule: The kind of the move.
        stage: The stage that gains units or changes; None when several do.
        giver: The stage that gives up units; None when no other stage does.
        base: The number of the trial that the move starts from; -1 for none in particular.
    """

    allocation: Allocation
    rule: Rule
    stage: str | None = None
    giver: str | None = None
    base: int = -1


def around(space: SearchSpace, base: Allocation, number: int) -> Iterator[Move]:
    """Generate all moves from the allocation of a trial.

    Args:
        space: The allocations within the budget.
        base: The allocation of the trial.
        number: The number of the trial.

    Yields:
        The moves, some of which may lead outside the space.
    """
    for kind in (models_at_equal_budget, samples, other_models, shifts):
        for move in kind(space, base):
            yield replace(move, base=number)


def models_at_equal_budget(space: SearchSpace, base: Allocation) -> Iterator[Move]:
    """Generate insight 1: for each stage, each other option with as many samples as the stage's units pay
    for.

    Upstream stages come first.
    """
    for stage, options in space.options.items():
        left = units_left(space, base, stage)
        for option in options:
            n = space.max_samples(stage, option, left)
            if option != base[stage].option and n > 0:
                yield Move(base.replace(stage, option.with_samples(n)), "model", stage)


def samples(space: SearchSpace, base: Allocation) -> Iterator[Move]:
    """Generate insight 2: for each stage, more samples of its option, up to what fits, and fewer."""
    for stage in space.options:
        option, n = base[stage].option, base[stage].n_samples
        most = space.max_samples(stage, option, units_left(space, base, stage))
        for count in (2 * n, (3 * n + 1) // 2, n + 1, most):
            if n < count <= most:
                yield Move(base.replace(stage, option.with_samples(count)), "climb", stage)
        for count in (n - 1, 3 * n // 4, n // 2):
            if 1 <= count < n:
                yield Move(base.replace(stage, option.with_samples(count)), "step back", stage)


def other_models(space: SearchSpace, base: Allocation) -> Iterator[Move]:
    """Generate insight 1 with fewer samples than the stage's units pay for, since more may not help."""
    for move in models_at_equal_budget(space, base):
        assert move.stage is not None
        choice = move.allocation[move.stage]
        for n in (choice.n_samples // 2, choice.n_samples // 4):
            if n >= 1:
                fewer = choice.option.with_samples(n)
                yield Move(base.replace(move.stage, fewer), "model", move.stage)


def shifts(space: SearchSpace, base: Allocation) -> Iterator[Move]:
    """Generate insight 3: one stage gives up samples or takes a cheaper choice, another uses the freed units.

    Upstream stages come first as receivers, since a change there changes the best choices downstream.
    """
    for taker, giver in itertools.permutations(space.options, 2):
        for less in _cheaper(space, giver, base):
            poorer = base.replace(giver, less)
            left = units_left(space, poorer, taker)
            for option in space.options[taker]:
                n = space.max_samples(taker, option, left)
                if n > 0:
                    richer = poorer.replace(taker, option.with_samples(n))
                    yield Move(richer, "shift", taker, giver)


def untried(moves: Iterable[Move], tried: Iterable[Allocation], space: SearchSpace) -> list[Move]:
    """Return the moves that lead to untried allocations of the space, the first of several to the same one.

    Args:
        moves: The moves to filter.
        tried: The allocations to leave out.
        space: The allocations within the budget.

    Returns:
        The moves, in their order.
    """
    seen = set(tried)
    new = []
    for move in moves:
        if move.allocation not in seen and move.allocation in space:
            seen.add(move.allocation)
            new.append(move)
    return new


def drawn(space: SearchSpace, rng: np.random.Generator) -> Allocation:
    """Draw an allocation at random and project it into the budget.

    Options are equally likely, and the logarithms of the numbers of samples are uniform.

    Args:
        space: The allocations within the budget.
        rng: The random generator.

    Returns:
        An allocation of the space.
    """
    choices = {}
    for stage in space.stages:
        options = space.options[stage.name]
        option = options[int(rng.integers(len(options)))]
        n = int(2 ** rng.uniform(0, np.log2(stage.max_samples)))
        choices[stage.name] = option.with_samples(max(1, n))
    return space.project(Allocation(choices))


def grid(space: SearchSpace, limit: int) -> list[Allocation] | None:
    """List the allocations of the space whose counts are 1, 2, 3, 4, 6, 8, … or a stage's largest.

    Args:
        space: The allocations within the budget.
        limit: The largest length of the list.

    Returns:
        The allocations; None when there are more than `limit`.
    """
    by_stage: list[list[StageChoice]] = []
    for stage in space.stages:
        counts = [n for n in _COUNTS if n < stage.max_samples] + [stage.max_samples]
        by_stage.append([option.with_samples(n) for option in space.options[stage.name] for n in counts])
    if math.prod(len(choices) for choices in by_stage) > 8 * limit:
        return None
    every = (
        Allocation(dict(zip(space.options, choices, strict=True))) for choices in itertools.product(*by_stage)
    )
    within = [allocation for allocation in every if allocation in space]
    return within if len(within) <= limit else None


def _cheaper(space: SearchSpace, stage: str, base: Allocation) -> Iterator[StageChoice]:
    """Generate choices of a stage for at most its present units: fewer samples, or another option."""
    now = base[stage]
    spent = space.stage_units(stage, now)
    for option in space.options[stage]:
        n = now.n_samples if option == now.option else space.max_samples(stage, option, spent)
        for count in dict.fromkeys((n, n - 1, 3 * n // 4, n // 2, n // 4, 1)):
            if 1 <= count <= n and option.with_samples(count) != now:
                yield option.with_samples(count)


def units_left(space: SearchSpace, base: Allocation, stage: str) -> float:
    """Return the units of the budget that the other stages leave to a stage."""
    return space.budget_units - (space.units(base) - space.stage_units(stage, base[stage]))
