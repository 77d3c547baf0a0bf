"""Scores of outputs against gold values."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import BuiltinMetric, Example, PythonMetric
from pipelines.errors import CustomCodeFailed
from pipelines.stages.metrics import rouge_l, score

Kind = Literal[
    "exact_match",
    "token_f1",
    "number",
    "squad_exact_match",
    "squad_f1",
    "set_precision",
    "set_recall",
    "set_f1",
    "accuracy",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
WORDS = st.lists(
    st.sampled_from(["the", "The", "a", "cat", "Cat!", "dog", "an", "ran.", "-", "far,"]), max_size=6
)
TEXTS = WORDS.map(" ".join)
SETS = st.lists(st.sampled_from("abcd"), unique=True)


def scored(kind: Kind, output: Any, gold: Any) -> float | None:
    return score(BuiltinMetric(kind=kind, label="gold"), output, Example("1", {"gold": gold}))


def squad_normalise(text: str) -> list[str]:
    """The steps of SQuAD's evaluation script, one after the other."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(said: str, gold: str) -> float:
    """SQuAD's F1: harmonic mean of precision and recall over the tokens in common."""
    said_tokens, gold_tokens = squad_normalise(said), squad_normalise(gold)
    common = sum((Counter(said_tokens) & Counter(gold_tokens)).values())
    if not said_tokens or not gold_tokens:
        return float(said_tokens == gold_tokens)
    if common == 0:
        return 0.0
    precision, recall = common / len(said_tokens), common / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


@given(TEXTS, TEXTS)
def test_text_metrics_agree_with_squad(said: str, gold: str) -> None:
    """The metrics that are named after SQuAD are those of its evaluation, step by step."""
    assert scored("squad_exact_match", said, gold) == float(squad_normalise(said) == squad_normalise(gold))
    assert scored("squad_f1", said, gold) == pytest.approx(squad_f1(said, gold))


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_aliases_count_as_the_best_of_them(said: str, aliases: list[str]) -> None:
    """A list of gold texts scores as the best of its members."""
    assert scored("exact_match", said, aliases) == max(scored("exact_match", said, a) or 0.0 for a in aliases)
    assert scored("token_f1", said, aliases) == max(scored("token_f1", said, a) or 0.0 for a in aliases)


@given(SETS, SETS)
def test_set_metrics(said: list[str], gold: list[str]) -> None:
    """Precision and recall mirror each other, F1 is their harmonic mean, 1 exactly for equal sets."""
    precision, recall = scored("set_precision", said, gold), scored("set_recall", said, gold)
    f1 = scored("set_f1", said, gold)
    assert precision is not None and recall is not None and f1 is not None
    assert precision == scored("set_recall", gold, said)
    assert (f1 == 1) == (set(said) == set(gold))
    harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert f1 == pytest.approx(harmonic)


def test_check_values() -> None:
    """Hand-computed scores."""
    assert scored("set_precision", ["a", "b", "c"], ["a", "d"]) == pytest.approx(1 / 3)
    assert scored("set_recall", ["a", "b", "c"], ["a", "d"]) == 0.5
    assert scored("set_f1", ["a", "b", "c"], ["a", "d"]) == 0.4
    assert scored("set_f1", ["one  two"], ["one two"]) == 1.0
    assert scored("token_f1", "the red cat", "red dog") == 0.5
    assert scored("exact_match", "The Beatles!", "beatles") == 1.0
    assert scored("exact_match", 7, "7") == 1.0
    assert scored("accuracy", "Yes", "yes") == 0.0
    assert scored("accuracy", 7, "7") == 1.0
    assert scored("accuracy", {"a": [1]}, {"a": [1]}) == 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gold", ["x", ["x"], "", []])
def test_no_output_scores_0(kind: Kind, gold: Any) -> None:
    """An output of None is a model's failure, also where the gold value is empty."""
    assert scored(kind, None, gold) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_no_gold_value_gives_no_score(kind: Kind) -> None:
    """Without a gold value there is no score, which is not a score of 0."""
    assert scored(kind, "x", None) is None
    assert score(BuiltinMetric(kind=kind, label="other"), "x", Example("1", {"gold": "x"})) is None


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("$18", 18, 1.0),
        (r"\$18", "18", 1.0),
        ("-$1,800.50", -1800.5, 1.0),
        ("18 €", 18, 1.0),
        ("x = 18", 18, 1.0),
        ("18", "$18", 1.0),
        ("$18$", 18, 1.0),
        ("$18", 19, 0.0),
        ("18 dollars", 18, 0.0),
        ("18 thousand", 18, 0.0),
        ("$", 0, 0.0),
        ("$1$2", 12, 0.0),
    ],
)
def test_a_currency_beside_a_number_does_not_count(answer: str, gold: Any, expected: float) -> None:
    """Nor does a name before it; words may change what a number is."""
    assert scored("number", answer, gold) == expected


def test_functions_score() -> None:
    """A function gets output and example; what raises or is not in [0, 1] is named."""
    example = Example("1", {"gold": "x"})
    assert score(PythonMetric(python=lambda output, example: output == example["gold"]), "x", example) == 1.0
    with pytest.raises(CustomCodeFailed, match=r"must return a number in \[0, 1\], got 2"):
        score(PythonMetric(python=lambda output, example: 2), "x", example)
    with pytest.raises(CustomCodeFailed, match="got nan"):
        score(PythonMetric(python=lambda output, example: float("nan")), "x", example)
    with pytest.raises(CustomCodeFailed, match="raised KeyError"):
        score(PythonMetric(python=lambda output, example: example["nope"]), "x", example)


def test_rouge_l_is_that_of_its_definition() -> None:
    """Longest common subsequence in words; a Chinese character is one; best over aliases."""
    assert rouge_l("The cat sat on the mat", "the cat lay on a mat") == pytest.approx(2 * 4 / 12)
    assert rouge_l("被告支付工程款", "被告应支付款") == pytest.approx(2 * 5 / 13)
    assert rouge_l("no", ["yes", "oh no"]) == pytest.approx(2 / 3)
    assert rouge_l(None, "x") == 0.0


@pytest.mark.parametrize(
    "kind", ["exact_match", "token_f1", "number", "accuracy", "squad_exact_match", "squad_f1"]
)
def test_no_output_is_wrong_whatever_the_gold_value(kind: Kind) -> None:
    """Even where the gold value holds nothing but an article or punctuation."""
    for gold in ("A", "?", "The The", ""):
        assert scored(kind, None, gold) == 0


@pytest.mark.parametrize(
    ("output", "gold", "right"),
    [
        ("1,234", 1234, 1),
        ("-3", "3", 0),
        ("3.14", "314", 0),
        ("50%", 0.5, 1),
        ("five", 5, 0),
        (True, 1, 0),
        ("7", [5, 7.0], 1),
    ],
)
def test_numbers_are_compared_as_numbers(output: Any, gold: Any, right: int) -> None:
    """With their signs and points; what is no number is wrong."""
    assert scored("number", output, gold) == right
