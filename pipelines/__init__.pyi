from pipelines import zoo
from pipelines.allocation import Allocation, StageChoice
from pipelines.dataset.splits import examples_from_rows, load_examples
from pipelines.errors import PipelineError, SpecError
from pipelines.examples import Example
from pipelines.policy import Confidence, Policy, Rung, StagePlan, Stop, Vote
from pipelines.runtime.calls import Costed
from pipelines.spec.fields import BudgetSpec, DatasetSpec, ReferenceSpec
from pipelines.spec.files import load_spec, spec_digest, spec_schema
from pipelines.spec.models import ModelSpec, Price, SamplingSpec, Speed
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.policyfile import load_policy
from pipelines.spec.stage import StageSpec
from pipelines.spec.stage_parts import TruncateSpec
from pipelines.spec.variants import (
    AggregatorSpec,
    AnswerParser,
    BestOfN,
    BuiltinMetric,
    ChoiceParser,
    CodeParser,
    Fusion,
    JsonParser,
    LengthWeighted,
    LinesParser,
    MetricSpec,
    ParserSpec,
    Plurality,
    PythonAggregator,
    PythonMetric,
    PythonParser,
    Refine,
    RegexParser,
    SetVote,
    TextParser,
    Verifier,
    Weighted,
)
from pipelines.stages.candidates import Candidate

__all__ = [
    "AggregatorSpec",
    "Allocation",
    "AnswerParser",
    "BestOfN",
    "BudgetSpec",
    "BuiltinMetric",
    "Candidate",
    "ChoiceParser",
    "CodeParser",
    "Confidence",
    "Costed",
    "DatasetSpec",
    "Example",
    "Fusion",
    "JsonParser",
    "LengthWeighted",
    "LinesParser",
    "MetricSpec",
    "ModelSpec",
    "ParserSpec",
    "PipelineError",
    "PipelineSpec",
    "Plurality",
    "Policy",
    "Price",
    "PythonAggregator",
    "PythonMetric",
    "PythonParser",
    "ReferenceSpec",
    "Refine",
    "RegexParser",
    "Rung",
    "SamplingSpec",
    "SetVote",
    "SpecError",
    "Speed",
    "StageChoice",
    "StagePlan",
    "StageSpec",
    "Stop",
    "TextParser",
    "TruncateSpec",
    "Verifier",
    "Vote",
    "Weighted",
    "examples_from_rows",
    "load_examples",
    "load_policy",
    "load_spec",
    "spec_digest",
    "spec_schema",
    "zoo",
]
