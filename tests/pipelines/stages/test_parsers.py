"""From text to value, for each kind of parser and for functions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import (
    AnswerParser,
    ChoiceParser,
    CodeParser,
    Example,
    JsonParser,
    LinesParser,
    PythonParser,
    RegexParser,
    TextParser,
)
from pipelines.errors import CustomCodeFailed, DatasetError
from pipelines.reading.readers import NoAnswer
from pipelines.stages.parsers import Parsed, parse

SENTENCES = ["Anna runs Lumen.", "Lumen  sits in Belmar.", "Karin runs Ember."]
EXAMPLE = Example("1", {"candidates": SENTENCES, "labels": ["yes", "no", "New York", "York"]})
LINES = LinesParser(allowed="candidates")
CHOICE = ChoiceParser(allowed="labels")


def value(parser: Any, text: str) -> Any:
    """The parsed value; None when the text does not parse."""
    result = parse(parser, text, EXAMPLE)
    return result.value if isinstance(result, Parsed) else None


@given(st.text())
def test_text_is_stripped(text: str) -> None:
    """Text is stripped, and empty text does not parse."""
    assert value(TextParser(), text) == (text.strip() or None)


def test_lines_quote_allowed_values() -> None:
    """Quoted candidates come in the field's order, once, whatever their spacing; other lines are not seen."""
    text = "Sure:\n  Lumen sits  in Belmar.\nAnna runs Lumen.\nLumen sits in Belmar.\nAnna runs Ember."
    assert value(LINES, text) == SENTENCES[:2]
    assert value(LINES, '1. Anna runs Lumen.\n- "Karin runs Ember."') == [SENTENCES[0], SENTENCES[2]]


@given(st.lists(st.sampled_from(SENTENCES), min_size=1))
def test_lines_do_not_depend_on_order(quoted: list[str]) -> None:
    """The value is the set of the quoted candidates, in the order of the field."""
    assert value(LINES, "\n".join(quoted)) == [s for s in SENTENCES if s in quoted]


def test_lines_without_a_quote_do_not_parse() -> None:
    """Text that quotes no candidate is a failure with its reason."""
    assert parse(LINES, "Anna runs", EXAMPLE) == NoAnswer("no line is one of the 3 allowed values")
    assert isinstance(parse(LINES, " \n", EXAMPLE), NoAnswer)


def test_lines_without_allowed_are_distinct_lines() -> None:
    """Without allowed values every distinct non-empty line counts, in the order of the text."""
    assert value(LinesParser(), "b \n\na\nb\n") == ["b", "a"]


def test_unusable_allowed_field_is_an_error_of_the_data() -> None:
    """A row whose allowed values are no list of texts is an error, not a parse failure."""
    with pytest.raises(DatasetError, match="'candidates' must be a list of texts, got 'x'"):
        parse(LINES, "x", Example("1", {"candidates": "x"}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ("42", 42),
        ('Here:\n```json\n{"a": [1]}\n```\nDone {"b": 2}', {"a": [1]}),
        ('so {"a": "}"} and {"b": 1}', {"a": "}"}),
        ("{not json} [1, 2]", [1, 2]),
        ("no value", None),
        ("null", None),
        ('{"a": NaN}', None),
        ('{"a": "\\ud800"}', None),
        ("[" * 5000, None),
        ('{"a": ', None),
    ],
)
def test_json_is_found_in_text(text: str, expected: Any) -> None:
    """The first JSON value is found bare, in a code fence or in prose; what JSON refuses is no value."""
    assert value(JsonParser(), text) == expected


def test_json_is_checked_against_its_schema() -> None:
    """A value that breaks the schema does not parse, and the reason says where."""
    parser = JsonParser(schema={"type": "object", "properties": {"n": {"type": "integer"}}})
    assert value(parser, '{"n": 3}') == {"n": 3}
    failure = parse(parser, '{"n": "3"}', EXAMPLE)
    assert failure == NoAnswer("breaks the schema: n: '3' is not of type 'integer'")


def test_regex_takes_the_first_group_or_the_match() -> None:
    """The value is the first group where there is one, else the match, stripped; no text is no value."""
    assert value(RegexParser(pattern=r"answer: (.*)$"), "so, answer:  12 ") == "12"
    assert value(RegexParser(pattern=r"\d+"), "12 or 13") == "12"
    assert value(RegexParser(pattern=r"\d+"), "none") is None
    assert value(RegexParser(pattern=r"a(b)?"), "a") is None


def test_a_pattern_that_takes_too_long_is_given_up() -> None:
    """Half a second on a text is the most, in a regex parser and in a schema; the reason says so."""
    text = "a" * 3000 + "!"
    assert parse(RegexParser(pattern=r"(a+)+$"), text, EXAMPLE) == NoAnswer(
        "the pattern took longer than 0.5 s on a text of 3,001 characters"
    )
    parser = JsonParser.model_validate(
        {"schema": {"type": "object", "properties": {"n": {"pattern": "(a+)+$"}}}}
    )
    failure = parse(parser, json.dumps({"n": text}), EXAMPLE)
    assert isinstance(failure, NoAnswer) and "n: the pattern took longer than 0.5 s" in failure.reason
    assert value(parser, '{"n": "caa"}') == {"n": "caa"}


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (r"\\begin{solution}(.*?)\\end{solution}", r"so \begin{solution}7\end{solution}", "7"),
        (r"{id: (\d+)}", "{id: 5}", "5"),
        (r"x{e}", "zzz", None),
        (r"[{]x{2}[}]", "{xx}", "{xx}"),
        (r"\N{BULLET} (\w{1,3})", "• abcd", "abc"),
    ],
)
def test_a_pattern_means_what_it_means_to_re(pattern: str, text: str, expected: str | None) -> None:
    """Also where a brace is a brace."""
    assert value(RegexParser(pattern=pattern), text) == expected


def test_names_of_members_are_matched_as_a_schema_says() -> None:
    """`patternProperties` and `additionalProperties`, under any draft that the schema names."""
    rules = {
        "patternProperties": {"^n": {"type": "integer"}},
        "properties": {"a": {}},
        "additionalProperties": False,
    }
    parser = JsonParser.model_validate({"schema": {"type": "object", **rules}})
    assert value(parser, '{"a": "x", "n1": 2}') == {"a": "x", "n1": 2}
    assert parse(parser, '{"n1": "2"}', EXAMPLE) == NoAnswer(
        "breaks the schema: n1: '2' is not of type 'integer'"
    )
    assert parse(parser, '{"b": 1}', EXAMPLE) == NoAnswer(
        "breaks the schema: Additional properties are not allowed ('b' was unexpected)"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" YES ", "yes"),
        ("The answer is no.", "no"),
        ("I know nothing", None),
        ("yes or no", None),
        ("It is in new  york", "New York"),
        ("No, no!", "no"),
        ("", None),
    ],
)
def test_choice_is_the_one_value_named(text: str, expected: str | None) -> None:
    """A choice is the whole text, or the only allowed value named as a word; the longer name wins."""
    assert value(CHOICE, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"Adding up, \boxed{42}.", "42"),
        ("<think>\\boxed{1}</think>\nFirst this.\nThe answer is 7 km.", "7 km"),
        ("先算一遍。\n答案是：北京。", "北京"),
        ("42", "42"),
        ("It may be 42,\nor it may not.", None),
        (r"So \boxed{4", None),
        (r"So it is \boxed{}", None),
        ("<answer></answer>", None),
        ("The answer is\n", None),
        ("**", None),
    ],
)
def test_answer_is_what_the_text_marks(text: str, expected: str | None) -> None:
    """A text of one line is its own answer; a longer one needs a mark; a cut or empty mark is none."""
    assert value(AnswerParser(), text) == expected


def test_code_is_the_last_complete_block() -> None:
    """Prose and other languages stay out."""
    text = "First:\n```python\nx = 1\n```\nBetter:\n```python\nx = 2\n```\n```sql\nSELECT 1\n```"
    assert value(CodeParser(), text) == "x = 2\n"
    assert value(CodeParser(language="sql"), text) == "SELECT 1\n"
    assert value(CodeParser(language="java"), text) is None


def test_functions_parse() -> None:
    """A function's tuples and sets become lists; ValueError, LookupError and None say that nothing parsed."""
    assert value(PythonParser(python=lambda text, example: (text, 1)), "a") == ["a", 1]
    assert value(PythonParser(python=lambda text, example: {"b", "a"}), "a") == ["a", "b"]
    assert value(PythonParser(python=lambda text, example: None), "a") is None
    assert value(PythonParser(python=lambda text, example: text.split()[7]), "a") is None
    assert value(PythonParser(python=lambda text, example: int(text)), "a") is None
    assert value(PythonParser(python=lambda text, example: example["labels"][0]), "") == "yes"


def test_faulty_function_is_named() -> None:
    """A function with a fault of its own is an error that names it, not a parse failure."""
    with pytest.raises(CustomCodeFailed, match=r"parser .*<lambda> raised AttributeError: "):
        value(PythonParser(python=lambda text, example: text.nope), "a")
    with pytest.raises(CustomCodeFailed, match="must return a JSON-able value"):
        value(PythonParser(python=lambda text, example: object()), "a")


@pytest.mark.parametrize(
    ("parser", "draft", "answer", "expected"),
    [
        (TextParser(), "no", "yes", "yes"),
        (CHOICE, "no", "yes", "yes"),
        (LINES, SENTENCES[0], SENTENCES[2], [SENTENCES[2]]),
        (JsonParser(), '{"city": "Rome"}', '{"city": "Oslo"}', {"city": "Oslo"}),
        (RegexParser(pattern=r"\w+"), "no", "yes", "yes"),
    ],
)
def test_a_draft_in_the_thinking_is_no_answer(parser: Any, draft: str, answer: str, expected: object) -> None:
    """The value is read from the answer alone, and a text that is cut inside its thinking has none."""
    assert value(parser, f"<think>\n{draft}\n</think>\n{answer}") == expected
    assert value(parser, f"{draft}\n</think>\n{answer}") == expected
    assert value(parser, f"<think>\n{draft}\n{answer}") is None


def test_a_regex_that_looks_for_the_thinking_finds_it() -> None:
    """All other parsers get the text without it."""
    assert value(RegexParser(pattern=r"<think>(.*?)</think>"), "<think>hm</think>yes") == "hm"
