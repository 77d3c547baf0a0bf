"""Every way this package fails, under one root.

A message is one line: the place, the law, the offending value, what to do about it. `SpecError`,
`DatasetError`, `ConfigurationError` and `ReplayMiss` need a person and stop a run. `DrawFailed`,
`AggregationFailed` and `CustomCodeFailed` belong to one example and become a missing value. `SpendRefused`
ends a search at its limit. Text of a model that does not parse is no error: see `parsers.ParseFailure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class PipelineError(Exception):
    """Root of this package's errors."""


class SpecError(PipelineError):
    """The pipeline's description breaks a law. `problems` holds every one found, itself included."""

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.message = message
        self.file = None if file is None else str(file)
        self.line = line
        self.field = field
        self.remedy = remedy
        self.problems: tuple[SpecError, ...] = (self,)
        super().__init__(self._one_line())

    def _one_line(self) -> str:
        place = self.file or ""
        if place and self.line is not None:
            place = f"{place}:{self.line}"
        text = ": ".join(part for part in (place, self.field, self.message) if part)
        text = f"{text}; {self.remedy}" if self.remedy else text
        return " ".join(text.split())

    @classmethod
    def all_of(cls, problems: Sequence[SpecError]) -> SpecError:
        """One error for several problems, printed one per line; the first gives file, line and field."""
        first = problems[0]
        error = cls(first.message, file=first.file, line=first.line, field=first.field, remedy=first.remedy)
        if len(problems) > 1:
            error.problems = tuple(problems)
            error.args = ("\n".join(str(problem) for problem in problems),)
        return error


class DatasetError(PipelineError):
    """A dataset can't be read, is empty, or a row of it lacks what the pipeline needs."""


class MissingDependency(PipelineError):
    """An optional library is not installed; the message says which command installs it."""


class ServerError(PipelineError):
    """A model server's answer, or the lack of one, is at fault."""


class DrawFailed(ServerError):
    """A request brought no samples, for good.

    Attributes:
        transient: Whether another try at another time may succeed. False: the server refuses this prompt, or
            its answer is no text.
        prompt_tokens: Paid for nevertheless.
        generated_tokens: Paid for nevertheless.
        calls: Requests that were answered and brought no sample.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    calls: int = 0

    def __init__(self, reason: str, transient: bool) -> None:
        self.reason = reason
        self.transient = transient
        super().__init__(reason)


class ReplayMiss(ServerError):
    """A replay needs a sample that the bank does not hold. `available`: how many from the first on it has."""

    available: int = 0


class ConfigurationError(PipelineError):
    """A server refuses what the spec asks for (unknown model, context overflow, wrong key): stops the run."""


class SpendRefused(PipelineError):
    """A limit on what the search may spend leaves no room for this request."""


class AggregationFailed(PipelineError):
    """The samples of a stage can't be made one output, for want of something other than parsable text."""


class CustomCodeFailed(PipelineError):
    """A parser, aggregator, scorer or metric passed as a function raised, or returned what it must not."""
