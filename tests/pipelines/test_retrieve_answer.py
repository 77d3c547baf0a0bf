"""HotpotQA and 2WikiMultiHopQA: rows, what models write, and scores as the official script gives them."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agenttts.space.space import SearchSpace
from pipelines import Example, StageChoice, load_spec
from pipelines.dataset.splits import load_splits, with_data
from pipelines.retrieve_answer import scoring
from pipelines.retrieve_answer.parsing import numbers, short_answer
from pipelines.retrieve_answer.rows import example
from pipelines.stages.prompts import render
from tests.real_data import need

FAMILY = Path(__file__).parents[2] / "pipelines/retrieve_answer"
PUBLISHED: dict[str, Any] = {
    "id": "q1",
    "question": "Which  river runs past Ada's town?",
    "answer": "the Sava",
    "context": {
        "title": ["Ada", "Sava", "Drava"],
        "sentences": [["Ada lives in Krk.", " ", "Krk lies on the Sava."], ["A river."], ["A river."]],
    },
    "supporting_facts": {"title": ["Ada", "Ada", "Sava"], "sent_id": [0, 2, 0]},
}
UNITS = {
    "qwen-7b": 77 + 1 / 3,
    "qwen-32b": 360 + 2 / 3,
    "qwen-72b": 814,
    "llama-3b": 3,
    "llama-8b": 11 + 1 / 3,
    "llama-70b": 114 + 2 / 3,
}


@pytest.mark.parametrize("name", ["hotpotqa", "2wikimultihopqa"])
def test_the_published_setting_loads_at_its_unit_costs(name: str) -> None:
    """The spec is consistent, and one sample of each model costs what the law of the budget says."""
    spec = load_spec(FAMILY / f"{name}.yaml")
    space = SearchSpace(spec, spec.budget.units)
    for stage in spec.stages:
        for model in stage.models:
            assert space.stage_units(stage.name, StageChoice(model, 1)) == pytest.approx(UNITS[model])


def test_rows_of_either_form_become_the_same_example() -> None:
    """Sentences under their titles, the blank one left out; lists of pairs read like lists side by side."""
    made = example(PUBLISHED)
    assert made["question"] == "Which river runs past Ada's town?" and made["answers"] == ["the Sava"]
    assert made["candidates"][1] == "Ada: Krk lies on the Sava." and made["evidence"] == [1, 2, 3]
    context, facts = PUBLISHED["context"], PUBLISHED["supporting_facts"]
    pairs = {
        **PUBLISHED,
        "context": list(map(list, zip(context["title"], context["sentences"], strict=True))),
        "supporting_facts": list(map(list, zip(facts["title"], facts["sent_id"], strict=True))),
    }
    assert example(pairs) == made
    assert example({**pairs, "context": json.dumps(pairs["context"])}) == made
    renamed = {"title": context["title"], "content": context["sentences"]}
    assert example({**PUBLISHED, "context": renamed}) == made
    flat = {"question": "Q?", "answers": ["a", "a"], "ctxs_candidate": ["x", "y", "", "x"], "ctxs_gt": ["y"]}
    assert example(flat)["candidates"] == ["x", "y"] and example(flat)["evidence"] == [2]
    assert example(flat)["answers"] == ["a"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": " "}, "needs a question and an answer"),
        ({"answer": None}, "needs a question and an answer"),
        ({"supporting_facts": {"title": ["Ada"], "sent_id": [9]}}, "supporting fact 9 of 'Ada'"),
        ({"supporting_facts": {"title": [], "sent_id": []}}, "no supporting text is named"),
    ],
)
def test_bad_rows_say_why(change: dict[str, Any], said: str) -> None:
    """A row that can't be asked or scored is refused with its reason."""
    with pytest.raises(ValueError, match=said):
        example({**PUBLISHED, **change})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1, 3", [1, 3]),
        ("[3, 1, 3", [1, 3]),
        ("Texts 2 and 4 (not 17).", [2, 4]),
        ("1-3", [1, 2, 3]),
        ("1. Ada: born 1815\n2. Sava", [1, 2]),
        ("None of them.", []),
        ("1-9999999999", [1]),
    ],
)
def test_numbers_are_read_from_what_models_write(text: str, found: list[int]) -> None:
    """Repeated, out of range, in words, as ranges, cut in the middle."""
    assert numbers(text, Example("e", {"candidates": ["a", "b", "c", "d", "e"]})) == found


def test_a_text_without_numbers_does_not_parse() -> None:
    """Nor does an empty answer."""
    nothing = Example("e", {"candidates": ["a"]})
    for text in ("", "I cannot tell.", "7"):
        with pytest.raises(ValueError, match="names none of the 1 candidates"):
            numbers(text, nothing)
    with pytest.raises(ValueError, match="empty answer"):
        short_answer(' "" \n', nothing)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Małgorzata Braunek.", "Małgorzata Braunek"),
        ("The answer is: **Paris**\nBecause", "Paris"),
        ('Answer: "12 May 1815"', "12 May 1815"),
        ("J. R. R. T.", "J. R. R. T."),
        ("yes\n\nno", "yes"),
    ],
)
def test_answers_are_short(text: str, found: str) -> None:
    """Introductions, quotes, stars and what follows are left out; initials keep their stop."""
    assert short_answer(text, Example("e", {})) == found


def official(prediction: str, gold: str) -> tuple[float, float]:
    """EM and F1 as hotpot_evaluate_v1 defines them, written anew from its definition."""

    def normal(text: str) -> str:
        lowered = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", lowered).split())

    said, right = normal(prediction), normal(gold)
    if (said in {"yes", "no", "noanswer"} or right in {"yes", "no", "noanswer"}) and said != right:
        return float(said == right), 0.0
    common = Counter(said.split()) & Counter(right.split())
    same = sum(common.values())
    if same == 0:
        return float(said == right), 0.0
    precision, recall = same / len(said.split()), same / len(right.split())
    return float(said == right), 2 * precision * recall / (precision + recall)


def perturbed(answer: str, other: str) -> Iterator[str]:
    """An answer as models write it: right, nearly right, and wrong."""
    yield from (answer, answer.upper(), f"the {answer}.", f"{answer} (film)", f"It is {answer}, I think")
    yield from (answer[: len(answer) // 2], other, f"{answer} and {other}", "", "yes", "no", "noanswer")
    yield from (
        " ".join(reversed(answer.split())),
        answer.replace(" ", "-"),
        f"“{answer}”",
        f"{answer} {answer}",
    )


def test_scores_are_those_of_the_official_script_on_real_answers() -> None:
    """Exact match and F1, best over the aliases, agree to 1e-9 on 1,600 perturbed real answers."""
    rows = json.loads(need("retrieve_answer/2wikimultihopqa_100.json").read_text())
    examples = [Example(str(i), example(row)) for i, row in enumerate(rows)]
    pairs = 0
    for i, made in enumerate(examples):
        other = examples[i - 1]["answers"][0]
        for said in perturbed(made["answers"][0], other):
            expected = [official(said, alias) for alias in made["answers"]]
            assert scoring.exact_match(said, made) == max(em for em, _ in expected)
            assert scoring.answer_f1(said, made) == pytest.approx(max(f1 for _, f1 in expected), abs=1e-9)
            pairs += 1
        gold = set(made["evidence"])
        for named in (gold, {1}, gold | {1, 2}, set(list(gold)[:1]), set[int]()):
            both = len(named & gold)
            precision, recall = both / len(named) if named else 0.0, both / len(gold)
            f1 = 2 * precision * recall / (precision + recall) if both else 0.0
            assert scoring.evidence_f1(sorted(named), made) == pytest.approx(f1, abs=1e-9)
            assert scoring.evidence_exact_match(sorted(named), made) == float(named == gold)
    assert pairs == 1600 and scoring.exact_match(None, examples[0]) == 0.0


def test_real_rows_load_and_long_prompts_are_cut_as_planned() -> None:
    """Every real row is an example of about 100 candidates whose prompts hold no more than planned."""
    file = need("retrieve_answer/2wikimultihopqa_100.json")
    spec = with_data(load_spec(FAMILY / "2wikimultihopqa.yaml"), file, 40, 60)
    splits = load_splits(spec)
    assert not splits.left_out and len(splits.test) == 60
    assert all(80 <= len(made["candidates"]) <= 110 for made in splits.search)
    short = spec.stages[0].truncate[0].model_copy(update={"chars": 2000, "item_chars": 90})
    stage = spec.stages[0].model_copy(update={"truncate": (short,)})
    for made in splits.search:
        whole = render(spec.stages[0], made, {})["messages"][0]["content"]
        cut = render(stage, made, {})["messages"][0]["content"]
        assert made["candidates"][-1] in whole and len(cut) < 2000 + 500 and made["question"] in cut
        answered = render(spec.stages[1], made, {"retrieve": made["evidence"]})["messages"][0]["content"]
        assert all(made["candidates"][n - 1] in answered for n in made["evidence"])
        assert made["question"] in render(spec.stages[1], made, {"retrieve": None})["messages"][0]["content"]
