"""Turn the text of a sample into a value. Text that does not parse gives a NoAnswer, not an exception.

A user-defined function is called as `function(text, example)`. If it raises ValueError or LookupError, or
returns None, the text does not parse; any other exception is an error of the function.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.errors import CustomCodeFailed, DatasetError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON, plain
from pipelines.patterns import PatternTooSlow, first_match
from pipelines.reading.readers import (
    UNMARKED,
    NoAnswer,
    choice,
    clean,
    code,
    final_answer,
    json_value,
    marks_nothing,
    quoted_lines,
    strip_thinking,
)
from pipelines.spec.functions import UserFunction, reference
from pipelines.spec.variants import (
    AnswerParser,
    ChoiceParser,
    CodeParser,
    JsonParser,
    LinesParser,
    ParserSpec,
    PythonParser,
    RegexParser,
    TextParser,
)

EMPTY = NoAnswer("empty text")
_READS_THINKING = re.compile(r"think|reason", re.IGNORECASE)  # a pattern that looks for the thinking itself


@dataclass(frozen=True, slots=True)
class Parsed:
    """The value of a text that parsed; JSON-able and never None."""

    value: JSON


def parse(parser: ParserSpec, text: str, example: Example) -> Parsed | NoAnswer:
    r"""Parse the text of a sample.

    The value depends on the kind of the parser:

    - text: the whole text, stripped.
    - lines: the distinct non-empty lines in order; with `allowed`, the allowed values that a line quotes, in
      the order of the example's field.
    - json: the first JSON value, checked against the schema.
    - regex: the first group of the first match, or the match when the pattern has no group, stripped.
    - choice: the one allowed value that the text names.
    - answer: the final answer that the text marks (`\boxed{}`, `<answer>`, "The answer is", "答案是");
      without a mark, a text of one line as it stands, and no value for a longer one.
    - code: the last complete block in the language, or a text that is code as a whole.

    Thinking is taken off first, unless a regex looks for it. A text that is cut inside its thinking has no
    value.

    Args:
        parser: The parser of the stage.
        text: What the model wrote.
        example: The example that the prompt was made from.

    Returns:
        The value, or the reason why there is none.

    Raises:
        CustomCodeFailed: A user-defined parser raised another exception, or returned a value that is not
            JSON-able.
        DatasetError: The `allowed` field is missing or is not a list of texts.
    """
    if isinstance(parser, PythonParser):
        return _own(parser.python, text, example)
    if not text.strip():
        return EMPTY
    answer = (
        text
        if isinstance(parser, RegexParser) and _READS_THINKING.search(parser.pattern)
        else strip_thinking(text)
    )
    if isinstance(answer, NoAnswer):
        return answer
    match parser:
        case TextParser():
            return Parsed(answer.strip())
        case LinesParser():
            return _lines(answer, allowed_values(parser, example))
        case JsonParser(schema_=schema):
            return _result(json_value(answer, schema))
        case RegexParser(pattern=pattern):
            return _regex(answer, pattern)
        case ChoiceParser():
            return _result(choice(answer, allowed_values(parser, example) or []))
        case AnswerParser():
            return _result(_marked_or_short(answer.strip()))
        case CodeParser(language=language):
            return _result(code(answer, language))


def normal_space(text: str) -> str:
    """Replace each run of white space by one space, and strip the ends."""
    return " ".join(text.split())


def allowed_values(parser: ParserSpec, example: Example) -> list[str] | None:
    """Return the values that a parser allows for an example.

    Returns:
        The values in the order of the example's field; None when the parser allows any value.

    Raises:
        DatasetError: The field is missing or is not a list of texts.
    """
    if parser.allowed_field is None:
        return None
    values = example.get(parser.allowed_field)
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise DatasetError(f"field {parser.allowed_field!r} must be a list of texts, got {values!r:.60}")
    return values


def _lines(text: str, allowed: Sequence[str] | None) -> Parsed | NoAnswer:
    if allowed is None:
        lines = [normal_space(line) for line in text.splitlines()]
        return Parsed(list(dict.fromkeys(line for line in lines if line)))
    return _result(quoted_lines(text, allowed))


def _marked_or_short(text: str) -> str | NoAnswer:
    marked = final_answer(text)
    if marked != UNMARKED or "\n" in text or marks_nothing(text):
        return marked
    return clean(text) or marked


def _regex(text: str, pattern: str) -> Parsed | NoAnswer:
    try:
        match = first_match(pattern, text)
    except PatternTooSlow as error:
        return NoAnswer(str(error))
    if match is None:
        return NoAnswer("the pattern does not match")
    value = match.group(1) if match.re.groups else match.group()
    return Parsed(value.strip()) if value and value.strip() else NoAnswer("the pattern matches no text")


def _result(value: JSON | NoAnswer) -> Parsed | NoAnswer:
    return value if isinstance(value, NoAnswer) else Parsed(value)


def _own(function: UserFunction, text: str, example: Example) -> Parsed | NoAnswer:
    try:
        value = function(text, example)
    except (ValueError, LookupError) as error:
        return NoAnswer(f"{type(error).__name__}: {error}")
    except Exception as error:
        raise CustomCodeFailed(
            f"parser {reference(function)} raised {type(error).__name__}: {error}"
        ) from error
    if value is None:
        return NoAnswer("the parser returned None")
    try:
        return Parsed(plain(value))
    except ValueError as error:
        raise CustomCodeFailed(
            f"parser {reference(function)} must return a JSON-able value: {error}"
        ) from None
