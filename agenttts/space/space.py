"""The search space: the allocations of a pipeline whose planned cost per query is within a budget.

Sample counts are integers from 1 to the stage's largest. A small space can be listed; a large one can be
projected onto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial

from agenttts.errors import SpaceError
from agenttts.space.counting import combinations, n_combinations
from agenttts.space.measure import Measure, amount_text, number_text
from agenttts.space.starts import default_options, mixed_options
from agenttts.space.ticks import Ticks, allocation_of
from pipelines.allocation import Allocation, StageChoice, StageOption
from pipelines.costs import known_sum
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec


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
        self._ticks = Ticks(spec, self.budget_units, self.measure)
        self.cheapest = Allocation(
            {name: self._ticks.by_cost(name)[0].with_samples(1) for name in self.options}
        )
        if not self._ticks.fits(self.cheapest):
            raise SpaceError(
                f"a budget covers at least the cheapest allocation, {self.cheapest}, which takes "
                f"{self.text(self.units(self.cheapest))}; got {self.budget_text}: raise the budget"
            )

    def below_reference(self) -> str | None:
        """Say that units are counted from a prompt that is longer than the pipeline's own, where they are.

        Returns:
            The advice, in one clause; None where the cheapest allocation is less than a unit below 0.
        """
        least = self.units(self.cheapest)
        if self.measure.name != "units" or least > -1:
            return None
        reference = self.spec.budget.reference
        return (
            f"{self.cheapest} takes {self.text(least)}: units leave out the reading of "
            f"{reference.prompt_tokens} prompt tokens of a model of {reference.active_params:g} parameters "
            "for each stage, more than this pipeline reads; set budget.reference to one of its models and "
            "the lengths of its prompts and samples"
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
        if allocation.keys() != self.options.keys():
            return self.measure.planned(allocation)  # says what is wrong
        return sum(self.stage_units(stage, allocation[stage]) for stage in self.options)

    def stage_units(self, stage: str, choice: StageChoice) -> float:
        """Compute the planned units of one stage's choice; an allocation's units are the sum over its stages.

        Args:
            stage: The name of the stage.
            choice: The choice.
        """
        return self._ticks.units(stage, choice)

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
        taken = number_text(self.units(allocation), self.measure.name)
        return f"{taken} of {self.budget_text} {self.measure.label}"

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
        return self._ticks.most_samples(stage, option, self._ticks.of_units(units_left) + 1)

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
        if self._ticks.fits(allocation):
            return None
        total = self.units(allocation)
        number = partial(number_text, name=self.measure.name)
        parts = ", ".join(f"{s} {number(self.stage_units(s, allocation[s]))}" for s in self.options)
        over, taken = self.text(total - self.budget_units), number(total)
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
        names = tuple(self.options)
        return (
            Allocation(dict(zip(names, choices, strict=True)))
            for choices in combinations(self._ticks.choices(self.cheapest), self._ticks.allowance)
        )

    @cached_property
    def size(self) -> int:
        """The number of allocations in the space, counted without listing them.

        The count is exact while the distinct partial sums of half the stages stay under some millions (six
        stages of 100 choices and more, as a rule); beyond that, costs are rounded to a coarser tick.
        """
        return n_combinations(self._ticks.choices(self.cheapest), self._ticks.allowance)

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
        return self._ticks.shrunk(options, wanted)

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
        cheapest = {stage: choice.option for stage, choice in self.cheapest.items()}
        defaults = self._sharing(default_options(self.stages, self.magnitude))
        return defaults or [self._ticks.shared_equally(cheapest)]

    def mixed(self) -> list[Allocation]:
        """Return allocations that spread the options of every stage, each option at least once.

        Unlike the defaults they pair the options of one rank with those of another, as in a Latin square, so
        that what a stage contributes can be told from what the others do. The budget is shared as for the
        defaults; combinations whose single samples are over it are left out.
        """
        return self._sharing(mixed_options(self.options, self.magnitude))

    @property
    def budget_text(self) -> str:
        """The budget as a number without its label."""
        return number_text(self.budget_units, self.measure.name, 6)

    def _shape_problem(self, allocation: Mapping[str, StageChoice]) -> str | None:
        missing = [name for name in self.options if name not in allocation]
        unknown = [str(name) for name in allocation if name not in self.options]
        if missing or unknown:
            faults = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [
                f"missing {', '.join(missing)}"
            ] * bool(missing)
            return f"an allocation names each stage once ({', '.join(self.options)}); {'; '.join(faults)}"
        for stage, options in self.options.items():
            option = allocation[stage].option
            if option not in options:
                return f"stage {stage!r} may use {', '.join(map(str, options))}; got {str(option)!r}"
        return None

    def _sharing(self, combinations: Iterable[Mapping[str, StageOption]]) -> list[Allocation]:
        """For each combination of options whose single samples fit, the allocation that shares the budget."""
        affordable = [options for options in combinations if self._ticks.fits(allocation_of(options))]
        return list(dict.fromkeys(map(self._ticks.shared_equally, affordable)))
