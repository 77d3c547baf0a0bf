"""What reading a prompt and drawing samples costs, in the measure of the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agenttts.space.measure import MeasureName
from agenttts.space.units import query_units
from pipelines.costs import chunk_requests, model_flops, stage_cost_usd
from pipelines.runtime import StageOutcome
from pipelines.spec.models import ModelSpec
from pipelines.spec.pipeline import PipelineSpec


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Prices in the measure of a budget, by token.

    Attributes:
        measure: units or usd.
        prompt: By model, the cost of one token of a prompt.
        generated: By model, the cost of one generated token.
        per_query: What is added to the cost of every query: of units, the prefills of the reference model
            that are taken off, one for each stage of the spec. Further rungs take off none.
        per_flop: The cost of a FLOP, for calls that are counted in FLOPs only; None where they are priced.
        by_request: Models whose prompt is billed to each request that draws from it; empty where it counts
            once, however many samples are drawn.
    """

    measure: MeasureName
    prompt: Mapping[str, float]
    generated: Mapping[str, float]
    per_query: float
    per_flop: float | None
    by_request: Mapping[str, ModelSpec] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: PipelineSpec, measure: MeasureName) -> Rates:
        """Return a pipeline's prices in a measure."""
        return cls.units(spec) if measure == "units" else cls.usd(spec)

    @classmethod
    def units(cls, spec: PipelineSpec) -> Rates:
        """Measure in budget units, the FLOPs of one sample of the spec's reference model."""
        reference = spec.budget.reference
        per_flop = 1 / (2.0 * reference.active_params * reference.generated_tokens)
        rates = {name: (model_flops(model, 1, 0) or 0.0) * per_flop for name, model in spec.models.items()}
        return cls(
            measure="units",
            prompt=rates,
            generated=rates,
            per_query=query_units(spec, 0.0),
            per_flop=per_flop,
        )

    @classmethod
    def usd(cls, spec: PipelineSpec) -> Rates:
        """Measure in US dollars; models without a price cost nothing."""
        priced = spec.models.items()
        return cls(
            measure="usd",
            prompt={name: stage_cost_usd(model, 1, 0) or 0.0 for name, model in priced},
            generated={name: stage_cost_usd(model, 0, 1) or 0.0 for name, model in priced},
            per_query=0.0,
            per_flop=None,
            by_request=spec.models,
        )

    def further_prompts(self, model: str, prompt_tokens: int, chunks: Sequence[int]) -> float:
        """Return what reading a prompt again costs, once for each request after the first.

        Args:
            model: The model.
            prompt_tokens: The tokens of the prompt.
            chunks: How many samples there are after each draw.
        """
        if model not in self.by_request:
            return 0.0
        again = chunk_requests(self.by_request[model], chunks) - 1
        return again * self.prompt[model] * prompt_tokens

    def cost(self, outcome: StageOutcome) -> float:
        """Return the cost of a stage's outcome, what its aggregator calls included."""
        return (outcome.cost_usd or 0.0) if self.per_flop is None else (outcome.flops or 0.0) * self.per_flop
