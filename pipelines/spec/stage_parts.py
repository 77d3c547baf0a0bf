"""The parts of a stage's description: its prompts, lengths, costs, and what it shortens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    model_validator,
)
from pydantic.config import JsonDict

from pipelines.spec.strict import Number, Strict


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
