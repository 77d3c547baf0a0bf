# The public names and the modules that define them. Type checkers read this file, and so does
# `datastore.lazy`, which imports a name when it is first used.
from pipelines.spec.fields import BudgetSpec, DatasetSpec, ReferenceSpec
from pipelines.spec.files import (
    dump_spec,
    load_spec,
    restore_spec,
    spec_digest,
    spec_schema,
)
from pipelines.spec.models import ModelSpec, Price, SamplingSpec, Speed
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.stage_parts import TruncateSpec
from pipelines.spec.strict import PythonFunction, Strict
from pipelines.spec.variants import (
    AggregatorSpec,
    AnswerParser,
    BestOfN,
    BuiltinMetric,
    ChoiceParser,
    CodeParser,
    Fusion,
    JsonParser,
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
)

__all__ = [
    "AggregatorSpec",
    "AnswerParser",
    "BestOfN",
    "BudgetSpec",
    "BuiltinMetric",
    "ChoiceParser",
    "CodeParser",
    "DatasetSpec",
    "Fusion",
    "JsonParser",
    "LinesParser",
    "MetricSpec",
    "ModelSpec",
    "ParserSpec",
    "PipelineSpec",
    "Plurality",
    "Price",
    "PythonAggregator",
    "PythonFunction",
    "PythonMetric",
    "PythonParser",
    "ReferenceSpec",
    "Refine",
    "RegexParser",
    "SamplingSpec",
    "SetVote",
    "Speed",
    "StageSpec",
    "Strict",
    "TextParser",
    "TruncateSpec",
    "Verifier",
    "dump_spec",
    "load_spec",
    "restore_spec",
    "spec_digest",
    "spec_schema",
]
