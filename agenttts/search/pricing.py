"""Prices by measured lengths: what the options of a stage really took in the trials so far.

A spec states expected lengths, and what a call of a function costs. Where the trials show others, allocations
are planned by what was measured from then on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agenttts.results.prices import PriceChange
from agenttts.space.space import SearchSpace
from datastore.records import StageResult
from pipelines.allocation import Allocation, StageOption
from pipelines.costs import n_requests, stage_cost_usd
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.stage_parts import Lengths

TOLERANCE = 0.1
"""How far the tokens of an option's prompt and samples together, each by its price in a budget of dollars, or
the cost of a call, may be off the planned ones before its price follows, as a share."""
_MOST_SHOWN = 4


@dataclass(slots=True)
class _Sums:
    """Sums over the results of one option of a stage."""

    option: StageOption
    n: int = 0
    n_samples: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    flops: float = 0.0
    usd: float = 0.0


class MeasuredPrices:
    """Adds up what the results of trials took, by stage and option.

    Options whose samples a further model reads are left out: its tokens are in their results too.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], _Sums] = {}

    def add(self, spec: PipelineSpec, allocation: Allocation, results: Iterable[StageResult]) -> None:
        """Add the results of a trial.

        Args:
            spec: The pipeline.
            allocation: The allocation of the trial.
            results: Its results, as the store has them.
        """
        stages = {stage.name: stage for stage in spec.stages}
        for result in results:
            stage, option = stages[result.stage], allocation[result.stage].option
            aggregator = stage.aggregator_for(option)
            if result.status != "ok" or aggregator.own_model is not None or aggregator.rounds(2) != 1:
                continue
            sums = self._sums.setdefault((stage.name, option.drawn), _Sums(option))
            sums.n += 1
            sums.n_samples += result.n_samples
            sums.prompt_tokens += result.prompt_tokens
            sums.generated_tokens += result.generated_tokens
            sums.flops += result.flops or 0.0
            sums.usd += result.cost_usd or 0.0

    def repriced(self, space: SearchSpace) -> tuple[SearchSpace, list[PriceChange]] | None:
        """Return the space with measured prices, and what changed.

        Args:
            space: The space as it is planned so far.

        Returns:
            None where nothing is off by more than `TOLERANCE`.

        Raises:
            SpaceError: By the measured prices even the cheapest allocation is over the budget.
        """
        order = [stage.name for stage in space.stages]
        off = {
            key: (sums, what)
            for key, sums in sorted(
                self._sums.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
            )
            if (what := _what_is_off(space, space.spec.stage(key[0]), sums)) is not None
        }
        if not off:
            return None
        stages = tuple(
            _measured(stage, [sums for (name, _), (sums, _) in off.items() if name == stage.name])
            for stage in space.stages
        )
        changes = [
            PriceChange(stage=stage, option=option, what=what) for (stage, option), (_, what) in off.items()
        ]
        return space.of(space.spec.model_copy(update={"stages": stages})), changes


def _what_is_off(space: SearchSpace, stage: StageSpec, sums: _Sums) -> str | None:
    """What an option was planned to take and what it took, in words; None where these are near each other."""
    if stage.python is not None:
        cost = stage.cost_of(sums.option)
        planned = {"FLOPs a call": cost.flops, "US dollars a call": cost.usd}
        took = {"FLOPs a call": sums.flops / sums.n, "US dollars a call": sums.usd / sums.n}
        near = not any(_is_off(planned[name], took[name]) for name in planned)
    else:
        names, lengths = ("prompt tokens", "tokens a sample"), stage.lengths_of(sums.option)
        planned, took = (dict(zip(names, of, strict=True)) for of in (lengths, _lengths(sums)))
        near = not _is_off(_cost(space, sums, *lengths), _cost(space, sums, *_lengths(sums)))
    parts = (
        f"{took[name]:.3g} {name} ({planned[name]:.3g} planned)"
        for name in took
        if _is_off(planned[name], took[name])
    )
    return None if near else ", ".join(parts)


def _measured(stage: StageSpec, of: Sequence[_Sums]) -> StageSpec:
    """The stage with what was measured of some of its options in place of what was expected."""
    if stage.python is not None:
        costs = {
            sums.option.model: stage.cost_of(sums.option).model_copy(
                update={"flops": sums.flops / sums.n, "usd": sums.usd / sums.n}
            )
            for sums in of
        }
        return stage.model_copy(update={"costs": {**stage.costs, **costs}})
    lengths = {}
    for sums in of:
        read, written = _lengths(sums)
        lengths[sums.option.drawn] = Lengths(prompt_tokens=read, generated_tokens=written)
    return stage.model_copy(update={"lengths": {**stage.lengths, **lengths}})


def announcement(changes: Iterable[PriceChange]) -> str:
    """Say which prices changed, for a person.

    Args:
        changes: The changes, at least one.
    """
    lines = [str(change) for change in changes]
    more = f"; and {len(lines) - _MOST_SHOWN} more" if len(lines) > _MOST_SHOWN else ""
    return f"Prices follow what trials took: {'; '.join(lines[:_MOST_SHOWN])}{more}."


def _is_off(planned: float, took: float) -> bool:
    return abs(took - planned) > TOLERANCE * planned


def _cost(space: SearchSpace, sums: _Sums, prompt_tokens: float, generated_tokens: float) -> float:
    """What prompts and samples of these lengths cost at the mean number of samples: dollars as billed, or
    tokens, which cost alike in FLOPs.
    """
    n_samples, model = sums.n_samples / sums.n, space.spec.models[sums.option.model]
    read, written = prompt_tokens, n_samples * generated_tokens
    if space.measure.name == "usd":
        billed = stage_cost_usd(model, n_requests(model, math.ceil(n_samples)) * read, written)
        if billed is not None:
            return billed
    return read + written


def _lengths(sums: _Sums) -> tuple[float, float]:
    """Mean tokens of a prompt and of a sample, at least a token's thousandth: lengths are above 0."""
    prompt_tokens = sums.prompt_tokens / sums.n
    return max(prompt_tokens, 1e-3), max(sums.generated_tokens / max(1, sums.n_samples), 1e-3)
