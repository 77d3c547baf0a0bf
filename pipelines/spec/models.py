"""A model of a pipeline: its server, what its requests hold, what it costs."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_serializer,
)

from pipelines.spec.request_fields import checked_fields
from pipelines.spec.strict import About, Number, Strict, VariantName

Temperature = Annotated[NonNegativeFloat, Number] | None
TopP = Annotated[float, Number, Field(gt=0, le=1)] | None
MaxTokens = Annotated[PositiveInt, Number] | None
RequestFields = Annotated[dict[str, JsonValue], AfterValidator(checked_fields)]


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
