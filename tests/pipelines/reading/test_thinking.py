"""Thinking is taken off what models write, in every spelling, and nothing else is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reading.readers import NoAnswer, json_value, strip_thinking

PAIRS = [
    ("<think>", "</think>"),
    ("<think duration='3'>", "</think>"),
    ("<Thinking>", "</Thinking>"),
    ("< think >", "</ think >"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<unused94>thought", "<unused95>"),
    ("<思考>", "</思考>"),
]
PLAIN = st.text(st.characters(exclude_characters="<[◁＜", exclude_categories=["Cs"]))


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_every_spelling_is_taken_off(opening: str, closing: str) -> None:
    """Closed thinking goes, the closing tag alone ends thinking too, open thinking leaves no answer."""
    assert strip_thinking(f"{opening}Lima? No.{closing}\n\nQuito") == "Quito"
    assert strip_thinking(f"Lima? No.\n{closing}\nQuito") == "Quito"
    assert strip_thinking(f"{opening}\n{closing}Quito") == "Quito"
    assert strip_thinking(f"{opening}Lima? Or") == NoAnswer("the text ends inside its thinking")
    assert strip_thinking(f"Well.\n{opening}Lima? Or") == NoAnswer("the text ends inside its thinking")
    assert strip_thinking(f"{opening}Lima.{closing}\n") == NoAnswer("nothing follows the thinking")


@given(PLAIN, PLAIN.filter(str.strip))
def test_the_answer_does_not_depend_on_what_was_thought(thinking: str, answer: str) -> None:
    """Whatever is thought, quotes, brackets and fences among it, the answer is what follows."""
    for text in (f"<think>{thinking}</think>\n{answer}", f"<think>\n{thinking}\n</think>\n\n{answer}"):
        read = strip_thinking(text)
        assert isinstance(read, str) and read.strip() == answer.strip()


@given(PLAIN)
def test_a_text_without_tags_stays_itself(text: str) -> None:
    """Nothing is copied or changed."""
    if not text.startswith(("analysis", "Here")):
        assert strip_thinking(text) is text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>one</think>\n<think>two</think>\nQuito", "Quito"),
        ("Sure.\n<think>hm</think>\nQuito", "Sure.\nQuito"),
        ("Quito\n<think>or Lima? no</think>\n", "Quito"),
        ("<think>a <think> b </think> c </think> Quito", "Quito"),
        ("<think>I could write <think> here</think>Quito", "Quito"),
        ("<think>one</think> more thoughts </think>Quito", "Quito"),
        ('<think>end with "</think>" later</think>Quito', "Quito"),
        ('<think>maybe "Lima"</think>"Quito"', '"Quito"'),
        ("<think>cut draft:\n```python\nx = 1\n</think>\n```python\nx = 2\n```", "```python\nx = 2\n```"),
        ("draft:\n```python\nx = 1\n</think>\n```python\nx = 2\n```", "```python\nx = 2\n```"),
        ("<think>x</think>\n    return 1\n", "    return 1"),
        ("<think>x</think>\n\n\tindented", "\tindented"),
        ("<think>x</think><answer>Quito</answer>", "Quito"),
        ("<think>x</think>\n<response>\nQuito\n</response>\n", "Quito"),
        ("<analysis>Lima or Quito</analysis>\nQuito", "Quito"),
        ("<scratchpad>Lima</scratchpad>Quito", "Quito"),
        ("Here is my thought process: Lima?\n\nHere is my response: Quito", "Quito"),
        ("<|END_THINKING|><|START_RESPONSE|>Quito<|END_RESPONSE|>", "Quito"),
    ],
)
def test_blocks_are_taken_out_where_they_stand(text: str, expected: str) -> None:
    """Several blocks, nested ones, blocks in the middle; wrappers around the answer go with them."""
    assert strip_thinking(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"html": "<think>x</think>"}',
        'Here it is: {"html": "a <think>x</think> b", "n": [1]}',
        "{'html': 'a <think>x</think> b',}",
        "```python\nTAGS = ('<think>', '</think>')\nprint(f'{TAGS} <think>')\n```",
        "```\n<think>\nx\n</think>\n```",
        "Write `<think>` first and `</think>` last.",
        'It opens with "<think>" and closes with "</think>".',
        "<analysis>all that was asked for</analysis>",
        "I think so; [thinking] is hard, 1 < 2.",
        "analysis of the text",
        "final answer: Quito",
    ],
)
def test_tags_of_the_answer_proper_stay(text: str) -> None:
    """Tags in JSON texts, in code and in quotes of their own are not thinking."""
    assert strip_thinking(text) == text


def test_harmony_is_read_by_its_channels() -> None:
    """gpt-oss's final channel is the answer, with its special tokens and without; other channels are none."""
    analysis = "<|channel|>analysis<|message|>Lima? No.<|end|>"
    final = "<|start|>assistant<|channel|>final<|message|>Quito"
    assert strip_thinking(analysis + final + "<|return|>") == "Quito"
    assert strip_thinking("analysis<|message|>Lima? No.<|end|>" + final) == "Quito"
    assert strip_thinking('<|channel|>final <|constrain|>json<|message|>{"a": 1}') == '{"a": 1}'
    assert strip_thinking("analysisWe look for a city.assistantfinalQuito") == "Quito"
    for cut in (analysis, "<|channel|>analysis<|message|>Li", "analysisWe look for", analysis + final[:-5]):
        assert isinstance(strip_thinking(cut), NoAnswer)


def test_a_draft_is_not_the_answer() -> None:
    """JSON is read from what follows the thinking; a tag inside its texts is kept."""
    answer = {"city": "Quito", "said": "<think>so</think>"}
    text = strip_thinking(f'perhaps {{"city": "Lima"}}, no</think>```json\n{json.dumps(answer)}\n```')
    assert isinstance(text, str) and json_value(text) == answer


@pytest.mark.parametrize(
    "piece",
    [
        "<think>",
        "</think>a",
        '<think>a</think>{"a": 1} ',
        "`a` <think> ",
        "[[{",
        '```json\n{"a": 1}\n',
        '</think>```json\n{"a": 1}\n',
    ],
)
def test_texts_that_repeat_themselves_are_read_quickly(piece: str) -> None:
    """A model that loops up to its token limit does not stop the reader (the test has a time limit)."""
    strip_thinking(piece * 5000)
    strip_thinking("<think>a</think>" + piece * 5000)
