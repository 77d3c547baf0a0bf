"""Votes and scores compare alike, and nothing equals nothing."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reading.comparing import as_text, equal, same_answer, vote_key
from pipelines.reading.folding import answer_form, answer_words, fold, words

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-3, 3)
    | st.sampled_from(
        ["true", "False", "1", "1.0", "-1", "01", "", " ", "null", "None", "é", "e\u0301", "É", "０"]
    )
    | st.text(max_size=3)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@given(VALUES, VALUES, st.booleans())
def test_equal_values_are_those_with_the_same_key(first: Any, second: Any, case: bool) -> None:
    """So that a score and a vote never disagree; equality is symmetric and, but for nothing, reflexive."""
    one, other = vote_key(first, case=case), vote_key(second, case=case)
    assert equal(first, second, case=case) == (one is not None and one == other)
    assert equal(first, second, case=case) == equal(second, first, case=case)
    assert equal(first, first, case=case) == (one is not None)


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    """And a text equals its composed and its decomposed form."""
    assert fold(fold(text)) == fold(text) and fold(fold(text, case=True), case=True) == fold(text, case=True)
    assert fold(unicodedata.normalize("NFD", text)) == fold(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (True, "true"),
        (False, "False"),
        (5, 5.0),
        (5, "5"),
        ("5.0", 5),
        (2.5, "2.5"),
        (0, -0.0),
        (10**22, 1e22),
        ("Zoë", "zoe\u0308"),
        ("rock ’n’ roll", "Rock 'n' Roll"),
        ("“so”", '"so"'),
        ("1914–1918", "1914-1918"),
        ("５０", 50),
        ("a\u00a0 b\u200b", "a b"),
        ("½", "1/2"),
        ("10³", "10^3"),
        ("٣", "3"),
        ("Straße", "STRASSE"),
        ([True, "A"], ["true", "a"]),
        ({"n": 1, "t": "x"}, {"t": "X", "n": 1.0}),
        ([], []),
    ],
)
def test_the_same_value_in_two_forms(first: Any, second: Any) -> None:
    """Typed scalars, Unicode forms, case and spacing, also inside lists and objects."""
    assert equal(first, second) and vote_key(first) == vote_key(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, True),
        (0, False),
        ("1", True),
        (None, None),
        (None, "null"),
        ("", ""),
        (" ", "\u200b"),
        (float("nan"), float("nan")),
        ("05", 5),
        ("3.10", "3.1"),
        ("10²", "102"),
        ("2½", "21/2"),
        ("-5", "5"),
        ("résumé", "resume"),
        ("+", "-"),
        ([1, 2], [2, 1]),
        ([["a"]], ['["a"]']),
        ({"a": None}, {}),
        ("[]", []),
    ],
)
def test_other_values_stay_other(first: Any, second: Any) -> None:
    """1 is not true, nothing is not nothing, signs and accents count."""
    assert not equal(first, second)


def test_case_can_be_kept() -> None:
    """For labels that differ by it."""
    assert equal("US", "us") and not equal("US", "us", case=True) and not equal(["US"], ["us"], case=True)
    assert equal("É ", "E\u0301", case=True)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (None, "A", False),
        ("the", "A", False),
        ("a", "A", True),
        ("The", "the", True),
        ("-", "+", False),
        ("?", "?", True),
        (None, "The The", False),
        ("", "", False),
        ("The Beatles!", "beatles", True),
        ("the king’s speech", "King's Speech", True),
        ("上海！", "上海", True),
        ("《三体》", "“三体”", True),
        ("-5", "5", False),
        ("−5", "-5", True),
        ("3.14", "314", False),
        (".5", "5", False),
        ("-.5", ".5", False),
        ("1,250", "1250", True),
        ("5-3", "53", False),
        ("12:30", "1230", False),
        ("2010–2012", "2010-2012", True),
        ("10²", "102", False),
        ("U.S.", "US", True),
        ("7.", 7, True),
        (True, "true", True),
        (5.0, "5", True),
        (["New", "York"], "new york", True),
        ("naïve", "naive", False),
        ("हिन्दी।", "हिन्दी", True),
        ("O+", "O-", False),
        ("AB+", "ab +", False),
        ("Cl-", "Cl", False),
        ("SO4⁻", "so4-", True),
        ("C++", "C", False),
        ("C#", "C", False),
        ("#1", "1", True),
        ("+5", "5", True),
        ("18+", "18", False),
        (">5", "<5", False),
        ("> 5", ">5", True),
        ("p < 0.05", "p<0.05", True),
        ("p<0.05", "p>0.05", False),
        ("x=y", "x!=y", False),
        ("x = 5", "x=5", True),
        ("a -> b", "a b", True),
        ("> Paris", "Paris", True),
        ("2+3", "23", False),
        ("2 + 3", "2+3", True),
        ("2*3", "23", False),
        ("**5**", "5", True),
        ("3,14", "314", False),
        ("12,5", "125", False),
        ("(3,4)", "34", False),
        ("(3,4)", "3, 4", True),
        ("1;2", "12", False),
        ("1,250,000", "1250000", True),
        ("10%", "10", True),
        ("John Smith—", "John Smith", True),
        ("10,000人", "10000人", True),
        ("1,500m", "1500 m", False),
        ("1,500m", "1500m", True),
        ("Rs.1,000", "Rs.1000", True),
        ("1,000, 2,000", "1000, 2000", True),
        ("1,00,000", "100000", True),
        ("1,234,56", "123456", False),
        ("p<.05", "p>.05", False),
        ("p < .05", "p<.05", True),
        ("x<-1", "x>-1", False),
        ("x = -5", "x=-5", True),
        ("x == 3", "x = 3", True),
        ("x≥3", "x >= 3", True),
        ("x≤3", "x≥3", False),
        ("(O-).", "O-", True),
        ("**O-**", "O-", True),
        ("HIV-", "HIV", False),
        ("HCO3-", "HCO3", False),
        ("well-known", "wellknown", True),
        ("2x+1", "2x-1", False),
        ("-$5", "$5", False),
        ("* 10\n* 20", "10, 20", True),
        ("5、6", "56", False),
        ("COVID-19", "COVID19", True),
        ("a.b@c.org", "a.b@c.org.", True),
        ("https://x.org/a?b=1", "https://x.org/a?b=2", False),
    ],
)
def test_short_answers(first: Any, second: Any, same: bool) -> None:
    """Articles and punctuation do not count, unless there is nothing else; signs of numbers do."""
    assert same_answer(first, second) is same and same_answer(second, first) is same


@given(
    st.lists(st.sampled_from(["the", "a", "cat", "Cat!", "ran.", "far,", "state-of", "isn't"]), max_size=5)
)
def test_english_answers_are_normalised_as_squad_does(tokens: list[str]) -> None:
    """Where something is left, and no number is there."""
    from pipelines.stages.metrics import normal_answer

    text = " ".join(tokens)
    assert answer_form(text) == (normal_answer(text) or fold(text))


def test_tokens() -> None:
    """Words between spaces; Chinese, Japanese and Korean characters are tokens of their own."""
    assert words("The cat's 猫，Ｂ计划") == ["the", "cat", "s", "猫", "b", "计", "划"]
    assert answer_words("The 北京 cat, 3.5!") == ["北", "京", "cat", "3.5"]
    assert answer_words("") == [] and words("—") == []


def test_values_as_text() -> None:
    """As a CSV or a label has them, not as Python prints them."""
    assert [as_text(v) for v in (True, False, None, 5.0, 0.5, 7, "x", ["a", True], {"b": 1})] == [
        "true",
        "false",
        "",
        "5",
        "0.5",
        "7",
        "x",
        "a true",
        '{"b": 1}',
    ]
