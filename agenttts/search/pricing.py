"""Prices by measured lengths: what the options of a stage really took in the trials so far.

A spec states expected lengths, and what a call of a function costs. Where the trials show others, allocations
are planned by what was measured from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agenttts.space.measure import Measure
from agenttts.space.space import SearchSpace
from datastore.records import StageResult
from pipelines.allocation import Allocation, StageOption
from pipelines.spec.fields import Lengths, StageSpec
from pipelines.spec.pipeline import PipelineSpec

TOLERANCE = 0.1
"""How far a measured length or cost may be off the planned one before prices follow it, as a share."""
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


@dataclass(frozen=True, kw_only=True)
class Change:
    """A price that is no longer the planned one.

    Attributes:
        stage: The name of the stage.
        option: The option, as text.
        what: What was planned, and what was measured, in words.
    """

    stage: str
    option: str
    what: str

    def __str__(self) -> str:
        return f"{self.stage} {self.option}: {self.what}"


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

    def repriced(self, space: SearchSpace) -> tuple[SearchSpace, list[Change]] | None:
        """Return the space with measured prices, and what changed.

        Args:
            space: The space as it is planned so far.

        Returns:
            None where nothing is off by more than `TOLERANCE`.

        Raises:
            SpaceError: By the measured prices even the cheapest allocation is over the budget.
        """
        changes = [change for stage in space.stages for change in self._changes(stage)]
        if not changes:
            return None
        stages = tuple(self._measured(stage) for stage in space.stages)
        spec = space.spec.model_copy(update={"stages": stages})
        return SearchSpace(spec, space.budget_units, Measure(spec, space.measure.name)), changes

    def _of(self, stage: StageSpec) -> Iterator[_Sums]:
        return (sums for (name, _), sums in self._sums.items() if name == stage.name)

    def _changes(self, stage: StageSpec) -> Iterator[Change]:
        for sums in self._of(stage):
            if stage.python is not None:
                cost = stage.cost_of(sums.option)
                planned = {"FLOPs a call": cost.flops, "US dollars a call": cost.usd}
                took = {"FLOPs a call": sums.flops / sums.n, "US dollars a call": sums.usd / sums.n}
            else:
                names = ("prompt tokens", "tokens a sample")
                planned = dict(zip(names, stage.lengths_of(sums.option), strict=True))
                took = dict(zip(names, _lengths(sums), strict=True))
            off = [name for name in took if abs(took[name] - planned[name]) > TOLERANCE * planned[name]]
            if off:
                what = ", ".join(f"{took[name]:.3g} {name} ({planned[name]:.3g} planned)" for name in off)
                yield Change(stage=stage.name, option=sums.option.drawn, what=what)

    def _measured(self, stage: StageSpec) -> StageSpec:
        """The stage with what was measured in place of what was expected."""
        if stage.python is not None:
            costs = {
                sums.option.model: stage.cost_of(sums.option).model_copy(
                    update={"flops": sums.flops / sums.n, "usd": sums.usd / sums.n}
                )
                for sums in self._of(stage)
            }
            return stage.model_copy(update={"costs": {**stage.costs, **costs}})
        lengths = {}
        for sums in self._of(stage):
            read, written = _lengths(sums)
            lengths[sums.option.drawn] = Lengths(prompt_tokens=read, generated_tokens=written)
        return stage.model_copy(update={"lengths": {**stage.lengths, **lengths}})


def announcement(changes: Iterable[Change]) -> str:
    """Say which prices changed, for a person.

    Args:
        changes: The changes, at least one.
    """
    lines = [str(change) for change in changes]
    more = f"; and {len(lines) - _MOST_SHOWN} more" if len(lines) > _MOST_SHOWN else ""
    return f"Prices follow what trials took: {'; '.join(lines[:_MOST_SHOWN])}{more}."


def _lengths(sums: _Sums) -> tuple[float, float]:
    """Mean tokens of a prompt and of a sample, at least a token's thousandth: lengths are above 0."""
    prompt_tokens = sums.prompt_tokens / sums.n
    return max(prompt_tokens, 1e-3), max(sums.generated_tokens / max(1, sums.n_samples), 1e-3)
