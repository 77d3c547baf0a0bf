"""The search space: the allocations of a pipeline whose planned cost per query is within a budget.

Sample counts are integers from 1 to the stage's largest. Sums are compared in whole ticks, a billionth of the
budget each, so that membership, size and enumeration agree exactly. A small space can be listed; a large one
can be projected onto.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from agenttts.errors import SpaceError
from agenttts.space.measure import Measure, amount_text, number_text
from pipelines.allocation import Allocation, StageChoice, StageOption
from pipelines.costs import known_sum
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec

_Ints = npt.NDArray[np.int64]
_TICKS_PER_BUDGET = 10**9
_MOST_PARTIAL_SUMS = 8_000_000


class SearchSpace:
    """All allocations of a pipeline within a budget.

    What is called units here is an amount of the budget's measure: units of the reference, or US dollars.
    The planned units of each choice of a stage are computed once and cached.

    Args:
        spec: The pipeline.
        budget_units: The budget per query, in its measure.
        measure: The measure of the budget; None: that of the spec's own.

    Attributes:
        spec: The pipeline.
        measure: The measure of the budget and of every planned amount.
        budget_units: The budget per query, in its measure.
        stages: The stages of the spec, in their order.
        options: The options of each stage (a model, and a verifier where it has one), by the stage's name, in
            the order of the spec.
        cheapest: The allocation with the fewest planned units.

    Raises:
        SpaceError: The budget is not positive, even the cheapest allocation is over it, or a model lacks what
            the measure needs.
    """

    def __init__(self, spec: PipelineSpec, budget_units: float, measure: Measure | None = None) -> None:
        self.measure = Measure.of(spec) if measure is None else measure
        if not budget_units > 0:
            raise SpaceError(f"a budget is > 0 {self.measure.label}, got {budget_units:g}")
        self.spec = spec
        self.budget_units = float(budget_units)
        self.stages: tuple[StageSpec, ...] = spec.stages
        self.options = {stage.name: stage.options for stage in spec.stages}
        self._stage_of = {stage.name: stage for stage in spec.stages}
        self._planned: dict[tuple[str, StageChoice], tuple[float, int]] = {}  # units and ticks
        self._ticks_by_count: dict[tuple[str, StageOption], list[int]] = {}  # of 1, 2, … samples
        self._allowance = _TICKS_PER_BUDGET + (len(self.stages) + 1) // 2  # rounding: half a tick per stage
        self.cheapest = Allocation({name: self._by_cost(name)[0].with_samples(1) for name in self.options})
        if not self._fits(self.cheapest):
            raise SpaceError(
                f"a budget covers at least the cheapest allocation, {self.cheapest}, which takes "
                f"{self.text(self.units(self.cheapest))}; got {self.budget_text}: raise the budget"
            )

    def of(self, spec: PipelineSpec) -> SearchSpace:
        """Return the space of another form of the pipeline, with the same budget in the same measure.

        Args:
            spec: The pipeline, with other prices or further prompts.

        Raises:
            SpaceError: As the class does.
        """
        return SearchSpace(spec, self.budget_units, Measure(spec, self.measure.name))

    def units(self, allocation: Mapping[str, StageChoice]) -> float:
        """Compute the planned units of an allocation, fusion and verifier included.

        Args:
            allocation: The allocation, within the budget or not.

        Raises:
            SpaceError: The allocation does not name every stage once.
        """
        if allocation.keys() != self._stage_of.keys():
            return self.measure.planned(allocation)  # says what is wrong
        return sum(self.stage_units(stage, allocation[stage]) for stage in self._stage_of)

    def stage_units(self, stage: str, choice: StageChoice) -> float:
        """Compute the planned units of one stage's choice; an allocation's units are the sum over its stages.

        Args:
            stage: The name of the stage.
            choice: The choice.
        """
        return self._cost(stage, choice)[0]

    def text(self, amount: float) -> str:
        """Format an amount of the budget's measure with its label.

        Args:
            amount: The amount.
        """
        return amount_text(amount, self.measure.name)

    def share_text(self, allocation: Mapping[str, StageChoice]) -> str:
        """Format what an allocation takes of the budget: `35.82 of 150 units`.

        Args:
            allocation: The allocation.
        """
        return f"{self._number(self.units(allocation))} of {self.budget_text} {self.measure.label}"

    def active_params(self, option: StageOption) -> float | None:
        """Return the active parameters of an option: of the model that draws, and of the verifier where it
        has one.

        Args:
            option: The option.

        Returns:
            The number; None where it is not known.
        """
        models = [option.model] if option.verifier is None else [option.model, option.verifier]
        known = (
            self.spec.models[name].active_params if name in self.spec.models else None for name in models
        )
        return known_sum(known)

    def magnitude(self, stage: str, option: StageOption) -> float:
        """Return what options of a stage are ranked by: their active parameters, else the cost of one sample.

        Args:
            stage: The name of the stage.
            option: The option.
        """
        params = self.active_params(option)
        if params is None or any(self.spec.models[m].active_params is None for m in self.spec.used_models):
            return self.stage_units(stage, option.with_samples(1))
        return params

    def max_samples(self, stage: str, option: StageOption, units_left: float) -> int:
        """Return the largest number of samples of an option that a number of units pays for.

        Args:
            stage: The name of the stage.
            option: The option.
            units_left: The units that the stage may take.

        Returns:
            The number of samples; 0 when even one takes more units.
        """
        return self._most(stage, option, round(units_left * self._ticks_per_unit) + 1)

    def resolve(self, allocation: Mapping[str, StageChoice]) -> Allocation:
        """Split model names such as `small@judge` and `small:steps` into model, prompt and verifier.

        For allocations that a person, an LLM or an earlier version wrote.

        Args:
            allocation: The allocation.

        Returns:
            The allocation. A choice that is none of its stage's options stays as it is; `problem` reports it.
        """
        resolved = {}
        for stage, choice in allocation.items():
            by_text = {str(option): option for option in self.options.get(stage, ())}
            option = by_text.get(choice.model) if choice.verifier is None and choice.prompt is None else None
            resolved[stage] = choice if option is None else option.with_samples(choice.n_samples)
        return Allocation(resolved)

    def __contains__(self, allocation: object) -> bool:
        return isinstance(allocation, Mapping) and self.problem(allocation) is None

    def problem(self, allocation: Mapping[str, StageChoice]) -> str | None:
        """Return why an allocation is not in the space, in words.

        Args:
            allocation: The allocation.

        Returns:
            The reason; None when the allocation is in the space.
        """
        problem = self._shape_problem(allocation)
        if problem is not None:
            return problem
        for stage in self.stages:
            n = allocation[stage.name].n_samples
            if not 1 <= n <= stage.max_samples:
                return f"stage {stage.name!r} takes 1 to {stage.max_samples} samples, got {n}"
        if self._fits(allocation):
            return None
        total = self.units(allocation)
        parts = ", ".join(f"{s} {self._number(self.stage_units(s, allocation[s]))}" for s in self._stage_of)
        over, taken = self.text(total - self.budget_units), self._number(total)
        return f"over budget by {over}: it takes {taken} ({parts}), and {self.budget_text} are allowed"

    def enumerate(self, limit: int = 200_000) -> Iterator[Allocation]:
        """List every allocation of the space, in the order of stages, models and sample counts.

        Args:
            limit: The largest size that is listed.

        Raises:
            SpaceError: The space has more allocations than `limit`.
        """
        if self.size > limit:
            raise SpaceError(
                f"a space is listed up to {limit} allocations, got {self.size}: project onto it instead"
            )
        cheapest_after = [0]
        for choices in reversed(self._choices):
            cheapest_after.insert(0, cheapest_after[0] + min(ticks for _, ticks in choices))
        return self._extend((), 0, cheapest_after)

    @cached_property
    def size(self) -> int:
        """The number of allocations in the space, counted without listing them.

        The count is exact while the distinct partial sums of half the stages stay under some millions (six
        stages of 100 choices and more, as a rule); beyond that, costs are rounded to a coarser tick.
        """
        half = len(self._choices) // 2
        left, left_count = self._partial_sums(self._choices[:half])
        right, right_count = self._partial_sums(self._choices[half:])
        below = np.concatenate([[0], np.cumsum(right_count)])
        fitting = below[np.searchsorted(right, self._allowance - left, side="right")]
        return int(np.dot(left_count.astype(object), fitting.astype(object)))

    def project(self, allocation: Mapping[str, StageChoice]) -> Allocation:
        """Return an allocation of the space near this one; the allocation itself when it is in the space.

        Counts above a stage's largest are cut. While one sample of every chosen model is over the budget, the
        stage with the dearest single sample takes its next cheaper model. Then all counts shrink by one
        common factor, the largest that fits (at least 1 sample each), and the units that rounding has freed
        go back to the stages in their order.

        Args:
            allocation: The allocation.

        Raises:
            SpaceError: A stage or model is unknown or missing.
        """
        problem = self._shape_problem(allocation)
        if problem is not None:
            raise SpaceError(problem)
        wanted = {s.name: min(max(allocation[s.name].n_samples, 1), s.max_samples) for s in self.stages}
        options = {s.name: allocation[s.name].option for s in self.stages}
        self._cheapen(options)
        return self._grow(options, self._shrunk(options, wanted), wanted)

    def defaults(self) -> list[Allocation]:
        """Return what a person tries without a search: one model everywhere, the budget shared between the
        stages.

        There is one allocation for each model that every stage offers, in the spec's order. Without a common
        model: for each rank of size, the models of that rank at each stage (smallest with smallest, largest
        with largest). A stage takes as many samples as its share pays for, at least one; shares that it
        cannot use go to the others. Models whose single samples are over the budget are left out.

        Returns:
            The allocations; where none fits, one of the cheapest models.
        """
        defaults = []
        for options in self._default_options():
            if self._fits(_at(options, dict.fromkeys(options, 1))):
                defaults.append(self._shared_equally(options))
        cheapest = {stage: choice.option for stage, choice in self.cheapest.items()}
        return list(dict.fromkeys(defaults)) or [self._shared_equally(cheapest)]

    def mixed(self) -> list[Allocation]:
        """Return allocations that spread the options of every stage, each option at least once.

        Unlike the defaults they pair the options of one rank with those of another, as in a Latin square, so
        that what a stage contributes can be told from what the others do. The budget is shared as for the
        defaults; combinations whose single samples are over it are left out.
        """
        ranked = [
            sorted(options, key=partial(self.magnitude, stage)) for stage, options in self.options.items()
        ]
        count = max(len(options) for options in ranked)
        mixed = []
        for i in range(count):
            places = [(i + k * (count // len(ranked) or 1)) % count for k in range(len(ranked))]
            options = {
                stage: of_stage[place * len(of_stage) // count]
                for stage, of_stage, place in zip(self.options, ranked, places, strict=True)
            }
            if self._fits(_at(options, dict.fromkeys(options, 1))):
                mixed.append(self._shared_equally(options))
        return list(dict.fromkeys(mixed))

    def _number(self, amount: float) -> str:
        return number_text(amount, self.measure.name)

    @property
    def budget_text(self) -> str:
        """The budget as a number without its label."""
        return number_text(self.budget_units, self.measure.name, 6)

    @property
    def _ticks_per_unit(self) -> float:
        return _TICKS_PER_BUDGET / self.budget_units

    def _cost(self, stage: str, choice: StageChoice) -> tuple[float, int]:
        """Planned units and ticks of a stage's choice."""
        cost = self._planned.get((stage, choice))
        if cost is None:
            units = self.measure.planned_stage(self._stage_of[stage], choice)
            cost = self._planned[stage, choice] = (units, round(units * self._ticks_per_unit))
        return cost

    def _ticks(self, stage: str, option: StageOption, n_samples: int) -> int:
        return self._cost(stage, option.with_samples(n_samples))[1]

    def _fits(self, allocation: Mapping[str, StageChoice]) -> bool:
        return sum(self._cost(stage, choice)[1] for stage, choice in allocation.items()) <= self._allowance

    def _most(self, stage: str, option: StageOption, ticks_left: int) -> int:
        ticks = self._ticks_by_count.get((stage, option))
        if ticks is None:
            counts = range(1, self._stage_of[stage].max_samples + 1)
            ticks = self._ticks_by_count[stage, option] = [self._ticks(stage, option, n) for n in counts]
        return bisect_right(ticks, ticks_left)

    def _shape_problem(self, allocation: Mapping[str, StageChoice]) -> str | None:
        missing = [name for name in self._stage_of if name not in allocation]
        unknown = [str(name) for name in allocation if name not in self._stage_of]
        if missing or unknown:
            faults = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [
                f"missing {', '.join(missing)}"
            ] * bool(missing)
            return f"an allocation names each stage once ({', '.join(self._stage_of)}); {'; '.join(faults)}"
        for stage, options in self.options.items():
            option = allocation[stage].option
            if option not in options:
                return f"stage {stage!r} may use {', '.join(map(str, options))}; got {str(option)!r}"
        return None

    def _by_cost(self, stage: str) -> list[StageOption]:
        """The options of a stage, the one with the cheapest single sample first."""
        return sorted(self.options[stage], key=lambda option: self._ticks(stage, option, 1))

    @cached_property
    def _choices(self) -> list[list[tuple[StageChoice, int]]]:
        """Each stage's choices and their ticks, without those over budget whatever the others choose."""
        least = {stage: self._cost(stage, choice)[1] for stage, choice in self.cheapest.items()}
        by_stage = []
        for stage, options in self.options.items():
            left = self._allowance - (sum(least.values()) - least[stage])
            choices = [
                option.with_samples(n)
                for option in options
                for n in range(1, self._most(stage, option, left) + 1)
            ]
            by_stage.append([(choice, self._cost(stage, choice)[1]) for choice in choices])
        return by_stage

    def _extend(self, taken: tuple[StageChoice, ...], spent: int, after: list[int]) -> Iterator[Allocation]:
        if len(taken) == len(self.stages):
            yield Allocation(dict(zip(self._stage_of, taken, strict=True)))
            return
        for choice, ticks in self._choices[len(taken)]:
            if spent + ticks + after[len(taken) + 1] <= self._allowance:
                yield from self._extend((*taken, choice), spent + ticks, after)

    def _partial_sums(self, choices: Sequence[Sequence[tuple[StageChoice, int]]]) -> tuple[_Ints, _Ints]:
        """Distinct sums of ticks over some stages, ascending, and how often each occurs."""
        sums, counts, tick = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64), 1
        for stage_choices in choices:
            ticks, repeats = np.unique([t for _, t in stage_choices], return_counts=True)
            while len(sums) * len(ticks) > _MOST_PARTIAL_SUMS and len(sums) > 1:
                tick *= 10
                sums, counts = _merged(sums // tick * tick, counts)
            every_sum = (sums[:, None] + ticks[None, :]).ravel()
            sums, counts = _merged(every_sum, (counts[:, None] * repeats[None, :]).ravel())
        return sums, counts

    def _cheapen(self, options: dict[str, StageOption]) -> None:
        while not self._fits(_at(options, dict.fromkeys(options, 1))):
            dearer = [stage for stage in options if options[stage] != self._by_cost(stage)[0]]
            stage = max(dearer, key=lambda stage: self._ticks(stage, options[stage], 1))
            order = self._by_cost(stage)
            options[stage] = order[order.index(options[stage]) - 1]

    def _shrunk(self, options: Mapping[str, StageOption], wanted: Mapping[str, int]) -> dict[str, int]:
        factors = sorted(
            {(k, n) for n in set(wanted.values()) for k in range(1, n + 1)}, key=lambda f: f[0] / f[1]
        )

        def scaled(factor: tuple[int, int]) -> dict[str, int]:
            return {stage: max(1, n * factor[0] // factor[1]) for stage, n in wanted.items()}

        low, high = 0, len(factors) - 1  # the smallest factor leaves one sample everywhere, which fits
        while low < high:
            middle = (low + high + 1) // 2
            fits = self._fits(_at(options, scaled(factors[middle])))
            low, high = (middle, high) if fits else (low, middle - 1)
        return scaled(factors[low])

    def _grow(
        self, options: Mapping[str, StageOption], counts: dict[str, int], most: Mapping[str, int]
    ) -> Allocation:
        for stage in options:
            spent = sum(self._ticks(s, options[s], counts[s]) for s in options if s != stage)
            affordable = self._most(stage, options[stage], self._allowance - spent)
            counts[stage] = max(counts[stage], min(most[stage], affordable))
        return _at(options, counts)

    def _default_options(self) -> Iterator[dict[str, StageOption]]:
        answering = [stage for stage in self.stages if stage.python is None]
        functions = {stage.name: stage.options[0] for stage in self.stages if stage.python is not None}
        first = answering[0].models if answering else ()
        common = [m for m in first if all(m in stage.models for stage in answering)]
        for model in common:
            chosen = {s.name: StageOption(model, None, s.prompt_names[0]) for s in answering}
            yield {stage: (functions | chosen)[stage] for stage in self.options}
        if common:
            return
        ranked = {
            s.name: sorted(self._plain_options(s), key=partial(self.magnitude, s.name)) for s in self.stages
        }
        ranks = max(len(options) for options in ranked.values())
        for rank in range(ranks):
            share = rank / (ranks - 1) if ranks > 1 else 0.0
            yield {name: options[round(share * (len(options) - 1))] for name, options in ranked.items()}

    @staticmethod
    def _plain_options(stage: StageSpec) -> list[StageOption]:
        """A stage's options with its first prompt and without a verifier; of a function, its first option."""
        if stage.python is not None:
            return [stage.options[0]]
        return [StageOption(model, None, stage.prompt_names[0]) for model in stage.models]

    def _shared_equally(self, options: Mapping[str, StageOption]) -> Allocation:
        counts: dict[str, int] = {}
        left, waiting = self._allowance, list(options)
        while waiting:
            share = left // len(waiting)
            most = {s: self._most(s, options[s], share) for s in waiting}
            too_dear = [s for s in waiting if most[s] == 0]
            at_largest = [s for s in waiting if most[s] == self._stage_of[s].max_samples]
            settled = too_dear or at_largest or waiting
            for stage in settled:
                counts[stage] = max(1, most[stage])
                left -= self._ticks(stage, options[stage], counts[stage])
            waiting = [s for s in waiting if s not in settled]
        limits = {s.name: s.max_samples for s in self.stages}
        return self._grow(options, counts, limits)


def _at(options: Mapping[str, StageOption], counts: Mapping[str, int]) -> Allocation:
    return Allocation({stage: option.with_samples(counts[stage]) for stage, option in options.items()})


def _merged(sums: _Ints, counts: _Ints) -> tuple[_Ints, _Ints]:
    distinct, where = np.unique(sums, return_inverse=True)
    merged = np.zeros(len(distinct), dtype=np.int64)
    np.add.at(merged, where, counts)
    return distinct, merged
