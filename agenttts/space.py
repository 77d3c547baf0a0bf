"""The search space: the allocations of a pipeline whose planned budget is within a number of units.

Sample counts are integers from 1 to the stage's largest. Sums are compared in whole ticks, a billionth of the
budget each, so that membership, size and enumeration agree exactly. List a small space, project onto a large
one. Which allocation is good is left to the proposers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from agenttts.budget import planned_stage_units, planned_units
from agenttts.errors import SpaceError
from pipelines.allocation import Allocation, StageChoice
from pipelines.spec import PipelineSpec, StageSpec

_Ints = npt.NDArray[np.int64]
_TICKS_PER_BUDGET = 10**9
_MOST_PARTIAL_SUMS = 8_000_000


class SearchSpace:
    """All allocations of `spec` within `budget_units`, units of the spec's reference (`budget.units`).

    SpaceError when the budget is not positive or even the cheapest allocation is over it.
    """

    def __init__(self, spec: PipelineSpec, budget_units: float) -> None:
        if not budget_units > 0:
            raise SpaceError(f"a budget is > 0 units, got {budget_units:g}")
        self.spec = spec
        self.budget_units = float(budget_units)
        self.stages: tuple[StageSpec, ...] = spec.stages
        self._stage_of = {stage.name: stage for stage in spec.stages}
        self._allowance = _TICKS_PER_BUDGET + (len(self.stages) + 1) // 2  # rounding: half a tick per stage
        self.cheapest = Allocation({s.name: StageChoice(self._cheapest_models(s)[0], 1) for s in self.stages})
        if not self._fits(self.cheapest):
            raise SpaceError(
                f"a budget covers at least the cheapest allocation, {self.cheapest}, which takes "
                f"{self.units(self.cheapest):.4g} units; got {self.budget_units:g}: raise the budget"
            )

    def units(self, allocation: Mapping[str, StageChoice]) -> float:
        """Planned units of an allocation, in the budget or not; what fuses or verifies included."""
        return planned_units(self.spec, allocation)

    def stage_units(self, stage: str, choice: StageChoice) -> float:
        """Planned units of one stage's choice; an allocation's units are the sum over its stages."""
        return planned_stage_units(self.spec, self._stage_of[stage], choice)

    def active_params(self, stage: str, model: str) -> float:
        """Of the model that draws for an option, and of the verifier that picks, where one does."""
        own = self._stage_of[stage]
        verifier = own.aggregator_of(model).own_model if model not in own.models else None
        params = self.spec.models[own.model_of(model)].active_params
        return params if verifier is None else params + self.spec.models[verifier].active_params

    def max_samples(self, stage: str, model: str, units_left: float) -> int:
        """The largest number of samples of this model at this stage within `units_left`; 0 when none is."""
        return self._most(stage, model, round(units_left * self._ticks_per_unit) + 1)

    def __contains__(self, allocation: object) -> bool:
        return isinstance(allocation, Mapping) and self.problem(allocation) is None

    def problem(self, allocation: Mapping[str, StageChoice]) -> str | None:
        """Why an allocation is not in the space, in words; None when it is."""
        found = self._shape_problem(allocation)
        for stage in self.stages if found is None else ():
            n = allocation[stage.name].n_samples
            if not 1 <= n <= stage.max_samples:
                return f"stage {stage.name!r} takes 1 to {stage.max_samples} samples, got {n}"
        if found is None and not self._fits(allocation):
            total = self.units(allocation)
            parts = ", ".join(f"{s} {self.stage_units(s, allocation[s]):.4g}" for s in self._stage_of)
            return (
                f"over budget by {total - self.budget_units:.4g} units: it takes {total:.4g} ({parts}), "
                f"and {self.budget_units:g} are allowed"
            )
        return found

    def enumerate(self, limit: int = 200_000) -> Iterator[Allocation]:
        """Every allocation of the space, in the order of stages, models and sample counts.

        SpaceError when there are more than `limit`.
        """
        if self.size > limit:
            raise SpaceError(
                f"a space is listed up to {limit} allocations, got {self.size}: project onto it instead"
            )
        cheapest_after = [0]
        for options in reversed(self._options):
            cheapest_after.insert(0, cheapest_after[0] + min(ticks for _, ticks in options))
        return self._extend((), 0, cheapest_after)

    @cached_property
    def size(self) -> int:
        """The number of allocations in the space, counted without listing them.

        Exact while the distinct partial sums of half the stages stay under some millions (six stages of 100
        choices and more, as a rule); beyond that, costs are rounded to a coarser tick.
        """
        half = len(self._options) // 2
        left, left_count = self._partial_sums(self._options[:half])
        right, right_count = self._partial_sums(self._options[half:])
        below = np.concatenate([[0], np.cumsum(right_count)])
        fitting = below[np.searchsorted(right, self._allowance - left, side="right")]
        return int(np.dot(left_count.astype(object), fitting.astype(object)))

    def project(self, allocation: Mapping[str, StageChoice]) -> Allocation:
        """The allocation of the space near this one; itself when it is in the space.

        Counts above a stage's largest are cut. While one sample of every chosen model is over the budget, the
        stage with the dearest single sample takes its next cheaper model. Then all counts shrink by one
        common factor, the largest that fits (at least 1 sample each), and what rounding left over goes back
        in the order of the stages. SpaceError when a stage or model is unknown or missing.
        """
        found = self._shape_problem(allocation)
        if found is not None:
            raise SpaceError(found)
        wanted = {s.name: min(max(allocation[s.name].n_samples, 1), s.max_samples) for s in self.stages}
        models = {s.name: allocation[s.name].model for s in self.stages}
        self._cheapen(models)
        return self._grow(models, self._shrunk(models, wanted), wanted)

    def defaults(self) -> list[Allocation]:
        """What a person tries without a search: one model everywhere, the budget shared between stages.

        One allocation for each model that every stage offers, in the spec's order. Without a common model:
        for each rank of size, the models of that rank at each stage (smallest with smallest, largest with
        largest). A stage takes as many samples as its share pays for, at least one; shares it cannot use go
        to the others. Models whose single samples are over the budget are left out; if none fits, the
        cheapest models are taken.
        """
        found = []
        for models in self._default_models():
            if self._fits(_at(models, dict.fromkeys(models, 1))):
                found.append(self._shared_equally(models))
        cheapest = {stage: choice.model for stage, choice in self.cheapest.items()}
        return list(dict.fromkeys(found)) or [self._shared_equally(cheapest)]

    @property
    def _ticks_per_unit(self) -> float:
        return _TICKS_PER_BUDGET / self.budget_units

    def _ticks(self, stage: str, model: str, n_samples: int) -> int:
        return round(self.stage_units(stage, StageChoice(model, n_samples)) * self._ticks_per_unit)

    def _fits(self, allocation: Mapping[str, StageChoice]) -> bool:
        return sum(self._ticks(s, c.model, c.n_samples) for s, c in allocation.items()) <= self._allowance

    def _most(self, stage: str, model: str, ticks_left: int) -> int:
        low, high = 0, self._stage_of[stage].max_samples
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (
                (middle, high) if self._ticks(stage, model, middle) <= ticks_left else (low, middle - 1)
            )
        return low

    def _shape_problem(self, allocation: Mapping[str, StageChoice]) -> str | None:
        missing = [name for name in self._stage_of if name not in allocation]
        unknown = [str(name) for name in allocation if name not in self._stage_of]
        if missing or unknown:
            faults = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [
                f"missing {', '.join(missing)}"
            ] * bool(missing)
            return f"an allocation names each stage once ({', '.join(self._stage_of)}); {'; '.join(faults)}"
        for stage in self.stages:
            model = allocation[stage.name].model
            if model not in stage.options:
                return f"stage {stage.name!r} may use {', '.join(stage.options)}; got {model!r}"
        return None

    def _cheapest_models(self, stage: StageSpec) -> list[str]:
        return sorted(stage.options, key=lambda model: self._ticks(stage.name, model, 1))

    @cached_property
    def _options(self) -> list[list[tuple[StageChoice, int]]]:
        """Each stage's choices and their ticks, without those over budget whatever the others choose."""
        least = {s.name: self._ticks(s.name, self.cheapest[s.name].model, 1) for s in self.stages}
        found = []
        for stage in self.stages:
            left = self._allowance - (sum(least.values()) - least[stage.name])
            found.append(
                [
                    (StageChoice(model, n), self._ticks(stage.name, model, n))
                    for model in stage.options
                    for n in range(1, self._most(stage.name, model, left) + 1)
                ]
            )
        return found

    def _extend(self, taken: tuple[StageChoice, ...], spent: int, after: list[int]) -> Iterator[Allocation]:
        if len(taken) == len(self.stages):
            yield Allocation(dict(zip(self._stage_of, taken, strict=True)))
            return
        for choice, ticks in self._options[len(taken)]:
            if spent + ticks + after[len(taken) + 1] <= self._allowance:
                yield from self._extend((*taken, choice), spent + ticks, after)

    def _partial_sums(self, options: Sequence[Sequence[tuple[StageChoice, int]]]) -> tuple[_Ints, _Ints]:
        """Distinct sums of ticks over some stages, ascending, and how often each occurs."""
        sums, counts, tick = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64), 1
        for stage_options in options:
            ticks, repeats = np.unique([t for _, t in stage_options], return_counts=True)
            while len(sums) * len(ticks) > _MOST_PARTIAL_SUMS and len(sums) > 1:
                tick *= 10
                sums, counts = _merged(sums // tick * tick, counts)
            every_sum = (sums[:, None] + ticks[None, :]).ravel()
            sums, counts = _merged(every_sum, (counts[:, None] * repeats[None, :]).ravel())
        return sums, counts

    def _cheapen(self, models: dict[str, str]) -> None:
        while not self._fits(_at(models, dict.fromkeys(models, 1))):
            single = {name: self._ticks(name, model, 1) for name, model in models.items()}
            dearer = [s for s in self.stages if models[s.name] != self._cheapest_models(s)[0]]
            stage = max(dearer, key=lambda s: single[s.name])
            order = self._cheapest_models(stage)
            models[stage.name] = order[order.index(models[stage.name]) - 1]

    def _shrunk(self, models: Mapping[str, str], wanted: Mapping[str, int]) -> dict[str, int]:
        factors = sorted(
            {(k, n) for n in set(wanted.values()) for k in range(1, n + 1)}, key=lambda f: f[0] / f[1]
        )

        def scaled(factor: tuple[int, int]) -> dict[str, int]:
            return {stage: max(1, n * factor[0] // factor[1]) for stage, n in wanted.items()}

        low, high = 0, len(factors) - 1  # the smallest factor leaves one sample everywhere, which fits
        while low < high:
            middle = (low + high + 1) // 2
            fits = self._fits(_at(models, scaled(factors[middle])))
            low, high = (middle, high) if fits else (low, middle - 1)
        return scaled(factors[low])

    def _grow(self, models: Mapping[str, str], counts: dict[str, int], most: Mapping[str, int]) -> Allocation:
        for stage in models:
            spent = sum(self._ticks(s, models[s], counts[s]) for s in models if s != stage)
            affordable = self._most(stage, models[stage], self._allowance - spent)
            counts[stage] = max(counts[stage], min(most[stage], affordable))
        return _at(models, counts)

    def _default_models(self) -> Iterator[dict[str, str]]:
        common = [m for m in self.stages[0].models if all(m in stage.models for stage in self.stages)]
        for model in common:
            yield {stage.name: model for stage in self.stages}
        if common:
            return
        ranked = {
            s.name: sorted(s.models, key=lambda model: self.spec.models[model].active_params)
            for s in self.stages
        }
        ranks = max(len(models) for models in ranked.values())
        for rank in range(ranks):
            share = rank / (ranks - 1) if ranks > 1 else 0.0
            yield {name: models[round(share * (len(models) - 1))] for name, models in ranked.items()}

    def _shared_equally(self, models: Mapping[str, str]) -> Allocation:
        counts: dict[str, int] = {}
        left, waiting = self._allowance, list(models)
        while waiting:
            share = left // len(waiting)
            most = {s: self._most(s, models[s], share) for s in waiting}
            too_dear = [s for s in waiting if most[s] == 0]
            at_largest = [s for s in waiting if most[s] == self._stage_of[s].max_samples]
            settled = too_dear or at_largest or waiting
            for stage in settled:
                counts[stage] = max(1, most[stage])
                left -= self._ticks(stage, models[stage], counts[stage])
            waiting = [s for s in waiting if s not in settled]
        limits = {s.name: s.max_samples for s in self.stages}
        return self._grow(models, counts, limits)


def _at(models: Mapping[str, str], counts: Mapping[str, int]) -> Allocation:
    return Allocation({stage: StageChoice(model, counts[stage]) for stage, model in models.items()})


def _merged(sums: _Ints, counts: _Ints) -> tuple[_Ints, _Ints]:
    distinct, where = np.unique(sums, return_inverse=True)
    merged = np.zeros(len(distinct), dtype=np.int64)
    np.add.at(merged, where, counts)
    return distinct, merged
