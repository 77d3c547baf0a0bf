"""The measure of a budget: units of the reference model's samples, or US dollars.

Everything that plans, compares or shows the cost of an allocation asks one `Measure`, so that a search weighs
and reports in the measure that its budget is given in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Self

from agenttts.errors import SpaceError, UserError
from agenttts.space.units import planned_stage_units, planned_stage_usd, query_units
from pipelines.allocation import StageChoice
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec

MeasureName = Literal["units", "usd"]


@dataclass(frozen=True)
class Measure:
    """What the budget of a pipeline is measured in.

    Attributes:
        spec: The pipeline.
        name: "units" or "usd".

    Raises:
        SpaceError: A model that the stages use lacks what the measure needs: its active parameters or its
            price.
    """

    spec: PipelineSpec
    name: MeasureName

    def __post_init__(self) -> None:
        for model in self.spec.used_models:
            known = self.spec.models[model]
            if self.name == "usd" and known.price is None:
                place = self.spec.place_of(f"models.{model}.price")
                raise SpaceError(
                    f"{place}: a budget in US dollars needs the price of every model that the "
                    "stages use; add price, or give the budget in units"
                )
            if self.name == "units" and known.active_params is None:
                place = self.spec.place_of(f"models.{model}.active_params")
                raise SpaceError(
                    f"{place}: a budget in units needs the active parameters of every "
                    "model that the stages use; add active_params, or give the budget in US dollars"
                )

    @classmethod
    def of(cls, spec: PipelineSpec) -> Self:
        """Return the measure that a pipeline's own budget is given in.

        Args:
            spec: The pipeline.
        """
        return cls(spec, "units" if spec.budget.usd is None else "usd")

    @property
    def label(self) -> str:
        """What follows an amount: "units" or "USD"."""
        return label_of(self.name)

    def planned_stage(self, stage: StageSpec, choice: StageChoice) -> float:
        """Compute the planned amount of one stage for one query, fusion and verifier included.

        Args:
            stage: The stage, with its expected lengths.
            choice: The stage's choice.

        Returns:
            The amount; in units negative for a stage far below the reference.
        """
        planned = planned_stage_units if self.name == "units" else planned_stage_usd
        return planned(self.spec, stage, choice)

    def planned(self, allocation: Mapping[str, StageChoice]) -> float:
        """Compute the planned amount of an allocation per query, the sum over its stages.

        Args:
            allocation: The allocation.

        Raises:
            SpaceError: The allocation does not name every stage.
        """
        if set(allocation) != {stage.name for stage in self.spec.stages}:
            raise SpaceError(f"an allocation names every stage once, got {sorted(allocation)}")
        return sum(self.planned_stage(stage, allocation[stage.name]) for stage in self.spec.stages)

    def realised(self, flops: float | None, cost_usd: float | None) -> float | None:
        """Convert what a query took to an amount of this measure.

        Args:
            flops: The FLOPs of all stages together; None where they are not known.
            cost_usd: The US dollars of the same; None where they are not known.

        Returns:
            The amount; None where what the measure needs is not known.
        """
        if self.name == "usd":
            return cost_usd
        return None if flops is None else query_units(self.spec, flops)


def chosen_budget(
    spec: PipelineSpec, budget: float | None, budget_usd: float | None
) -> tuple[Measure, float]:
    """Return the measure of a search and its budget per query.

    Args:
        spec: The pipeline.
        budget: The budget in the measure of the spec's own; None: the spec's.
        budget_usd: The budget in US dollars, whatever the spec's own is in; None: not in dollars.

    Raises:
        UserError: Both budgets are given.
        SpaceError: A budget is not finite, or a model lacks what the measure needs.
    """
    if budget is not None and budget_usd is not None:
        raise UserError(
            f"a budget is given once, got {budget:g} and {budget_usd:g} USD; leave one of them out"
        )
    for amount in (budget, budget_usd):
        if amount is not None and not math.isfinite(amount):
            raise SpaceError(f"a budget must be a finite number, got {amount}; give one, as the file's is")
    if budget_usd is not None:
        return Measure(spec, "usd"), float(budget_usd)
    return Measure.of(spec), spec.budget.amount if budget is None else float(budget)


def label_of(name: MeasureName) -> str:
    """Return what follows an amount: "units" or "USD".

    Args:
        name: The measure.
    """
    return "units" if name == "units" else "USD"


def number_text(amount: float, name: MeasureName, digits: int = 4) -> str:
    """Format an amount without its label, dollars always without an exponent.

    Args:
        amount: The amount.
        name: The measure.
        digits: Significant digits.
    """
    text = f"{amount:.{digits}g}"
    return text if name == "units" else f"{Decimal(text):f}"


def amount_text(amount: float, name: MeasureName, digits: int = 4) -> str:
    """Format an amount with its label: `35.82 units`, `0.00125 USD`.

    Args:
        amount: The amount.
        name: The measure.
        digits: Significant digits.
    """
    text = number_text(amount, name, digits)
    return "1 unit" if (text, name) == ("1", "units") else f"{text} {label_of(name)}"
