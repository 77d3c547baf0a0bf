"""The parts of a pipeline's description: models, stages, dataset and budget.

Each part checks its own fields. Rules between fields are in `rules`; `pipeline.PipelineSpec` is the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    model_serializer,
    model_validator,
)
from pydantic.config import JsonDict

from pipelines.allocation import StageOption
from pipelines.spec.request_fields import checked_fields
from pipelines.spec.strict import NamedFunction, Number, PythonFunction, Strict
from pipelines.spec.variants import (
    FUNCTION_RESULT,
    AggregatorSpec,
    FunctionResult,
    MetricSpec,
    ParserSpec,
    Plurality,
    TextParser,
    Verifier,
)

Temperature = Annotated[NonNegativeFloat, Number] | None
TopP = Annotated[float, Number, Field(gt=0, le=1)] | None
MaxTokens = Annotated[PositiveInt, Number] | None
RequestFields = Annotated[dict[str, JsonValue], AfterValidator(checked_fields)]
VariantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
About = Annotated[
    str,
    Field(
        max_length=2000,
        description="in plain words, for the LLM agent; changes no result",
        examples=["Answer a customer's question from the manual."],
    ),
]


class Price(Strict):
    """US dollars per million tokens."""

    prompt_usd_per_million: Annotated[NonNegativeFloat, Number] = Field(
        description="of the prompt", examples=[0.25]
    )
    generated_usd_per_million: Annotated[NonNegativeFloat, Number] = Field(
        description="of what is generated, thinking included", examples=[2.0]
    )


class Speed(Strict):
    """How fast a server processes one query, in tokens per second, measured under the expected load."""

    prompt_tokens_per_second: Annotated[PositiveFloat, Number] = Field(
        description="of the prompt", examples=[8000]
    )
    generated_tokens_per_second: Annotated[PositiveFloat, Number] = Field(
        description="of one sample; the samples of a stage are drawn side by side", examples=[60]
    )


class MemorySpec(Strict):
    """What decides the memory of a model's server, from its card and its config.json.

    Needed only where neither can be read: see `agenttts serve`.
    """

    weights_gb: Annotated[PositiveFloat, Number] = Field(
        description="of all weights, in 1e9 bytes", examples=[8.1]
    )
    layers: Annotated[PositiveInt, Number] = Field(
        description="num_hidden_layers of config.json", examples=[36]
    )
    heads: Annotated[PositiveInt, Number] = Field(
        description="num_attention_heads of config.json", examples=[32]
    )
    kv_heads: Annotated[PositiveInt, Number] = Field(
        description="num_key_value_heads of config.json", examples=[8]
    )
    head_dim: Annotated[PositiveInt, Number] = Field(
        description="head_dim, or hidden_size / num_attention_heads", examples=[128]
    )


class SamplingSpec(Strict):
    """How samples are drawn. Part of a sample's identity."""

    temperature: Temperature = Field(
        default=1.0, description="null: not sent, the server's own holds", examples=[0.8]
    )
    top_p: TopP = Field(default=1.0, description="null: not sent, the server's own holds", examples=[0.95])
    max_tokens: MaxTokens = Field(
        default=256,
        description="most tokens generated per sample; null: not sent, the server's own limit",
        examples=[256],
    )
    stop: tuple[str, ...] = Field(
        default=(), description="texts at which a sample ends; they are no part of it", examples=[["\n\n"]]
    )


class ModelSampling(Strict):
    """What a model's requests have in place of the stage's sampling; a field left out stays the stage's."""

    temperature: Temperature = Field(default=None, description="null: not sent", examples=[0.6])
    top_p: TopP = Field(default=None, description="null: not sent", examples=[0.95])
    max_tokens: MaxTokens = Field(default=None, description="null: not sent", examples=[4096])
    stop: tuple[str, ...] = Field(
        default=(), description="texts at which a sample ends", examples=[["</answer>"]]
    )

    @model_serializer
    def _written(self) -> dict[str, object]:
        """Only the fields that were given: null and absent differ."""
        return {
            name: list(self.stop) if name == "stop" else getattr(self, name)
            for name in type(self).model_fields
            if name in self.model_fields_set
        }


class ModelVariant(Strict):
    """One of several configurations of a model: what its requests have in place of the model's own."""

    sampling: ModelSampling | None = Field(
        default=None,
        description="in place of the model's and the stage's, field by field",
        examples=[{"max_tokens": 2048}],
    )
    request: RequestFields = Field(
        default_factory=dict,
        description="in place of the model's, field by field, such as reasoning_effort",
        examples=[{"reasoning_effort": "high"}],
    )
    speed: Speed | None = Field(
        default=None,
        description="in place of the model's",
        examples=[{"prompt_tokens_per_second": 8000, "generated_tokens_per_second": 60}],
    )
    about: About = ""


class ModelSpec(Strict):
    """A model behind an OpenAI-compatible server. Its name is its key in `models`."""

    served_name: str | None = Field(
        default=None,
        description="name in requests; the key in `models` if absent",
        examples=["Qwen/Qwen3-4B"],
    )
    base_url: str = Field(
        description="OpenAI-compatible base URL, usually ending in /v1", examples=["http://127.0.0.1:8001/v1"]
    )
    active_params: Annotated[PositiveFloat, Number, Field(le=1e15)] | None = Field(
        default=None,
        description="active parameters, a count such as 7e9; needed where the budget is in units",
        examples=[4e9],
    )
    context_length: Annotated[PositiveInt, Number] | None = Field(
        default=None, description="tokens of prompt and generation together", examples=[8192]
    )
    revision: str | None = Field(
        default=None,
        description="weights revision or adapter digest; part of a sample's identity",
        examples=["2025-07"],
    )
    parent: str | None = Field(
        default=None, description="for an adapter: the base model's key in `models`", examples=["small"]
    )
    price: Price | None = Field(
        default=None,
        description="needed where the budget is in US dollars",
        examples=[{"prompt_usd_per_million": 0.25, "generated_usd_per_million": 2.0}],
    )
    speed: Speed | None = Field(
        default=None,
        description="for searches whose objective is latency",
        examples=[{"prompt_tokens_per_second": 8000, "generated_tokens_per_second": 60}],
    )
    api_key_env: str | None = Field(
        default=None, description="environment variable that holds the API key", examples=["OPENAI_API_KEY"]
    )
    max_n: Annotated[PositiveInt, Number] | None = Field(
        default=None, description="most samples the server draws in one request; more are split", examples=[8]
    )
    path: str | None = Field(
        default=None,
        description="weights for `agenttts serve`: a directory beside the spec or a hub name",
        examples=["Qwen/Qwen3-4B"],
    )
    serve_args: tuple[str, ...] = Field(
        default=(), description="further arguments of the vLLM server", examples=[["--max-num-seqs", "64"]]
    )
    memory: MemorySpec | None = Field(
        default=None,
        description="for `agenttts serve`, where the weights' size can't be read",
        examples=[{"weights_gb": 8.1, "layers": 36, "heads": 32, "kv_heads": 8, "head_dim": 128}],
    )
    request: RequestFields = Field(
        default_factory=dict,
        description="further fields of the requests, such as extra_body, chat_template_kwargs, "
        "reasoning_effort, top_k or seed; part of a sample's identity",
        examples=[{"top_k": 20, "chat_template_kwargs": {"enable_thinking": True}}],
    )
    sampling: ModelSampling | None = Field(
        default=None,
        description="in place of the stage's, field by field; part of a sample's identity",
        examples=[{"temperature": None, "max_tokens": 4096}],
    )
    variants: dict[VariantName, ModelVariant] = Field(
        default_factory=dict,
        description="configurations of this model, each a choice of its own, written model/variant; a stage "
        "that names the model may use all of them",
        examples=[
            {
                "brief": {"request": {"reasoning_effort": "low"}},
                "deep": {"request": {"reasoning_effort": "high"}},
            }
        ],
    )
    about: About = ""

    def variant(self, name: str, key: str) -> ModelSpec:
        """Return a variant as a model of its own.

        Args:
            name: Key in `variants`.
            key: Key of this model in the spec's `models`, which requests use where it has no `served_name`.
        """
        own = self.variants[name]
        changes: dict[str, object] = {"variants": {}, "request": {**self.request, **own.request}}
        changes["served_name"] = self.served_name or key
        if own.sampling is not None:
            both = [part for part in (self.sampling, own.sampling) if part is not None]
            changes["sampling"] = ModelSampling(
                **{field: getattr(part, field) for part in both for field in part.model_fields_set}
            )
        if own.speed is not None:
            changes["speed"] = own.speed
        changes["about"] = " ".join(words for words in (self.about, own.about) if words)
        return self.model_copy(update=changes)

    def sampled(self, stage: SamplingSpec) -> SamplingSpec:
        """How this model is sampled in a stage with that sampling."""
        if self.sampling is None:
            return stage
        own = {name: getattr(self.sampling, name) for name in self.sampling.model_fields_set}
        return stage.model_copy(update=own)


class TruncateSpec(Strict):
    """How a long value is shortened before the template sees it. Parsers and metrics see the whole value."""

    field: str = Field(
        description="example field, or stage among the inputs, that the template uses", examples=["passages"]
    )
    items: Annotated[PositiveInt, Number] | None = Field(
        default=None, description="most items of a list", examples=[10]
    )
    item_chars: Annotated[PositiveInt, Number] | None = Field(
        default=None, description="most characters of each text in a list", examples=[1200]
    )
    chars: Annotated[PositiveInt, Number] | None = Field(
        default=None,
        description="most characters of the text, or of a list's items together",
        examples=[6000],
    )
    drop: Literal["end", "start", "middle"] = Field(
        default="end", description="which part of a too long value goes", examples=["middle"]
    )


class Lengths(Strict):
    """Expected lengths of one option of a stage, in tokens; what is left out is the stage's."""

    prompt_tokens: Annotated[PositiveFloat, Number] | None = Field(
        default=None, description="of the prompt", examples=[900]
    )
    generated_tokens: Annotated[PositiveFloat, Number] | None = Field(
        default=None, description="of one sample, thinking included", examples=[800]
    )


class CallCost(Strict):
    """What one call of a stage's function costs."""

    flops: Annotated[NonNegativeFloat, Number] = Field(
        default=0.0, description="counted in the budget's units", examples=[1e9]
    )
    usd: Annotated[NonNegativeFloat, Number] = Field(default=0.0, description="US dollars", examples=[0.0005])
    seconds: Annotated[NonNegativeFloat, Number] = Field(
        default=0.0, description="for latency", examples=[0.2]
    )


def _or_file(schema: JsonDict) -> None:
    """Let the JSON schema of a prompt take the name of a file alone."""
    mapping = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string", "description": "a file beside the spec"}, mapping]


class PromptVariant(Strict):
    """One of several prompts of a stage: a file beside the spec, or the template itself."""

    model_config = ConfigDict(json_schema_extra=_or_file)
    file: str | None = Field(
        default=None, description="a template beside the spec", examples=["prompts/steps.j2"]
    )
    text: str | None = Field(
        default=None, description="the template itself", examples=["{{ question }} Think step by step."]
    )
    _template_file: str | None = PrivateAttr(default=None)

    @property
    def template_file(self) -> str | None:
        """The file that `text` was read from; None when it is written in the spec itself."""
        return self._template_file

    def read(self, root: Path) -> PromptVariant:
        """Return the prompt with its file read into `text`.

        Args:
            root: The directory that the file's path starts from.
        """
        if self.file is None:
            return self
        file = root / self.file
        variant = PromptVariant(text=file.read_text(encoding="utf-8"))
        variant._template_file = str(file)
        return variant

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: object) -> object:
        return {"file": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file is None) == (self.text is None):
            raise ValueError("must have exactly one of file and text")
        return self


class StageSpec(Strict):
    """One step of a pipeline.

    A PipelineSpec fills in `inputs` and reads a prompt file into `prompt`.
    """

    name: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="what messages, allocations and other stages' prompts call it",
        examples=["answer"],
    )
    inputs: tuple[str, ...] | None = Field(
        default=None,
        description="stages whose outputs the prompt uses; default: the stage before",
        examples=[["retrieve"]],
    )
    prompt: str | None = Field(
        default=None,
        description="jinja2 template of the user message",
        examples=["Question: {{ question }}\nShort answer:"],
    )
    prompt_file: str | None = Field(
        default=None, description="the same, from a file beside the spec", examples=["prompts/answer.j2"]
    )
    prompts: dict[VariantName, PromptVariant] = Field(
        default_factory=dict,
        description="further prompts by name, each a file beside the spec: each model with each is one more "
        "choice of the search, written model:prompt",
        examples=[{"steps": "prompts/steps.j2"}],
    )
    messages: tuple[dict[str, str], ...] | None = Field(
        default=None,
        min_length=1,
        description="chat messages: role, and content, a template",
        examples=[
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{{ question }}"}]
        ],
    )
    completion: bool = Field(
        default=False, description="send the prompt as a plain completion instead of a chat", examples=[True]
    )
    truncate: tuple[TruncateSpec, ...] = Field(
        default=(),
        description="values to shorten before the prompt is written",
        examples=[[{"field": "passages", "items": 10}]],
    )
    parser: ParserSpec = Field(
        default=TextParser(),
        description="how a sample's text becomes a value; text that does not parse has no vote",
        examples=[{"kind": "json", "schema": {"type": "object"}}],
    )
    aggregator: AggregatorSpec = Field(
        default=Plurality(),
        description="how n samples become one output",
        examples=[{"kind": "set_vote", "threshold": 0.5}],
    )
    models: tuple[str, ...] = Field(
        default=(), description="candidate models, by key in `models`", examples=[["small", "large"]]
    )
    verifiers: tuple[str, ...] = Field(
        default=(),
        description="classifiers that may pick the best sample instead of the aggregator: each model with "
        "each is one more choice of the search, written model@verifier",
        examples=[["judge"]],
    )
    max_samples: Annotated[PositiveInt, Number] = Field(
        default=1,
        le=10_000,
        description="largest number of samples; required where models answer",
        examples=[16],
    )
    sampling: SamplingSpec = Field(
        default=SamplingSpec(),
        description="how samples are drawn",
        examples=[{"temperature": 0.8, "max_tokens": 64}],
    )
    prompt_tokens: Annotated[PositiveInt, Number] = Field(
        default=1, description="expected prompt length, tokens; required where models answer", examples=[256]
    )
    generated_tokens: Annotated[PositiveInt, Number] = Field(
        default=1,
        description="expected generation length of one sample, tokens; required where models answer",
        examples=[32],
    )
    lengths: dict[str, Lengths] = Field(
        default_factory=dict,
        description="expected lengths of single options, by model, model/variant or model:prompt, where they "
        "differ from the stage's",
        examples=[{"small/deep": {"generated_tokens": 800}}],
    )
    python: NamedFunction | None = Field(
        default=None,
        description="in place of models: a function, async or not, that gets the example fields, inputs and "
        "arguments that its parameters name, and returns the stage's output",
        examples=["tools:find"],
    )
    named_options: dict[VariantName, dict[str, JsonValue]] = Field(
        default_factory=dict,
        alias="options",
        description="arguments of the function by the name of the option, each a choice of the search",
        examples=[{"few": {"top_k": 2}, "many": {"top_k": 8}}],
    )
    files: dict[str, str] = Field(
        default_factory=dict,
        description="files or directories beside the spec that the function reads, by the parameter that "
        "takes the path; changed content makes another call of it",
        examples=[{"corpus": "corpus.jsonl"}],
    )
    cost: CallCost = Field(
        default=CallCost(),
        description="of one call of the function, unless it returns Costed",
        examples=[{"flops": 1e9, "seconds": 0.2}],
    )
    costs: dict[str, CallCost] = Field(
        default_factory=dict,
        description="the same for single options, by name",
        examples=[{"many": {"flops": 4e9}}],
    )
    metric: MetricSpec | None = Field(
        default=None,
        description="score of this stage's own output, for reports and tuning; it steers nothing",
        examples=[{"kind": "set_f1", "label": "evidence"}],
    )
    about: About = ""
    _template_file: str | None = PrivateAttr(default=None)
    _prompted: tuple[StageSpec, dict[str, StageSpec]] | None = PrivateAttr(default=None)
    _root: Path = PrivateAttr(default=Path())

    @property
    def paths(self) -> Mapping[str, Path]:
        """The absolute path of each of `files`, by the parameter that takes it."""
        return {name: (self._root / file).resolve() for name, file in self.files.items()}

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the stages whose outputs the prompt may use."""
        return self.inputs or ()

    @property
    def options(self) -> tuple[StageOption, ...]:
        """The options of this stage: each model with each prompt, then the same with each verifier."""
        if self.python is not None:
            return tuple(StageOption(name) for name in self.arguments)
        return tuple(
            StageOption(model, verifier, prompt)
            for verifier in (None, *self.verifiers)
            for prompt in self.prompt_names
            for model in self.models
        )

    @property
    def arguments(self) -> Mapping[str, Mapping[str, JsonValue]]:
        """The arguments of the stage's function by option; one option without any where none is named."""
        name = getattr(self.python, "__name__", None) or type(self.python).__name__
        return self.named_options or {name: {}}

    @property
    def prompt_names(self) -> tuple[str | None, ...]:
        """The keys of `prompts`, after None for the stage's own prompt where it has one."""
        own = self.prompt is not None or self.prompt_file is not None or self.messages is not None
        return (*([None] if own or not self.prompts else []), *self.prompts)

    def prompted(self, name: str | None) -> StageSpec:
        """Return this stage with one of its prompts as its only one.

        Args:
            name: Key in `prompts`; None for the stage's own prompt.
        """
        if name is None:
            return self
        if self._prompted is None or self._prompted[0] is not self:  # a copy has the cache of the original
            self._prompted = (self, {})
        by_name = self._prompted[1]
        if name not in by_name:
            changes: dict[str, object] = {
                "prompt": self.prompts[name].text,
                "prompt_file": None,
                "messages": None,
                "prompts": {},
            }
            by_name[name] = self.model_copy(update=changes)
            by_name[name]._template_file = self.prompts[name].template_file
        return by_name[name]

    def lengths_of(self, option: StageOption) -> tuple[float, float]:
        """Return the expected lengths of the prompt and of one sample of an option, in tokens.

        Args:
            option: An option of this stage, with or without a verifier.
        """
        own = [self.lengths[key] for key in (option.drawn, option.model) if key in self.lengths]
        prompt = next((part.prompt_tokens for part in own if part.prompt_tokens is not None), None)
        generated = next((part.generated_tokens for part in own if part.generated_tokens is not None), None)
        return (
            self.prompt_tokens if prompt is None else prompt,
            self.generated_tokens if generated is None else generated,
        )

    def cost_of(self, option: StageOption) -> CallCost:
        """Return what one call of the stage's function costs with an option, as the spec states it.

        Args:
            option: An option of this stage.
        """
        return self.costs.get(option.model, self.cost)

    def option(self, text: str) -> StageOption:
        """Return the option whose text is `small` or `small@judge`.

        Raises:
            KeyError: The stage has no such option.
        """
        return {str(option): option for option in self.options}[text]

    def aggregator_for(self, option: StageOption) -> AggregatorSpec | FunctionResult:
        """Return the aggregator of an option: its verifier if it has one, else the stage's aggregator."""
        if self.python is not None:
            return FUNCTION_RESULT
        return self.aggregator if option.verifier is None else Verifier(model=option.verifier)

    @property
    def template_file(self) -> str | None:
        """The file that `prompt` was read from; None when the prompt is written in the spec itself."""
        return self._template_file


class DatasetSpec(Strict):
    """The source of the examples: a file or hub split for each split, or a pool from which both are drawn."""

    search: str | Annotated[PositiveInt, Number] = Field(
        description="JSON, JSONL, CSV or Parquet file beside the spec, or a hub split such as train[:200]; "
        "with pool: how many rows",
        examples=["search.jsonl"],
    )
    test: str | Annotated[PositiveInt, Number] = Field(
        description="the same for the sealed test split", examples=["test.jsonl"]
    )
    hub: str | None = Field(
        default=None, description="dataset name for datasets.load_dataset", examples=["hotpotqa/hotpot_qa"]
    )
    config: str | None = Field(
        default=None, description="configuration of the hub's dataset", examples=["distractor"]
    )
    pool: str | None = Field(
        default=None,
        description="file or hub split that search and test are drawn from, by seed",
        examples=["validation"],
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="of the drawing from the pool", examples=[1]
    )
    shared: dict[str, str] = Field(
        default_factory=dict,
        description="fields of every row, each read from a JSON file beside the spec",
        examples=[{"tools": "tools.json"}],
    )
    prepare: PythonFunction | None = Field(
        default=None,
        description="(row) -> example row; a ValueError leaves the row out and is reported",
        examples=[{"python": "rows:prepare"}],
    )
    id_field: str | None = Field(
        default=None, description="field with a unique id; the row number if absent", examples=["id"]
    )


class ReferenceSpec(Strict):
    """The unit of the budget: one sample of this model at these lengths (AgentTTS, arXiv 2508.00890)."""

    active_params: Annotated[PositiveFloat, Number] = Field(
        default=3e9, description="active parameters of the reference model", examples=[3e9]
    )
    prompt_tokens: Annotated[PositiveInt, Number] = Field(
        default=128, description="length of its prompt", examples=[128]
    )
    generated_tokens: Annotated[PositiveInt, Number] = Field(
        default=64, description="length of its sample", examples=[64]
    )


class BudgetSpec(Strict):
    """The budget of a search, in units or in US dollars, unless `--budget` gives another."""

    units: Annotated[PositiveFloat, Number] | None = Field(
        default=None, description="planned compute per query, in units of the reference", examples=[400]
    )
    usd: Annotated[PositiveFloat, Number] | None = Field(
        default=None,
        description="instead of units: planned US dollars per query, by the models' prices",
        examples=[0.002],
    )
    reference: ReferenceSpec = Field(
        default=ReferenceSpec(),
        description="what one unit is",
        examples=[{"active_params": 3e9, "prompt_tokens": 128, "generated_tokens": 64}],
    )

    @property
    def amount(self) -> float:
        """The budget per query, in the measure that it is given in."""
        return float(self.units if self.usd is None else self.usd)  # type: ignore[arg-type]  # one is set
