"""Planned costs in whole ticks, a billionth of a budget each, and numbers of samples that fit the budget.

Sums of ticks are exact, so that membership, size and enumeration of a search space agree.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

from agenttts.space.measure import Measure
from pipelines.allocation import Allocation, StageChoice, StageOption
from pipelines.spec.pipeline import PipelineSpec

_TICKS_PER_BUDGET = 10**9


class Ticks:
    """The planned costs of a pipeline's choices, each computed once, against a budget.

    Args:
        spec: The pipeline.
        budget: The budget per query, in its measure.
        measure: The measure.

    Attributes:
        allowance: The most ticks that an allocation may take.
    """

    def __init__(self, spec: PipelineSpec, budget: float, measure: Measure) -> None:
        self.allowance = _TICKS_PER_BUDGET + (len(spec.stages) + 1) // 2  # rounding: half a tick per stage
        self._per_unit = _TICKS_PER_BUDGET / budget
        self._measure = measure
        self._stages = {stage.name: stage for stage in spec.stages}
        self._options = {stage.name: stage.options for stage in spec.stages}
        self._planned: dict[tuple[str, StageChoice], tuple[float, int]] = {}  # units and ticks
        self._by_count: dict[tuple[str, StageOption], list[int]] = {}  # of 1, 2, … samples

    def units(self, stage: str, choice: StageChoice) -> float:
        """Return the planned units of a stage's choice."""
        return self._cost(stage, choice)[0]

    def of_units(self, units: float) -> int:
        """Return a number of units in ticks."""
        return round(units * self._per_unit)

    def fits(self, allocation: Mapping[str, StageChoice]) -> bool:
        """Return whether an allocation is within the budget."""
        return sum(self._cost(stage, choice)[1] for stage, choice in allocation.items()) <= self.allowance

    def most_samples(self, stage: str, option: StageOption, ticks_left: int) -> int:
        """Return the largest number of samples of an option that some ticks pay for; 0 when for none."""
        ticks = self._by_count.get((stage, option))
        if ticks is None:
            counts = range(1, self._stages[stage].max_samples + 1)
            ticks = self._by_count[stage, option] = [self._of_samples(stage, option, n) for n in counts]
        return bisect_right(ticks, ticks_left)

    def by_cost(self, stage: str) -> list[StageOption]:
        """Return the options of a stage, the one with the cheapest single sample first."""
        return sorted(self._options[stage], key=lambda option: self._of_samples(stage, option, 1))

    def choices(self, cheapest: Mapping[str, StageChoice]) -> list[list[tuple[StageChoice, int]]]:
        """Return each stage's choices and their ticks, without those over budget whatever the others choose.

        Args:
            cheapest: The cheapest choice of each stage.
        """
        least = {stage: self._cost(stage, choice)[1] for stage, choice in cheapest.items()}
        by_stage = []
        for stage, options in self._options.items():
            left = self.allowance - (sum(least.values()) - least[stage])
            choices = [
                option.with_samples(n)
                for option in options
                for n in range(1, self.most_samples(stage, option, left) + 1)
            ]
            by_stage.append([(choice, self._cost(stage, choice)[1]) for choice in choices])
        return by_stage

    def shared_equally(self, options: Mapping[str, StageOption]) -> Allocation:
        """Return an allocation of these options whose stages share the budget.

        A stage takes as many samples as its share pays for, at least one; shares that it can't use go to the
        others.

        Args:
            options: The option of each stage.
        """
        counts: dict[str, int] = {}
        left, waiting = self.allowance, list(options)
        while waiting:
            share = left // len(waiting)
            most = {s: self.most_samples(s, options[s], share) for s in waiting}
            too_dear = [s for s in waiting if most[s] == 0]
            at_largest = [s for s in waiting if most[s] == self._stages[s].max_samples]
            settled = too_dear or at_largest or waiting
            for stage in settled:
                counts[stage] = max(1, most[stage])
                left -= self._of_samples(stage, options[stage], counts[stage])
            waiting = [s for s in waiting if s not in settled]
        limits = {name: stage.max_samples for name, stage in self._stages.items()}
        return self._grown(options, counts, limits)

    def shrunk(self, options: Mapping[str, StageOption], wanted: Mapping[str, int]) -> Allocation:
        """Return an allocation within the budget that is near to what is wanted; see `SearchSpace.project`.

        Args:
            options: The option of each stage; while single samples are over the budget, cheaper ones are
                taken.
            wanted: Numbers of samples, which shrink by one factor.
        """
        options = self._affordable(options)
        factors = sorted(
            {(k, n) for n in set(wanted.values()) for k in range(1, n + 1)}, key=lambda f: f[0] / f[1]
        )

        def scaled(factor: tuple[int, int]) -> dict[str, int]:
            return {stage: max(1, n * factor[0] // factor[1]) for stage, n in wanted.items()}

        low, high = 0, len(factors) - 1  # the smallest factor leaves one sample everywhere, which fits
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.fits(allocation_of(options, scaled(factors[middle])))
            low, high = (middle, high) if fits else (low, middle - 1)
        return self._grown(options, scaled(factors[low]), wanted)

    def _cost(self, stage: str, choice: StageChoice) -> tuple[float, int]:
        """Planned units and ticks of a stage's choice."""
        cost = self._planned.get((stage, choice))
        if cost is None:
            units = self._measure.planned_stage(self._stages[stage], choice)
            cost = self._planned[stage, choice] = (units, self.of_units(units))
        return cost

    def _of_samples(self, stage: str, option: StageOption, n_samples: int) -> int:
        return self._cost(stage, option.with_samples(n_samples))[1]

    def _affordable(self, options: Mapping[str, StageOption]) -> dict[str, StageOption]:
        affordable = dict(options)
        while not self.fits(allocation_of(affordable)):
            dearer = [stage for stage in affordable if affordable[stage] != self.by_cost(stage)[0]]
            stage = max(dearer, key=lambda stage: self._of_samples(stage, affordable[stage], 1))
            order = self.by_cost(stage)
            affordable[stage] = order[order.index(affordable[stage]) - 1]
        return affordable

    def _grown(
        self, options: Mapping[str, StageOption], counts: dict[str, int], most: Mapping[str, int]
    ) -> Allocation:
        """An allocation of these counts, and of what is left of the budget, to the stages in their order."""
        for stage in options:
            spent = sum(self._of_samples(s, options[s], counts[s]) for s in options if s != stage)
            affordable = self.most_samples(stage, options[stage], self.allowance - spent)
            counts[stage] = max(counts[stage], min(most[stage], affordable))
        return allocation_of(options, counts)


def allocation_of(options: Mapping[str, StageOption], counts: Mapping[str, int] | None = None) -> Allocation:
    """Return the allocation of these options with these numbers of samples; None: one sample each."""
    counts = dict.fromkeys(options, 1) if counts is None else counts
    return Allocation({stage: option.with_samples(counts[stage]) for stage, option in options.items()})
