"""The parts of a pipeline's description: models, stages, dataset and budget.

Each part checks its own fields. Rules between fields are in `rules`; `pipeline.PipelineSpec` is the whole.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    model_serializer,
)

from pipelines.allocation import StageOption
from pipelines.spec.request_fields import checked_fields
from pipelines.spec.strict import Number, PythonFunction, Strict
from pipelines.spec.variants import AggregatorSpec, MetricSpec, ParserSpec, Plurality, TextParser, Verifier

Temperature = Annotated[NonNegativeFloat, Number] | None
TopP = Annotated[float, Number, Field(gt=0, le=1)] | None
MaxTokens = Annotated[PositiveInt, Number] | None
RequestFields = Annotated[dict[str, JsonValue], AfterValidator(checked_fields)]


class Price(Strict):
    """US dollars per million tokens."""

    prompt_usd_per_million: Annotated[NonNegativeFloat, Number]
    generated_usd_per_million: Annotated[NonNegativeFloat, Number]


class Speed(Strict):
    """How fast a server processes one query, in tokens per second, measured under the expected load."""

    prompt_tokens_per_second: Annotated[PositiveFloat, Number]
    generated_tokens_per_second: Annotated[PositiveFloat, Number] = Field(
        description="of one sample; the samples of a stage are drawn side by side"
    )


class SamplingSpec(Strict):
    """How samples are drawn. Part of a sample's identity."""

    temperature: Temperature = Field(default=1.0, description="null: not sent, the server's own holds")
    top_p: TopP = Field(default=1.0, description="null: not sent, the server's own holds")
    max_tokens: MaxTokens = Field(
        default=256, description="most tokens generated per sample; null: not sent, the server's own limit"
    )
    stop: tuple[str, ...] = ()


class ModelSampling(Strict):
    """What a model's requests have in place of the stage's sampling; a field left out stays the stage's."""

    temperature: Temperature = Field(default=None, description="null: not sent")
    top_p: TopP = Field(default=None, description="null: not sent")
    max_tokens: MaxTokens = Field(default=None, description="null: not sent")
    stop: tuple[str, ...] = ()

    @model_serializer
    def _written(self) -> dict[str, object]:
        """Only the fields that were given: null and absent differ."""
        return {
            name: list(self.stop) if name == "stop" else getattr(self, name)
            for name in type(self).model_fields
            if name in self.model_fields_set
        }


class ModelSpec(Strict):
    """A model behind an OpenAI-compatible server. Its name is its key in `models`."""

    served_name: str | None = Field(
        default=None, description="name in requests; the key in `models` if absent"
    )
    base_url: str = Field(description="OpenAI-compatible base URL, usually ending in /v1")
    active_params: Annotated[PositiveFloat, Number, Field(le=1e15)] | None = Field(
        default=None,
        description="active parameters, a count such as 7e9; needed where the budget is in units",
    )
    context_length: Annotated[PositiveInt, Number] | None = Field(
        default=None, description="tokens of prompt and generation together"
    )
    revision: str | None = Field(
        default=None, description="weights revision or adapter digest; part of a sample's identity"
    )
    parent: str | None = Field(default=None, description="for an adapter: the base model's key in `models`")
    price: Price | None = Field(default=None, description="needed where the budget is in US dollars")
    speed: Speed | None = Field(default=None, description="for searches whose objective is latency")
    api_key_env: str | None = Field(default=None, description="environment variable that holds the API key")
    max_n: Annotated[PositiveInt, Number] | None = Field(
        default=None, description="most samples the server draws in one request; more are split"
    )
    path: str | None = Field(
        default=None, description="weights for `agenttts serve`: a directory beside the spec or a hub name"
    )
    serve_args: tuple[str, ...] = Field(default=(), description="further arguments of the vLLM server")
    request: RequestFields = Field(
        default_factory=dict,
        description="further fields of the requests, such as extra_body, chat_template_kwargs, "
        "reasoning_effort, top_k or seed; part of a sample's identity",
    )
    sampling: ModelSampling | None = Field(
        default=None, description="in place of the stage's, field by field; part of a sample's identity"
    )

    def sampled(self, stage: SamplingSpec) -> SamplingSpec:
        """How this model is sampled in a stage with that sampling."""
        if self.sampling is None:
            return stage
        own = {name: getattr(self.sampling, name) for name in self.sampling.model_fields_set}
        return stage.model_copy(update=own)


class TruncateSpec(Strict):
    """How a long value is shortened before the template sees it. Parsers and metrics see the whole value."""

    field: str = Field(description="example field, or stage among the inputs, that the template uses")
    items: Annotated[PositiveInt, Number] | None = Field(default=None, description="most items of a list")
    item_chars: Annotated[PositiveInt, Number] | None = Field(
        default=None, description="most characters of each text in a list"
    )
    chars: Annotated[PositiveInt, Number] | None = Field(
        default=None, description="most characters of the text, or of a list's items together"
    )
    drop: Literal["end", "start", "middle"] = "end"


class StageSpec(Strict):
    """One step of a pipeline. A PipelineSpec fills in `inputs` and reads a prompt file into `prompt`."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    inputs: tuple[str, ...] | None = Field(
        default=None, description="stages whose outputs the prompt uses; default: the stage before"
    )
    prompt: str | None = Field(default=None, description="jinja2 template of the user message")
    prompt_file: str | None = Field(default=None, description="the same, from a file beside the spec")
    messages: tuple[dict[str, str], ...] | None = Field(
        default=None, min_length=1, description="chat messages: role, and content, a template"
    )
    completion: bool = Field(
        default=False, description="send the prompt as a plain completion instead of a chat"
    )
    truncate: tuple[TruncateSpec, ...] = ()
    parser: ParserSpec = TextParser()
    aggregator: AggregatorSpec = Plurality()
    models: tuple[str, ...] = Field(min_length=1, description="candidate models, by key in `models`")
    verifiers: tuple[str, ...] = Field(
        default=(),
        description="classifiers that may pick the best sample instead of the aggregator: each model with "
        "each is one more choice of the search, written model@verifier",
    )
    max_samples: Annotated[PositiveInt, Number] = Field(le=10_000, description="largest number of samples")
    sampling: SamplingSpec = SamplingSpec()
    prompt_tokens: Annotated[PositiveInt, Number] = Field(description="expected prompt length, tokens")
    generated_tokens: Annotated[PositiveInt, Number] = Field(
        description="expected generation length of one sample, tokens"
    )
    metric: MetricSpec | None = None
    _template_file: str | None = PrivateAttr(default=None)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the stages whose outputs the prompt may use."""
        return self.inputs or ()

    @property
    def options(self) -> tuple[StageOption, ...]:
        """The options of this stage: each model, then each model with each verifier."""
        return tuple(
            StageOption(model, verifier) for verifier in (None, *self.verifiers) for model in self.models
        )

    def option(self, text: str) -> StageOption:
        """Return the option whose text is `small` or `small@judge`.

        Raises:
            KeyError: The stage has no such option.
        """
        return {str(option): option for option in self.options}[text]

    def aggregator_for(self, option: StageOption) -> AggregatorSpec:
        """Return the aggregator of an option: its verifier if it has one, else the stage's aggregator."""
        return self.aggregator if option.verifier is None else Verifier(model=option.verifier)

    @property
    def template_file(self) -> str | None:
        """The file that `prompt` was read from; None when the prompt is written in the spec itself."""
        return self._template_file


class DatasetSpec(Strict):
    """The source of the examples: a file or hub split for each split, or a pool from which both are drawn."""

    search: str | Annotated[PositiveInt, Number] = Field(
        description="JSON, JSONL, CSV or Parquet file beside the spec, or a hub split such as train[:200]; "
        "with pool: how many rows"
    )
    test: str | Annotated[PositiveInt, Number]
    hub: str | None = Field(default=None, description="dataset name for datasets.load_dataset")
    config: str | None = None
    pool: str | None = Field(
        default=None, description="file or hub split that search and test are drawn from, by seed"
    )
    seed: Annotated[int, Field(ge=0)] = 0
    shared: dict[str, str] = Field(
        default_factory=dict, description="fields of every row, each read from a JSON file beside the spec"
    )
    prepare: PythonFunction | None = Field(
        default=None, description="(row) -> example row; a ValueError leaves the row out and is reported"
    )
    id_field: str | None = Field(default=None, description="field with a unique id; the row number if absent")


class ReferenceSpec(Strict):
    """The unit of the budget: one sample of this model at these lengths (AgentTTS, arXiv 2508.00890)."""

    active_params: Annotated[PositiveFloat, Number] = 3e9
    prompt_tokens: Annotated[PositiveInt, Number] = 128
    generated_tokens: Annotated[PositiveInt, Number] = 64


class BudgetSpec(Strict):
    """The budget of a search, in units or in US dollars, unless `--budget` gives another."""

    units: Annotated[PositiveFloat, Number] | None = Field(
        default=None, description="planned compute per query, in units of the reference"
    )
    usd: Annotated[PositiveFloat, Number] | None = Field(
        default=None, description="instead of units: planned US dollars per query, by the models' prices"
    )
    reference: ReferenceSpec = ReferenceSpec()

    @property
    def amount(self) -> float:
        """The budget per query, in the measure that it is given in."""
        return float(self.units if self.usd is None else self.usd)  # type: ignore[arg-type]  # one is set
