"""The result of a reader that finds no value in a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Says that a text holds no value of the kind that was looked for. It is a result, not an exception.

    Attributes:
        reason: Why there is no value, in words that a report can show.
    """

    reason: str


def required(value: ValueT | NoAnswer) -> ValueT:
    """Return what a reader has read, for callers to whom a text without a value is an error.

    Args:
        value: The result of a reader.

    Raises:
        ValueError: The reader found no value; the message is its reason.
    """
    if isinstance(value, NoAnswer):
        raise ValueError(value.reason)
    return value
