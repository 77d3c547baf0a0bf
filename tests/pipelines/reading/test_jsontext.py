"""JSON is taken whole or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reading.readers import NoAnswer, json_value

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
CONTAINERS = VALUES.filter(lambda value: isinstance(value, list | dict))
OBJECT = {"type": "object", "required": ["steps"]}


@given(CONTAINERS, st.data())
def test_a_prefix_of_a_value_is_no_value(value: Any, data: st.DataObject) -> None:
    """However a value is cut, no part of it is passed off, in a fence and after prose neither."""
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        cut = text[: data.draw(st.integers(1, len(text) - 1))]
        for around in ("{}", "Sure: {}", "```json\n{}", "```json\n{}\n```", "```\n{}\n```\nDone."):
            assert isinstance(json_value(around.replace("{}", cut)), NoAnswer)


@given(CONTAINERS)
def test_a_whole_value_is_found_wherever_it_stands(value: Any) -> None:
    """Alone, in a fence of any kind, and between prose."""
    text = json.dumps(value, ensure_ascii=False)
    for around in (
        "{}",
        "Sure: {} Done.",
        "```json\n{}\n```",
        "~~~\n{}\n~~~\nDone.",
        "So:\n```\n{}",
        "\ufeff{}\n",
    ):
        assert json_value(around.replace("{}", text)) == value


@given(
    st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
    )
)
def test_python_literals_are_read_whole_or_not(value: Any) -> None:
    """What Python prints for a value reads as that value, or as none where its escapes are Python's alone."""
    read = json_value(repr(value)) if isinstance(value, list | dict) else value
    assert isinstance(read, NoAnswer) or read == value or "\\" in repr(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2,], "b": "x",}', {"a": [1, 2], "b": "x"}),
        ("{'a': 'x', 'b': [1]}", {"a": "x", "b": [1]}),
        ("{'a': 'it's so'}", {"a": "it's so"}),
        ('{"a": True, "b": False, "c": None}', {"a": True, "b": False, "c": None}),
        ('{"a": 1, // why\n "b": 2 /* because */} # end', {"a": 1, "b": 2}),
        ("{a: 1, some-key: 'x'}", {"a": 1, "some-key": "x"}),
        ('{"a": "two\nlines\tand a tab"}', {"a": "two\nlines\tand a tab"}),
        ('{"a": "\\alpha and it\\\'s", }', {"a": "\\alpha and it's"}),
        ("{“a”: “x”}", {"a": "x"}),
        ('{"a"：1，"b"：2}', {"a": 1, "b": 2}),
        ('{"a": """def f():\n    return "x" """}', {"a": 'def f():\n    return "x" '}),
        ('{"a": .5, "b": 5., "c": +1}', {"a": 0.5, "b": 5.0, "c": 1}),
    ],
)
def test_small_faults_are_mended(text: str, value: Any) -> None:
    """Where all of the value stands there; also in a fence and in prose."""
    assert json_value(text) == value
    assert json_value(f"```json\n{text}\n```") == value
    assert json_value(f"Here: {text.removesuffix('# end')} as asked") == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a": ["x", "y"], "b": "cu',
        '[{"id": 1}, {"id": 2}, {"id"',
        '{"a": {"b": [1]}, "c"}',
        '{"a": [1, 2}, "b": [3]}',
        '{"a": "x" "b": [2]}',
        '{"why": "he said "yes", so", "list": ["a"]}',
        '{"size": "5" wide", "list": ["a"], "more": {"x": 1}}',
        '["a" "b", [1]]',
        '{"a": tru, "b": [1]}',
        '{"a": [1], ...}',
        '[{"a": 1}, ...]',
        "[1,,2]",
        "[,]",
        '{"a": 007, "b": [1]}',
        '{"a": NaN, "b": [1]}',
        "[Infinity, [1]]",
        '{"a": -Infinity}',
        '{"a": 1e999, "b": {}}',
        f"[{'9' * 5000}, [1]]",
        '{"a": "\\ud800", "b": [1]}',
        '{{"id": 1}, {"id": 2}}',
        '[a, b,\n{"x": 1},',
        '"x"], "more": {"y": 1}}',
        '{"name": "f"}, {"name": "g", "argu',
        '{"a": 1} ]',
        '{"tools": [\n```json\n{"a": 1}\n```',
        "```json\n{\n```",
        "null",
        "NaN",
        "",
        "The answer is 42.",
        "He wrote 'a' and \"b\".",
    ],
)
def test_a_part_is_never_passed_off(text: str) -> None:
    """Values that are cut, broken, not finite or not there."""
    assert isinstance(json_value(text), NoAnswer)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1} and {"a": 2}', {"a": 1}),
        ('{"a": 1}\n{"a": 2}\n', {"a": 1}),
        ('It holds on [0, 1) and (2, 3]. {"a": 1}', {"a": 1}),
        ('{see below} [not this] {"a": 1}', {"a": 1}),
        ('By [1] and [2]:\n```json\n{"a": 1}\n```', {"a": 1}),
        ('```python\nx = [1, 2]\n```\nThis gives {"a": 1}', {"a": 1}),
        ('```python\n{"a": 1}\n```', {"a": 1}),
        ('```\nfirst: [1]\n```\n```json\n{"a": 1}\n```', {"a": 1}),
        ('```json\n{"a": ,}\n```\nAgain:\n```json\n{"a": 1}\n```', {"a": 1}),
        ('```json {"a": 1}```', {"a": 1}),
        ('```json\n{"code": "```py\\nx\\n```", "a": 1}\n```', {"code": "```py\nx\n```", "a": 1}),
        ('```json\n{"code": "```py\nx\n```", "a": 1}\n```', {"code": "```py\nx\n```", "a": 1}),
        ('<json>{"a": 1}</json>', {"a": 1}),
        ("a: [], b: {}", []),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ('{"n": 340282366920938463463374607431768211456}', {"n": 2**128}),
        ('"tools": ["a"], "why": "x"}', {"tools": ["a"], "why": "x"}),
        ('{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        ("42", 42),
        (' "so" ', "so"),
        ("```\ntrue\n```", True),
        ("True", True),
    ],
)
def test_the_likeliest_value_is_taken(text: str, value: Any) -> None:
    """All of the text, fences tagged json, other fences, prose; an opening bracket may be in the prompt."""
    read = json_value(text)
    assert read == value and type(read) is type(value)


def test_with_a_schema_the_first_value_that_satisfies_it_counts() -> None:
    """Others are passed over; where none satisfies it the reason is that of the first."""
    assert json_value('Not {"a": 1} but {"steps": []}', OBJECT) == {"steps": []}
    assert json_value('```json\n[1]\n```\n{"steps": [1]}', OBJECT) == {"steps": [1]}
    assert json_value('{"stages": {"steps": []}}', OBJECT) == NoAnswer(
        "breaks the schema: 'steps' is a required property"
    )
    assert json_value("nothing", OBJECT) == NoAnswer("no JSON value")
    assert json_value("null", {"type": "null"}) == NoAnswer("null is no value")


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        '{"a":',
        "[x] ",
        "[0, 1) ",
        '{"a":1},',
        "```json\n{\n```\n",
        '{"a" b} ',
        '```json\n{"a": 1}\n',
        "```python\n{\n",
    ],
)
def test_texts_that_repeat_themselves_are_read_quickly(piece: str) -> None:
    """A model that loops up to its token limit does not stop the reader (the test has a time limit)."""
    json_value(piece * 5000)
