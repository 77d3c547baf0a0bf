"""Lines quote allowed passages whatever markup stands around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reading.readers import NoAnswer, quoted_lines

PASSAGES = [
    "Mira founded Tarn.",
    "Tarn  lies in Oslo.",
    "2010 was wet.",
    "北京是首都。",
    "It’s “fine” – she said",
    "3. is a heading",
]


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("- Mira founded Tarn.", [0]),
        ("1) **Tarn lies in Oslo.**", [1]),
        ("**1.** Mira founded Tarn.", [0]),
        ("(2) «Tarn lies in Oslo.»,", [1]),
        ('> "Mira founded Tarn."', [0]),
        ("• _Mira founded Tarn_", [0]),
        ("* `Mira founded Tarn.`", [0]),
        ("- [x] Mira founded Tarn.", [0]),
        ("| Mira founded Tarn. |", [0]),
        ("Mira founded **Tarn**.", [0]),
        ("Mira founded Tarn. [1]", [0]),
        ("Passage 3: Mira founded Tarn.", [0]),
        ("MIRA FOUNDED TARN", [0]),
        ("Mira\u00a0founded Tarn\u200b.", [0]),
        ("2010 was wet.", [2]),
        ("4. 2010 was wet", [2]),
        ("一、「北京是首都。」", [3]),
        ("（1）北京是首都", [3]),
        ('It\'s "fine" - she said', [4]),
        ("3. is a heading", [5]),
        ('"Tarn lies in Oslo.",\n"Mira founded Tarn."', [0, 1]),
        ("Sure, here they are:\n\n1. Tarn lies in Oslo.\n1. Tarn lies in Oslo.", [1]),
    ],
)
def test_quoted_passages_are_found(text: str, quoted: list[int]) -> None:
    """Bullets, numbers, quotes of any script, emphasis, punctuation, Unicode; in the field's order."""
    assert quoted_lines(text, PASSAGES) == [PASSAGES[i] for i in quoted]


@pytest.mark.parametrize("text", ["", "...", "Mira", "Mira founded Tarn in Oslo.", "- ", "founded Tarn."])
def test_other_lines_quote_nothing(text: str) -> None:
    """A part of a passage is none, nor is a line that says more."""
    assert quoted_lines(text, PASSAGES) == NoAnswer("no line is one of the 6 allowed values")


def test_passages_that_differ_by_a_mark_stay_apart() -> None:
    """The exact one is taken; where only the mark tells them apart and is left out, none is."""
    assert quoted_lines("- Really?", ["Really?", "Really."]) == ["Really?"]
    assert isinstance(quoted_lines("Really", ["Really?", "Really."]), NoAnswer)
    assert quoted_lines("us", ["US", "us"]) == ["us"]


def test_a_passage_may_have_several_lines() -> None:
    """It is quoted by the same lines."""
    assert quoted_lines("So:\n\nfirst\n  second\n", ["first\nsecond", "third"]) == ["first\nsecond"]


@given(
    st.lists(st.sampled_from(PASSAGES), min_size=1, unique=True),
    st.sampled_from(["- {}", "1. {}", '"{}"', "{}"]),
)
def test_order_and_dress_do_not_matter(chosen: list[str], dress: str) -> None:
    """The value is the set of the passages, in the order of the field."""
    text = "\n".join(dress.replace("{}", passage) for passage in reversed(chosen))
    assert quoted_lines(text, PASSAGES) == [passage for passage in PASSAGES if passage in chosen]
