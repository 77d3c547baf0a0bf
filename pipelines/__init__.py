"""Compound LLM pipelines: what they are, how one is described, and how one is run."""

from pipelines.aggregators import Candidate
from pipelines.allocation import Allocation, StageChoice
from pipelines.dataset import Example, examples_from_rows, load_examples
from pipelines.errors import PipelineError, SpecError
from pipelines.spec import (
    AggregatorSpec,
    BudgetSpec,
    DatasetSpec,
    MetricSpec,
    ModelSpec,
    ParserSpec,
    PipelineSpec,
    Price,
    ReferenceSpec,
    SamplingSpec,
    Speed,
    StageSpec,
    TruncateSpec,
)
from pipelines.specfile import load_spec, spec_digest, spec_schema

__all__ = [
    "AggregatorSpec",
    "Allocation",
    "BudgetSpec",
    "Candidate",
    "DatasetSpec",
    "Example",
    "MetricSpec",
    "ModelSpec",
    "ParserSpec",
    "PipelineError",
    "PipelineSpec",
    "Price",
    "ReferenceSpec",
    "SamplingSpec",
    "SpecError",
    "Speed",
    "StageChoice",
    "StageSpec",
    "TruncateSpec",
    "examples_from_rows",
    "load_examples",
    "load_spec",
    "spec_digest",
    "spec_schema",
]
