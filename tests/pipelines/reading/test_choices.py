"""A choice is the one allowed value that a text names, in any script."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reading.readers import NoAnswer, choice

ZH = ["积极", "消极", "中性"]
AB = ["A", "B", "C", "D"]
YN = ["yes", "no"]


@pytest.mark.parametrize(
    ("text", "allowed", "value"),
    [
        ("这条评论的情感倾向是消极的", ZH, "消极"),
        ("情感：中性。", ZH, "中性"),
        ("消极（negative）", ZH, "消极"),
        ("非常积极的评价", ["积极", "非常积极"], "非常积极"),
        ("客户不满意这项服务", ["满意", "不满意"], "不满意"),
        ("選択肢はBです", AB, "B"),
        ("我选C选项", AB, "C"),
        ("정답은 D번입니다", AB, "D"),
        ("このレビューはネガティブです", ["ポジティブ", "ネガティブ"], "ネガティブ"),
        ("それはいいえです", ["はい", "いいえ"], "いいえ"),
        ("이 리뷰는 부정적입니다", ["긍정", "부정"], "부정"),
        ("คำตอบคือใช่ครับ", ["ใช่", "ไม่"], "ใช่"),
        ("Ｂ", AB, "B"),
        ("(c)", AB, "C"),
        ("C)", AB, "C"),
        ("C. Quito", AB, "C"),
        ("**C**", AB, "C"),
        (r"So $\boxed{\text{C}}$.", AB, "C"),
        ("Option C looks right", AB, "C"),
        ("I think A is right", AB, "A"),
        ("A dog barks, so it is C", AB, "C"),
        ("A or B? The answer is B", AB, "B"),
        ("I first thought of yes. The answer is no.", YN, "no"),
        (" YES ", YN, "yes"),
        ("No, no!", YN, "no"),
        ("“Yes.”", YN, "yes"),
        ("he takes care", ["car", "care"], "care"),
        ("in new  york", ["York", "New York"], "New York"),
        ("I write C++ daily", ["C", "C++"], "C++"),
        ("cafe\u0301", ["café", "bar"], "café"),
        ("don’t know", ["don't know", "know"], "don't know"),
        ("not positive", ["positive", "negative"], "positive"),
        ("4 stars", ["3", "4"], "4"),
        ("c", ["(a)", "(b)", "(c)"], "(c)"),
        ("+", ["+", "-"], "+"),
        ("-", ["+", "-"], "-"),
    ],
)
def test_the_value_named_is_found(text: str, allowed: Sequence[str], value: str) -> None:
    """In scripts without spaces, with option letters and markup around, as a marked final answer."""
    assert choice(text, allowed) == value


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("积极还是消极都可以", ZH),
        ("他的态度并不积极", ZH),
        ("服务令人不满意", ["满意", "失望"]),
        ("an Apple", AB),
        ("A or B", AB),
        ("yes or no", YN),
        ("I know nothing", YN),
        ("unhappy", ["happy", "sad"]),
        ("12", ["1", "2"]),
        ("3.5", ["3", "5"]),
        ("-5", ["5", "6"]),
        ("", YN),
        ("...", YN),
    ],
)
def test_no_or_several_values_are_no_choice(text: str, allowed: Sequence[str]) -> None:
    """Parts of words and of numbers name nothing, nor does what is negated in a script without spaces."""
    assert isinstance(choice(text, allowed), NoAnswer)


def test_the_reason_counts() -> None:
    """As reports show it."""
    assert choice("yes or no", YN) == NoAnswer("names 2 of the 2 allowed values")
    assert choice("maybe", YN) == NoAnswer("names 0 of the 2 allowed values")


def test_many_allowed_values_are_looked_through_once() -> None:
    """Where thousands are allowed, none is compared with all others (the test has a time limit)."""
    allowed = [f"[{number}]" for number in range(200_000)]
    assert choice("(77)", [*allowed, "(8)", "[8]."]) == "[77]"
    assert isinstance(choice("*8*", [*allowed, "(8)", "[8]."]), NoAnswer)


@given(st.sampled_from(ZH), st.text("的是我这那。，：", max_size=6), st.text("的是我这那。，：", max_size=6))
def test_chinese_text_around_does_not_hide_a_value(value: str, before: str, after: str) -> None:
    """Whatever stands before and after without a space."""
    assert choice(before + value + after, ZH) == value


@given(
    st.sampled_from(AB),
    st.sampled_from(["{}", "({})", "{}.", "{})", "**{}**", "Answer: {}", "答案：{}", r"\boxed{{}}"]),
)
def test_letters_in_every_dress(value: str, dress: str) -> None:
    """The usual ways to write an option."""
    assert (
        choice(dress.replace("{}", value, 1) if "boxed" not in dress else rf"\boxed{{{value}}}", AB) == value
    )
