"""Building blocks of a pipeline's description: strict models, numbers, names, user-defined functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipelines.errors import SpecError
from pipelines.spec.functions import UserFunction, reference, resolve


def _number(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("must be a number")
    return value


def _resolved(value: object, info: ValidationInfo) -> object:
    """Import the function that a name stands for; `root` of the validation's context is searched first."""
    if callable(value):
        return value
    try:
        return resolve(value, (info.context or {}).get("root", Path()))
    except SpecError as error:
        facts = {"law": error.message, "remedy": error.remedy}
        raise PydanticCustomError("function", "{law}", facts) from None


Number = BeforeValidator(_number)
"""Marks a numeric field that takes neither true and false nor numbers in quotes."""

VariantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]

About = Annotated[
    str,
    Field(
        max_length=2000,
        description="in plain words, for the LLM agent; changes no result",
        examples=["Answer a customer's question from the manual."],
    ),
]


class Strict(BaseModel):
    """Base of all descriptions: immutable, without unknown keys, with finite numbers only."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    def is_default(self, name: str) -> bool:
        """Return whether a field has the value that it has when it is left out; never for a required one."""
        default: object = type(self).model_fields[name].get_default(call_default_factory=True)
        return bool(getattr(self, name) == default)


NamedFunction = Annotated[
    UserFunction, BeforeValidator(_resolved), PlainSerializer(reference, return_type=str)
]
"""A user-defined function: `module:name` in a file, the function itself in Python."""


class PythonFunction(Strict):
    """A user-defined function: `{python: "module:name"}` in a file, the function itself in Python."""

    python: NamedFunction

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: object) -> object:
        return {"python": data} if callable(data) else data


def is_function(value: object) -> bool:
    """Return whether the value of a field, validated or not, stands for a user-defined function."""
    return (
        callable(value)
        or isinstance(value, PythonFunction)
        or (isinstance(value, Mapping) and "python" in value)
    )
