"""The moves of the three insights of AgentTTS (arXiv 2508.00890), from an allocation to those worth a
thought.

Insight 1, which model: another model at one stage for the same stage budget. Insight 2, how many samples:
climb n, step back, refine. Insight 3, which stage: take units from one stage and give them to another,
upstream first. Which move is expected to pay is left to `estimate`, saying why to `insights`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from agenttts.space import SearchSpace
from pipelines.allocation import Allocation, StageChoice
from pipelines.spec import StageSpec

Rule = Literal["model", "climb", "step back", "shift", "combine", "explore"]


_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Move:
    """A step to `allocation` from that of the trial numbered `base` (-1: from none in particular).

    `stage` is the one that gains (or changes), `giver` the one that pays for it.
    """

    allocation: Allocation
    rule: Rule
    stage: str | None = None
    giver: str | None = None
    base: int = -1


def around(space: SearchSpace, base: Allocation, number: int) -> Iterator[Move]:
    """All moves from the allocation of a trial."""
    for kind in (models_at_equal_budget, samples, other_models, shifts):
        for move in kind(space, base):
            yield replace(move, base=number)


def models_at_equal_budget(space: SearchSpace, base: Allocation) -> Iterator[Move]:
    """Insight 1: for each stage, upstream first, each other model with the samples that the stage's units
    pay for.
    """
    for stage in space.stages:
        left = units_left(space, base, stage.name)
        for model in stage.options:
            n = space.max_samples(stage.name, model, left)
            if model != base[stage.name].model and n > 0:
                yield Move(base.replace(stage.name, StageChoice(model, n)), "model", stage.name)


def samples(space: SearchSpace, base: Allocation) -> Iterator[Move]:
    """Insight 2: for each stage, more samples of its model (up to what fits) and fewer."""
    for stage in space.stages:
        model, n = base[stage.name].model, base[stage.name].n_samples
        most = space.max_samples(stage.name, model, units_left(space, base, stage.name))
        for count in (2 * n, (3 * n + 1) // 2, n + 1, most):
            if n < count <= most:
                yield Move(base.replace(stage.name, StageChoice(model, count)), "climb", stage.name)
        for count in (n - 1, 3 * n // 4, n // 2):
            if 1 <= count < n:
                yield Move(base.replace(stage.name, StageChoice(model, count)), "step back", stage.name)


def other_models(space: SearchSpace, base: Allocation) -> Iterator[Move]:
    """Insight 1 with fewer samples than the stage's units pay for, since more may not help."""
    for move in models_at_equal_budget(space, base):
        assert move.stage is not None
        choice = move.allocation[move.stage]
        for n in (choice.n_samples // 2, choice.n_samples // 4):
            if n >= 1:
                fewer = StageChoice(choice.model, n)
                yield Move(base.replace(move.stage, fewer), "model", move.stage)


def shifts(space: SearchSpace, base: Allocation) -> Iterator[Move]:
    """Insight 3: one stage gives up samples or takes a cheaper choice, another takes what that frees.

    Upstream stages come first as takers, since a change there moves what is best downstream.
    """
    for taker, giver in itertools.product(space.stages, space.stages):
        if taker.name == giver.name:
            continue
        for less in _cheaper(space, giver, base):
            poorer = base.replace(giver.name, less)
            left = units_left(space, poorer, taker.name)
            for model in taker.options:
                n = space.max_samples(taker.name, model, left)
                if n > 0:
                    richer = poorer.replace(taker.name, StageChoice(model, n))
                    yield Move(richer, "shift", taker.name, giver.name)


def untried(moves: Iterable[Move], tried: Iterable[Allocation], space: SearchSpace) -> list[Move]:
    """The moves to allocations in the space that were not tried, each allocation once, first come first
    kept.
    """
    seen = set(tried)
    found = []
    for move in moves:
        if move.allocation not in seen and move.allocation in space:
            seen.add(move.allocation)
            found.append(move)
    return found


def drawn(space: SearchSpace, rng: np.random.Generator) -> Allocation:
    """An allocation at random: models alike, counts alike in their logarithms, then made to fit."""
    choices = {}
    for stage in space.stages:
        model = stage.options[int(rng.integers(len(stage.options)))]
        n = int(2 ** rng.uniform(0, np.log2(stage.max_samples)))
        choices[stage.name] = StageChoice(model, max(1, n))
    return space.project(Allocation(choices))


def grid(space: SearchSpace, limit: int) -> list[Allocation] | None:
    """The allocations of the space with counts 1, 2, 3, 4, 6, 8, …, largest; None when more than `limit`."""
    options: list[list[StageChoice]] = []
    for stage in space.stages:
        counts = [n for n in _COUNTS if n < stage.max_samples] + [stage.max_samples]
        options.append([StageChoice(model, n) for model in stage.options for n in counts])
    if math.prod(len(some) for some in options) > 8 * limit:
        return None
    names = [stage.name for stage in space.stages]
    found = []
    for choices in itertools.product(*options):
        allocation = Allocation(dict(zip(names, choices, strict=True)))
        if allocation in space:
            found.append(allocation)
    return found if len(found) <= limit else None


def _cheaper(space: SearchSpace, giver: StageSpec, base: Allocation) -> Iterator[StageChoice]:
    """What a stage may fall back to:

    fewer samples, or another model for no more units, and fewer samples of it.
    """
    stage, now = giver.name, base[giver.name]
    spent = space.stage_units(stage, now)
    for model in giver.options:
        n = now.n_samples if model == now.model else space.max_samples(stage, model, spent)
        counts = dict.fromkeys((n, n - 1, 3 * n // 4, n // 2, n // 4, 1))
        for count in counts:
            if 1 <= count <= n and StageChoice(model, count) != now:
                yield StageChoice(model, count)


def units_left(space: SearchSpace, base: Allocation, stage: str) -> float:
    """What the other stages leave of the budget."""
    return space.budget_units - (space.units(base) - space.stage_units(stage, base[stage]))
