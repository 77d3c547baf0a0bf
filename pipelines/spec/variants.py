"""The kinds of parsers, aggregators and metrics that a stage can have, and the properties of each.

A file chooses one by `kind`, or names a function: `{python: "module:name"}`. `pipelines.stages` implements
them, in `parsers`, `aggregators` and `metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
)
from pydantic.json_schema import JsonSchemaValue

from pipelines.jsonvalues import schema_problem
from pipelines.patterns import compiled
from pipelines.spec.strict import Number, PythonFunction, Strict, is_function


def _kind_is_required(schema: JsonSchemaValue) -> None:
    schema["required"] = ["kind", *schema.get("required", ())]


class _Variant(Strict):
    """One of several kinds. A file may leave `kind` out only where the class says so."""

    model_config = ConfigDict(json_schema_extra=_kind_is_required)

    kind: str

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Written even where defaults are left out: without it another kind would be read back."""
        return {"kind": self.kind, **handler(self)}


class _ParserTraits:
    @property
    def list_valued(self) -> bool:
        """Whether parsed values can be lists. False for a function, whose values are unknown."""
        return False

    @property
    def allowed_field(self) -> str | None:
        """The example field that lists the allowed values; None when every value is allowed."""
        return None


class TextParser(_Variant, _ParserTraits):
    """Take the whole text, stripped, as the value."""

    model_config = ConfigDict(json_schema_extra={})

    kind: Literal["text"] = "text"


class LinesParser(_Variant, _ParserTraits):
    """Take the distinct non-empty lines as a list; with `allowed`, the allowed values that a line quotes."""

    kind: Literal["lines"] = "lines"
    allowed: str | None = Field(
        default=None, description="example field that holds the allowed values", examples=["passages"]
    )

    @property
    def list_valued(self) -> bool:
        return True

    @property
    def allowed_field(self) -> str | None:
        return self.allowed


class JsonParser(_Variant, _ParserTraits):
    """Take the first JSON value of the text, checked against the schema if there is one."""

    kind: Literal["json"] = "json"
    schema_: JsonSchemaValue | None = Field(
        default=None,
        alias="schema",
        description="JSON schema of the value",
        examples=[{"type": "array", "items": {"type": "string"}}],
    )
    schema_file: str | None = Field(
        default=None, description="the same, from a file beside the spec", examples=["schemas/tools.json"]
    )
    constrain: bool = Field(
        default=False,
        description="have the server generate nothing but values of the schema",
        examples=[True],
    )

    @field_validator("schema_")
    @classmethod
    def _is_schema(cls, schema: JsonSchemaValue | None) -> JsonSchemaValue | None:
        if schema is not None and (problem := schema_problem(schema)):
            raise ValueError(f"must be a JSON schema: {problem}")
        return schema

    @field_validator("schema_file")
    @classmethod
    def _alone(cls, schema_file: str | None, info: ValidationInfo) -> str | None:
        if schema_file is not None and info.data.get("schema_") is not None:
            raise ValueError("schema and schema_file exclude each other")
        return schema_file

    @field_validator("constrain")
    @classmethod
    def _has_schema(cls, constrain: bool, info: ValidationInfo) -> bool:
        if constrain and all(info.data.get(name, "") is None for name in ("schema_", "schema_file")):
            raise ValueError("needs schema or schema_file")
        return constrain

    @property
    def list_valued(self) -> bool:
        """True unless the schema names another type."""
        return "array" in (self.schema_ or {}).get("type", "array")


class RegexParser(_Variant, _ParserTraits):
    """Take the first match of a pattern: its first group, or the whole match when it has no group."""

    kind: Literal["regex"] = "regex"
    pattern: str = Field(
        description="the first group (or the match) is the value", examples=[r"Answer: (.*)"]
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        compiled(pattern)
        return pattern


class ChoiceParser(_Variant, _ParserTraits):
    """Take the one allowed value that the text names. A text that names several does not parse."""

    kind: Literal["choice"] = "choice"
    allowed: str = Field(description="example field that holds the allowed values", examples=["options"])

    @property
    def allowed_field(self) -> str | None:
        return self.allowed


class AnswerParser(_Variant, _ParserTraits):
    """Take the final answer that the text marks, as in `\\boxed{}` "The answer is", or a text of a line."""

    kind: Literal["answer"] = "answer"


class CodeParser(_Variant, _ParserTraits):
    """Take the code of the text, from the last complete block in the language."""

    kind: Literal["code"] = "code"
    language: str = Field(
        default="python", min_length=1, description="language of the code", examples=["python"]
    )


class PythonParser(PythonFunction, _ParserTraits):
    """A function (text, example) -> value. A ValueError, a LookupError or None: the text does not parse."""


@dataclass(frozen=True, slots=True)
class PlannedCalls:
    """The planned calls to the model of an aggregator, for one query.

    Attributes:
        model: Key of the model in `models`.
        n_calls: Number of requests, one sample each.
        prompt_tokens: Expected length of each prompt, in tokens.
        generated_tokens: Expected length of each answer, in tokens; 0 for a classifier.
    """

    model: str
    n_calls: int
    prompt_tokens: float
    generated_tokens: float


class _AggregatorTraits:
    @property
    def own_model(self) -> str | None:
        """Key in `models` of the model that the aggregation calls; None when it calls none."""
        return None

    @property
    def is_free(self) -> bool:
        """Whether the first k samples, for any k, are aggregated without a call to a model or a function."""
        return False

    def rounds(self, n_samples: int) -> int:
        """Return the number of prompts for n samples: rounds that must follow each other."""
        return 1

    def planned_calls(
        self, n_samples: int, prompt_tokens: float, generated_tokens: float
    ) -> PlannedCalls | None:
        """Return the calls to `own_model` that aggregating n samples takes.

        Args:
            n_samples: Number of samples of the stage for one query.
            prompt_tokens: Expected length of the stage's prompt, in tokens.
            generated_tokens: Expected length of one sample of the stage, in tokens.

        Returns:
            The planned calls; None when the aggregator has no model.
        """
        return None


class _FreeAggregator(_Variant, _AggregatorTraits):
    @property
    def is_free(self) -> bool:
        return True


class Plurality(_FreeAggregator):
    """Choose the value with the most votes."""

    model_config = ConfigDict(json_schema_extra={})

    kind: Literal["plurality"] = "plurality"


class SetVote(_FreeAggregator):
    """Vote item by item over lists: choose the items that enough of the samples name."""

    kind: Literal["set_vote"] = "set_vote"
    threshold: Annotated[float, Number] = Field(
        default=0.5, gt=0, le=1, description="share of the samples that must name an item", examples=[0.25]
    )
    union: bool = Field(default=False, description="keep every item that any sample names", examples=[True])


_Threshold = Annotated[float, Number, Field(gt=0, le=1)]


class Weighted(_FreeAggregator):
    """Vote with the share of the samples and the share of their probability, half and half.

    The probability of a value is the sum of exp(log-probability) over its distinct texts. Where the server
    returns no log-probabilities, or texts practically never repeat, the samples count alike.
    """

    kind: Literal["weighted"] = "weighted"
    threshold: _Threshold | None = Field(
        default=None,
        description="vote item by item over lists: the share of the weight that an item needs; null: vote on "
        "whole values",
        examples=[0.2],
    )


class LengthWeighted(_FreeAggregator):
    """Vote with samples that weigh exp(-tokens / t0): the shorter, the more."""

    kind: Literal["length_weighted"] = "length_weighted"
    t0: Annotated[PositiveFloat, Number] = Field(
        description="tokens over which the weight of a sample falls to 1/e", examples=[2000]
    )
    threshold: _Threshold | None = Field(
        default=None,
        description="vote item by item over lists: the share of the weight that an item needs; null: vote on "
        "whole values",
        examples=[0.2],
    )


def _named_or_function(value: object) -> str:
    return "<function>" if is_function(value) else "<named>"


class BestOfN(_Variant, _AggregatorTraits):
    """Choose the sample with the highest score."""

    kind: Literal["best_of_n"] = "best_of_n"
    scorer: Annotated[
        Annotated[Literal["mean_logprob"], Tag("<named>")] | Annotated[PythonFunction, Tag("<function>")],
        Discriminator(_named_or_function),
    ] = Field(
        default="mean_logprob",
        description="what picks the best sample",
        examples=[{"python": "scores:quality"}],
    )

    @property
    def is_free(self) -> bool:
        return self.scorer == "mean_logprob"


class _ModelAggregator(_Variant, _AggregatorTraits):
    model: str = Field(
        description="the model that aggregates, by key in `models`; a verifier is a classifier, whose last "
        "class means right",
        examples=["judge"],
    )
    prompt_tokens: Annotated[PositiveInt, Number] | None = Field(
        default=None,
        description="expected prompt length beside the samples; the stage's if absent",
        examples=[300],
    )

    @property
    def own_model(self) -> str:
        return self.model


class Verifier(_ModelAggregator):
    """Choose the sample that a classifier thinks most likely to be right."""

    kind: Literal["verifier"] = "verifier"

    def planned_calls(self, n_samples: int, prompt_tokens: float, generated_tokens: float) -> PlannedCalls:
        """Return one call for each sample, in which the classifier reads the prompt and the sample."""
        read = (self.prompt_tokens or prompt_tokens) + generated_tokens
        return PlannedCalls(self.model, n_samples, read, 0)


class Fusion(_ModelAggregator):
    """Have a model write one output from all samples."""

    kind: Literal["fusion"] = "fusion"
    prompt: str | None = Field(
        default=None,
        description="template with `samples` and the stage's variables",
        examples=["{{ question }}\n{% for sample in samples %}{{ sample }}\n{% endfor %}Best answer:"],
    )

    def planned_calls(self, n_samples: int, prompt_tokens: float, generated_tokens: float) -> PlannedCalls:
        """Return one call, in which the model reads its prompt and all samples and generates one more."""
        read = (self.prompt_tokens or prompt_tokens) + n_samples * generated_tokens
        return PlannedCalls(self.model, 1, read, generated_tokens)


class Refine(_Variant, _AggregatorTraits):
    """Take the last of several drafts, each written from the one before and the feedback on it."""

    kind: Literal["refine"] = "refine"
    start: str = Field(description="the input stage whose output is the first `draft`", examples=["code"])
    feedback: PythonFunction | None = Field(
        default=None,
        description="(draft, example) -> what to mend, or None when nothing is wrong",
        examples=[{"python": "checks:run"}],
    )

    def rounds(self, n_samples: int) -> int:
        """Return n, since each sample reads the one before it."""
        return n_samples


class PythonAggregator(PythonFunction, _AggregatorTraits):
    """A function (candidates, example) -> output."""


class FunctionResult(_Variant, _AggregatorTraits):
    """Take what the function of a stage returns. No file names it: a stage that runs a function has it."""

    kind: Literal["function_result"] = "function_result"


FUNCTION_RESULT = FunctionResult()


class BuiltinMetric(Strict):
    """Score an output against the gold value of an example, in [0, 1]."""

    kind: Literal[
        "exact_match",
        "token_f1",
        "number",
        "squad_exact_match",
        "squad_f1",
        "rouge_l",
        "set_precision",
        "set_recall",
        "set_f1",
        "accuracy",
    ] = Field(
        description="how output and gold value are compared; set_… take lists, the others texts or numbers",
        examples=["token_f1"],
    )
    label: str = Field(description="example field that holds the gold value", examples=["answer"])

    @property
    def of_sets(self) -> bool:
        """Whether the gold value is a list of items."""
        return self.kind.startswith("set_")


class PythonMetric(PythonFunction):
    """A function (output, example) -> a score in [0, 1]."""


def _by_kind(default: str) -> Discriminator:
    """Tells the members of a union apart. Tags stand in <>, so that no key of a file looks like one."""

    def tag(value: object) -> str | None:
        if is_function(value):
            return "<function>"
        if isinstance(value, Mapping):
            return f"<{value.get('kind', default)}>"
        return f"<{value.kind}>" if isinstance(value, _Variant) else None

    return Discriminator(tag)


ParserSpec = Annotated[
    Annotated[TextParser, Tag("<text>")]
    | Annotated[LinesParser, Tag("<lines>")]
    | Annotated[JsonParser, Tag("<json>")]
    | Annotated[RegexParser, Tag("<regex>")]
    | Annotated[ChoiceParser, Tag("<choice>")]
    | Annotated[AnswerParser, Tag("<answer>")]
    | Annotated[CodeParser, Tag("<code>")]
    | Annotated[PythonParser, Tag("<function>")],
    _by_kind("text"),
]
"""How a sample's text becomes a value; text that does not parse has no vote."""

AggregatorSpec = Annotated[
    Annotated[Plurality, Tag("<plurality>")]
    | Annotated[SetVote, Tag("<set_vote>")]
    | Annotated[Weighted, Tag("<weighted>")]
    | Annotated[LengthWeighted, Tag("<length_weighted>")]
    | Annotated[BestOfN, Tag("<best_of_n>")]
    | Annotated[Verifier, Tag("<verifier>")]
    | Annotated[Fusion, Tag("<fusion>")]
    | Annotated[Refine, Tag("<refine>")]
    | Annotated[PythonAggregator, Tag("<function>")],
    _by_kind("plurality"),
]
"""How n samples become one output."""

MetricSpec = Annotated[
    Annotated[BuiltinMetric, Tag("<named>")] | Annotated[PythonMetric, Tag("<function>")],
    Discriminator(_named_or_function),
]
"""How an output is scored, in [0, 1]."""
