"""From a sample's text to a value that can vote. Text that does not parse is a ParseFailure, no exception.

A function of the user's own is called as `function(text, example)`. A ValueError or LookupError of it, or
None returned, says that the text does not parse; anything else that it raises is a fault of the function.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.errors import CustomCodeFailed, DatasetError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON, first_value, plain, value_problem
from pipelines.spec.functions import UserFunction, reference
from pipelines.spec.variants import (
    ChoiceParser,
    JsonParser,
    LinesParser,
    ParserSpec,
    PythonParser,
    RegexParser,
    TextParser,
)

_BULLET = re.compile(r"^(?:[-*•]|\(?\d+[.):])\s+")


@dataclass(frozen=True, slots=True)
class Parsed:
    """The value of a text, JSON-able and never None."""

    value: JSON


@dataclass(frozen=True, slots=True)
class ParseFailure:
    """Why a text has no value."""

    reason: str


def parse(parser: ParserSpec, text: str, example: Example) -> Parsed | ParseFailure:
    """The value of a model's text.

    text: stripped. lines: the distinct non-empty lines in order; with `allowed`, those of the example's
    allowed values that a line quotes, in the order of the field. json: the first JSON value, checked against
    the schema. regex: the first group of the first match, or the match, stripped. choice: the one allowed
    value named.

    Raises CustomCodeFailed when a function misbehaves, DatasetError when the `allowed` field is unusable.
    """
    if isinstance(parser, PythonParser):
        return _own(parser.python, text, example)
    if not text.strip():
        return ParseFailure("empty text")
    match parser:
        case TextParser():
            return Parsed(text.strip())
        case LinesParser():
            return _lines(text, allowed_values(parser, example))
        case JsonParser(schema_=schema):
            return _json(text, schema)
        case RegexParser(pattern=pattern):
            return _regex(text, pattern)
        case ChoiceParser():
            return _choice(text, allowed_values(parser, example) or [])


def normal_space(text: str) -> str:
    """Runs of white space made one space, none at the ends."""
    return " ".join(text.split())


def allowed_values(parser: ParserSpec, example: Example) -> list[str] | None:
    """The values that the parser's `allowed` field lists for this example; None when the parser has none.

    DatasetError when the field is missing or is not a list of texts.
    """
    if parser.allowed_field is None:
        return None
    values = example.get(parser.allowed_field)
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise DatasetError(f"field {parser.allowed_field!r} must be a list of texts, got {values!r:.60}")
    return values


def _lines(text: str, allowed: Sequence[str] | None) -> Parsed | ParseFailure:
    lines = [normal_space(line) for line in text.splitlines()]
    if allowed is None:
        return Parsed(list(dict.fromkeys(line for line in lines if line)))
    quoted = {form for line in lines for form in (line, _BULLET.sub("", line).strip("\"'`“”"))}
    chosen = dict[str, str]()
    for value in allowed:
        if normal_space(value) in quoted:
            chosen.setdefault(normal_space(value), value)
    if not chosen:
        return ParseFailure(f"no line is one of the {len(allowed)} allowed values")
    return Parsed(list(chosen.values()))


def _json(text: str, schema: Mapping[str, JSON] | None) -> Parsed | ParseFailure:
    try:
        value = first_value(text)
    except ValueError as error:
        return ParseFailure(str(error))
    if value is None:
        return ParseFailure("null is no value")
    if schema is not None and (problem := value_problem(value, schema)):
        return ParseFailure(f"breaks the schema: {problem}")
    return Parsed(value)


def _regex(text: str, pattern: str) -> Parsed | ParseFailure:
    match = re.search(pattern, text)
    if match is None:
        return ParseFailure("the pattern does not match")
    value = match.group(1) if match.re.groups else match.group()
    return Parsed(value.strip()) if value and value.strip() else ParseFailure("the pattern matches no text")


def _choice(text: str, values: Sequence[str]) -> Parsed | ParseFailure:
    allowed = {normal_space(value).casefold(): value for value in values}
    answer = normal_space(text).casefold()
    if answer in allowed:
        return Parsed(allowed[answer])
    longest_first = sorted(filter(None, allowed), key=len, reverse=True)
    pattern = "|".join(re.escape(value) for value in longest_first)
    named = set(re.findall(rf"(?<!\w)(?:{pattern})(?!\w)", answer)) if pattern else set[str]()
    if len(named) != 1:
        return ParseFailure(f"names {len(named)} of the {len(allowed)} allowed values")
    return Parsed(allowed[named.pop()])


def _own(function: UserFunction, text: str, example: Example) -> Parsed | ParseFailure:
    try:
        value = function(text, example)
    except (ValueError, LookupError) as error:
        return ParseFailure(f"{type(error).__name__}: {error}")
    except Exception as error:
        raise CustomCodeFailed(
            f"parser {reference(function)} raised {type(error).__name__}: {error}"
        ) from error
    if value is None:
        return ParseFailure("the parser returned None")
    try:
        return Parsed(plain(value))
    except ValueError as error:
        raise CustomCodeFailed(
            f"parser {reference(function)} must return a JSON-able value: {error}"
        ) from None
