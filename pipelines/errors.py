"""The errors of this package, under one root.

A message is one line: the place, the rule, the offending value and the remedy. `SpecError`, `DatasetError`,
`ConfigurationError` and `ReplayMiss` stop a run. `DrawFailed`, `AggregationFailed` and `CustomCodeFailed`
concern one example and become a missing value. `SpendRefused` ends a search at its limit, `ServerDown` stops
a run that can go on later. Text of a model that does not parse is not an error: see
`pipelines.reading.noanswer.NoAnswer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


class PipelineError(Exception):
    """The root of this package's errors."""


class SpecError(PipelineError):
    """The description of a pipeline is invalid.

    Attributes:
        message: The rule that is broken and the value that breaks it.
        file: The file; None when unknown.
        line: The 1-based line in the file; None when unknown.
        field: The field, such as `stages[answer].prompt`; None when the problem concerns no single field.
        remedy: What to do about it; None when the message says enough.
        problems: All problems that were found, this one included.
    """

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
        """Combine several problems into one error, printed one per line.

        Args:
            problems: The problems, at least one. The first gives the error its file, line and field.
        """
        first = problems[0]
        error = cls(first.message, file=first.file, line=first.line, field=first.field, remedy=first.remedy)
        if len(problems) > 1:
            error.problems = tuple(problems)
            error.args = ("\n".join(str(problem) for problem in problems),)
        return error


class DatasetError(PipelineError):
    """A dataset can't be read, is empty, or has a row that lacks a field that the pipeline needs."""


class MissingDependency(PipelineError):
    """An optional library is not installed; the message names the command that installs it."""


class ServerError(PipelineError):
    """A model server gave an invalid answer, or none."""


class DrawFailed(ServerError):
    """A request brought no samples, for good.

    Attributes:
        transient: Whether another try at another time may succeed. False: the server refuses this prompt, or
            its answer is no text.
    """

    def __init__(self, reason: str, transient: bool) -> None:
        self.reason = reason
        self.transient = transient
        super().__init__(reason)


class ServerDown(ServerError):
    """A server was down for longer than is waited; the run stops, and goes on when it is well again."""


class ReplayMiss(ServerError):
    """A replay needs a sample that the bank does not hold.

    Attributes:
        available: Number of consecutive samples, from the first, that the bank has for the prompt.
    """

    available: int = 0


class ConfigurationError(PipelineError):
    """The set-up is wrong (unknown model, context overflow, wrong API key, no sandbox); the run stops."""


class SpendRefused(PipelineError):
    """The request would exceed a limit on what the search may spend."""


class AggregationFailed(PipelineError):
    """Samples of a stage parsed but can't be aggregated, for example because none of them has a score."""


class CustomCodeFailed(PipelineError):
    """A user's function (of a stage, or a parser, aggregator, scorer or metric) raised an error or returned
    an invalid value. The message is one line, whatever the function's own error says.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def listed(names: Iterable[str]) -> str:
    """Quote names and join them with commas, for a message."""
    return ", ".join(repr(name) for name in names)
