"""Planned truncation: what the template sees is cut as the spec says, and every cut is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agenttts.search.check import check
from pipelines import Example, JsonParser, SpecError, StageSpec, TruncateSpec
from pipelines.stages.prompts import render, truncations
from tests.agenttts.small_specs import small_spec, write_examples


def stage(*rules: TruncateSpec, **changes: Any) -> StageSpec:
    settings: dict[str, Any] = {
        "name": "s",
        "prompt": "{% for text in texts %}{{ text }}|{% endfor %}{{ title }}",
        "models": ("m",),
        "max_samples": 1,
        "prompt_tokens": 9,
        "generated_tokens": 9,
    }
    return StageSpec(**{**settings, **changes}, truncate=rules)


def prompt(made: StageSpec, **fields: Any) -> tuple[str, list[str]]:
    example = Example("e", {"texts": [], "title": "", **fields})
    return render(made, example, {})["messages"][0]["content"], truncations(made, example, {})


@pytest.mark.parametrize(("drop", "seen"), [("end", "abcd…"), ("start", "…ghij"), ("middle", "ab…ij")])
def test_a_text_keeps_the_end_that_the_spec_says(drop: Any, seen: str) -> None:
    """Start, end or both ends stay; the cut is marked, counted, and within the limit."""
    made = stage(TruncateSpec(field="title", chars=5, drop=drop))
    assert prompt(made, title="abcdefghij") == (seen, ["title 10 → 5 characters"])
    assert prompt(made, title="abcde") == ("abcde", [])


@pytest.mark.parametrize(
    ("drop", "seen"), [("end", "a|bb|ccc|"), ("start", "ccc|dddd|eeeee|"), ("middle", "a|bb|eeeee|")]
)
def test_a_list_loses_whole_items(drop: Any, seen: str) -> None:
    """Items go from where the spec says until the rest fits; what stays keeps its order."""
    texts = ["a", "bb", "ccc", "dddd", "eeeee"]
    made = stage(TruncateSpec(field="texts", items=3, drop=drop))
    assert prompt(made, texts=texts) == (seen, ["texts 5 → 3 items"])
    assert prompt(stage(TruncateSpec(field="texts", chars=10)), texts=texts)[1] == ["texts 5 → 4 items"]


def test_items_of_uneven_length_are_cut_one_by_one() -> None:
    """Long items are shortened, empty ones stay; a single item over the limit is cut itself."""
    made = stage(TruncateSpec(field="texts", item_chars=4))
    seen, notes = prompt(made, texts=["", "abcd", "é" * 9])
    assert seen == "|abcd|ééé…|" and notes == ["texts 1 items cut"]
    assert prompt(stage(TruncateSpec(field="texts", chars=3)), texts=["abcdef", "g"])[0] == "ab…|"


def test_a_rule_must_do_something_to_a_field_that_the_prompt_uses() -> None:
    """A rule without a limit, twice for a field, or for a field that is not in the prompt."""
    for rules, said in {
        (TruncateSpec(field="question"),): "needs items, item_chars or chars",
        (TruncateSpec(field="question", chars=5),) * 2: "each field comes once",
    }.items():
        with pytest.raises(SpecError, match=said):
            cut_spec(rules)


def cut_spec(rules: tuple[TruncateSpec, ...]) -> Any:
    spec = small_spec()
    stages = (spec.stages[0].model_copy(update={"truncate": rules}), *spec.stages[1:])
    return type(spec)(**{**dict(spec), "stages": stages})


async def test_check_counts_what_is_cut(tmp_path: Path) -> None:
    """A warning says for how many examples, before a token is spent; an unknown field is an error."""
    write_examples(tmp_path)
    rules = (TruncateSpec(field="question", chars=3),)
    found = await check(cut_spec(rules).model_copy(update={"root": tmp_path}))
    told = [f for f in found if f.place.endswith("truncate")]
    assert [f.severity for f in told] == ["warning"] and "as planned, prompts of 10 of 10" in told[0].message
    wrong = cut_spec((TruncateSpec(field="nothing", chars=3),)).model_copy(update={"root": tmp_path})
    assert any("must be a field that the prompt uses" in f.message for f in await check(wrong))


def test_a_constrained_stage_asks_for_its_schema() -> None:
    """The request carries the schema, and with it the identity of the samples."""
    parser = JsonParser(schema={"type": "array"}, constrain=True)
    made = stage(parser=parser)
    content = render(made, Example("e", {"texts": [], "title": ""}), {})
    assert content["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {"type": "array"}, "strict": True},
    }
    plain = made.model_copy(update={"parser": parser.model_copy(update={"constrain": False})})
    assert "response_format" not in render(plain, Example("e", {"texts": [], "title": ""}), {})
