"""A stage of a pipeline: its fields, and the options that they give a search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue, PositiveInt, PrivateAttr

from pipelines.allocation import StageOption
from pipelines.spec.models import SamplingSpec
from pipelines.spec.stage_parts import CallCost, Lengths, PromptVariant, TruncateSpec
from pipelines.spec.strict import About, NamedFunction, Number, Strict, VariantName
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
