"""The objective of a search: the best score within the budget, or the least cost or latency at a score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from agenttts.errors import UserError
from agenttts.space.measure import Measure
from agenttts.space.units import planned_seconds, planned_stage_seconds
from pipelines.allocation import StageChoice
from pipelines.spec.pipeline import PipelineSpec

Objective = Literal["quality", "cost", "latency"]
RAISED = 2.0
"""Standard errors by which a trial is to exceed a required score, by `benchmarks/promises.py`."""


@dataclass(frozen=True)
class Goal:
    """An objective, with the score to reach where it has one.

    Attributes:
        objective: `quality`: the best score. `cost`, `latency`: the least planned cost, in the budget's
            measure, or planned seconds at a score of `min_quality`.
        min_quality: The score to reach, above 0 and at most 1; None for `quality`.

    Raises:
        UserError: There is no such objective, or the least quality does not go with it.
    """

    objective: Objective = "quality"
    min_quality: float | None = None

    def __post_init__(self) -> None:
        known = get_args(Objective)
        if self.objective not in known:
            raise UserError(f"an objective is {', '.join(known)}; got {self.objective!r}")
        if (self.objective == "quality") != (self.min_quality is None):
            raise UserError(
                "a least quality (--min-quality) goes with the objectives cost and latency: "
                "give both, or neither"
            )
        if self.min_quality is not None and not 0 < self.min_quality <= 1:
            raise UserError(f"a least quality is a score above 0 and at most 1, got {self.min_quality:g}")

    def raised(self, n_examples: int) -> Goal:
        """Return the goal with the score at which a trial's lower bound should reach the required one.

        Args:
            n_examples: The number of examples that trials are scored on.
        """
        if self.min_quality is None:
            return self
        std = math.sqrt(self.min_quality * (1 - self.min_quality) / max(1, n_examples))
        return replace(self, min_quality=min(1.0, self.min_quality + RAISED * std))

    def require_speeds(self, spec: PipelineSpec) -> None:
        """Check that every candidate model has a speed where latency is sought.

        Args:
            spec: The pipeline.

        Raises:
            SpaceError: Latency is sought, and a candidate model has no speed.
        """
        if self.objective == "latency":
            for stage in spec.stages:
                for option in stage.options:
                    planned_stage_seconds(spec, stage, option.with_samples(1))

    def burden(self, measure: Measure, allocation: Mapping[str, StageChoice]) -> float:
        """Return the quantity that is to be small: planned seconds for latency, else the planned cost.

        Args:
            measure: The measure of the budget.
            allocation: The allocation.
        """
        if self.objective == "latency":
            return planned_seconds(measure.spec, allocation)
        return measure.planned(allocation)


BEST = Goal()
