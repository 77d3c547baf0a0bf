"""Shares of empty, cut, unparsed and equal samples: how they are counted, and when they are notable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.results.health import SampleHealth, health_text, percent
from agenttts.results.meter import SampleCounts
from pipelines.examples import Example
from pipelines.spec.models import SamplingSpec
from pipelines.spec.stage import StageSpec

EXAMPLE = Example("e", {"colours": ["red", "green"]})
SAMPLING = SamplingSpec(temperature=0.8, max_tokens=64)
SOUND = SampleHealth(
    stage="answer",
    model="small",
    n_samples=100,
    empty=0.0,
    empty_because=None,
    cut=0.0,
    unparsed=0.0,
    unparsed_because=None,
    n_prompts=50,
    identical=0.5,
    max_tokens=64,
    temperature=0.8,
)


def stage(**changes: Any) -> StageSpec:
    base = {"name": "answer", "prompt": "q", "models": ["small"], "max_samples": 8}
    return StageSpec.model_validate({**base, "prompt_tokens": 8, "generated_tokens": 2, **changes})


def counted(texts: list[str], reason: str = "stop", **changes: Any) -> SampleHealth:
    counts = SampleCounts(stage(**changes), "small", SAMPLING)
    for index, text in enumerate(texts):
        counts.add("prompt", index, text, reason, EXAMPLE)
    return counts.health


def test_a_sample_is_empty_or_unparsed_or_has_a_value() -> None:
    """Blank texts and texts that end with their thinking are empty; others have a value or a reason."""
    texts = [
        "red",
        " \n",
        "<think>red or green</think>",
        "<think>red or",
        "blue",
        "maybe blue",
        "it is green",
    ]
    health = counted(texts, parser={"kind": "choice", "allowed": "colours"})
    assert health.n_samples == 7
    assert (health.empty, health.unparsed) == (2 / 7, 3 / 7)
    assert health.unparsed_because == "names 0 of the 2 allowed values"


def test_what_the_token_limit_ended_is_cut() -> None:
    """The server's finish reason decides, whether the text parses or not."""
    assert counted(["red", "blue"], reason="length").cut == 1.0
    assert counted(["red", "blue"]).cut == 0.0


def test_a_parser_that_raises_gives_no_value() -> None:
    """A fault of the user's own function is counted, and raises nothing here."""
    health = counted(["x"], parser={"python": divide})
    assert health.unparsed == 1.0 and "ZeroDivisionError" in (health.unparsed_because or "")


def divide(text: str, example: Example) -> float:
    return 1 / 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from("ab")), max_size=40))
def test_equal_samples_are_counted_by_prompt_in_any_order(draws: list[tuple[int, int, str]]) -> None:
    """Each index of a prompt counts once, and a prompt of two samples or more is of one text or it is not."""
    counts = SampleCounts(stage(), "small", SAMPLING)
    texts: dict[int, dict[int, str]] = {}
    for prompt, index, text in draws:
        counts.add(str(prompt), index, text, "stop", EXAMPLE)
        texts.setdefault(prompt, {}).setdefault(index, text)
        assert counts.has(str(prompt), index + 1) == set(range(index + 1)).issubset(texts[prompt])
    several = [set(of.values()) for of in texts.values() if len(of) > 1]
    health = counts.health
    assert health.n_samples == sum(len(of) for of in texts.values())
    assert health.n_prompts == len(several)
    wanted = sum(len(different) == 1 for different in several) / len(several) if several else None
    assert health.identical == wanted


def test_greedy_samples_may_be_equal() -> None:
    """At a temperature of 0 nothing is said of equal texts."""
    counts = SampleCounts(stage(), "small", SAMPLING.model_copy(update={"temperature": 0.0}))
    for index in range(4):
        counts.add("prompt", index, "red", "stop", EXAMPLE)
    assert counts.health.identical is None and counts.health.n_prompts == 0


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"cut": 0.82},
            "answer × small: 82 % of the samples were cut at max_tokens 64; raise sampling.max_tokens",
        ),
        (
            {"cut": 0.82, "unparsed": 0.8, "unparsed_because": "no JSON value"},
            "82 % of the samples were cut at max_tokens 64, 80 % have no value; raise sampling.max_tokens",
        ),
        ({"cut": 0.5, "max_tokens": None}, "cut at the server's own limit; set sampling.max_tokens"),
        ({"empty": 0.06}, "6 % of the samples hold no answer"),
        (
            {"unparsed": 0.3, "unparsed_because": "no JSON value"},
            "the parser finds no value in 30 % of the samples (no JSON value); state the answer's form",
        ),
        (
            {"identical": 0.95},
            "all samples are one text for 95 % of 50 prompts at temperature 0.8; the server may",
        ),
        ({"identical": 1.0, "temperature": None}, "100 % of 50 prompts at the server's own temperature"),
    ],
)
def test_a_notable_share_is_told_with_a_remedy(changes: dict[str, Any], warning: str) -> None:
    """Place, share, bound and what to do stand in one line."""
    health = replace(SOUND, **changes)
    assert warning in (health.warning or "") and len(health.problems) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"empty": 0.05, "cut": 0.1, "unparsed": 0.2, "identical": 0.9},
        {"cut": 1.0, "n_samples": 9},
        {"identical": 1.0, "n_prompts": 9},
        {"identical": None},
    ],
)
def test_small_shares_and_few_samples_are_not_notable(changes: dict[str, Any]) -> None:
    """At the bounds, or with fewer than ten, nothing is said; a check, which has few, may ask for less."""
    health = replace(SOUND, **changes)
    assert health.warning is None and not health.problems
    assert (replace(health, cut=1.0).warning_of(fewest=1)) is not None


def test_shares_in_words() -> None:
    """A share that is not quite none or all is not rounded to it, and only the largest of a kind is named."""
    assert [percent(share) for share in (0, 0.001, 0.5, 0.999, 1)] == [
        "0 %",
        "under 1 %",
        "50 %",
        "99 %",
        "100 %",
    ]
    worse = replace(SOUND, model="large", cut=0.4, identical=0.95)
    assert (
        health_text([replace(SOUND, cut=0.1), worse])
        == "answer × large 40 % cut, answer × large 95 % identical"
    )
    assert health_text([SOUND]) == "" == health_text([])
