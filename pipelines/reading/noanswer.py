"""The result of a reader that finds no value in a text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Says that a text holds no value of the kind that was looked for. It is a result, not an exception.

    Attributes:
        reason: Why there is no value, in words that a report can show.
    """

    reason: str
