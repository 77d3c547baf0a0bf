"""What a search is after: the best score within the budget, or the least cost or latency at a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from agenttts.errors import UserError
from agenttts.space.units import planned_seconds, planned_stage_seconds, planned_units
from pipelines.allocation import StageChoice
from pipelines.spec.pipeline import PipelineSpec

Objective = Literal["quality", "cost", "latency"]


@dataclass(frozen=True)
class Goal:
    """objective: quality, or least planned units (cost) or seconds (latency) at a score of min_quality.

    UserError for an objective that there is not, or a least quality that does not go with it.
    """

    objective: Objective = "quality"
    min_quality: float | None = None

    def __post_init__(self) -> None:
        known = get_args(Objective)
        if self.objective not in known:
            raise UserError(f"an objective is {', '.join(known)}; got {self.objective!r}")
        if (self.objective == "quality") != (self.min_quality is None):
            raise UserError(
                "a least quality goes with the objectives cost and latency: give both, or neither"
            )
        if self.min_quality is not None and not 0 < self.min_quality <= 1:
            raise UserError(f"a least quality is a score above 0 and at most 1, got {self.min_quality:g}")

    def require_speeds(self, spec: PipelineSpec) -> None:
        """SpaceError where latency is sought and a candidate model has no speed."""
        if self.objective == "latency":
            for stage in spec.stages:
                for option in stage.options:
                    planned_stage_seconds(spec, stage, option.with_samples(1))

    def burden(self, spec: PipelineSpec, allocation: Mapping[str, StageChoice]) -> float:
        """What is to be small: planned seconds for latency, else planned units."""
        return (planned_seconds if self.objective == "latency" else planned_units)(spec, allocation)


BEST = Goal()
