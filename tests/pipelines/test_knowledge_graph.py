"""ComplexWebQuestions and WebQSP: numbered triples, evidence on paths, scores against any gold answer."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest

from agenttts.space.space import SearchSpace
from pipelines import Example, StageChoice, load_spec
from pipelines.dataset.splits import load_splits, with_data
from pipelines.errors import DatasetError
from pipelines.knowledge_graph import scoring
from pipelines.knowledge_graph.rows import example, on_shortest_paths
from tests.real_data import need

FAMILY = Path(__file__).parents[2] / "pipelines/knowledge_graph"
UNITS = {"qwen-7b": 37 + 2 / 3, "qwen-72b": 406, "llama-8b": 11 + 1 / 3, "llama-70b": 114 + 2 / 3}
GRAPH = [
    ["Ada", "born_in", "Krk"],
    ["Krk", "river", "Sava"],
    ["Ada", "likes", "Sea"],
    ["Sava", "flows", "Sea"],
]


@pytest.mark.parametrize("name", ["cwq", "webqsp"])
def test_the_published_setting_loads_at_its_unit_costs(name: str) -> None:
    """The spec is consistent, and one sample of each model costs what the law of the budget says."""
    spec = load_spec(FAMILY / f"{name}.yaml")
    space = SearchSpace(spec, spec.budget.units)
    for stage in spec.stages:
        for model in stage.models:
            assert space.stage_units(stage.name, StageChoice(model, 1)) == pytest.approx(UNITS[model])


def test_evidence_lies_on_shortest_paths() -> None:
    """Whichever way triples point; every shortest path counts, no longer one; unreached ends give none."""
    triples = [(h, r, t) for h, r, t in GRAPH]
    assert on_shortest_paths(triples, ["Ada"], ["Sava"]) == triples  # two paths of two steps
    assert on_shortest_paths(triples, ["Krk"], ["Sava"]) == [("Krk", "river", "Sava")]
    assert on_shortest_paths(triples, ["Ada"], ["Nowhere"]) == []


def test_rows_of_either_form_number_at_most_100_triples() -> None:
    """The evidence is always among them; the id decides which others are, and where each stands."""
    graph = [*GRAPH[:2], *([f"x{i}", "next to", "Ada"] for i in range(300))]
    row: dict[str, Any] = {"id": "r", "question": "Q?", "answer": ["Sava", "Sava"], "graph": graph}
    made = example({**row, "q_entity": ["Ada"], "a_entity": ["Sava"]})
    assert len(made["candidates"]) == 100 and made["answers"] == ["Sava"]
    gold = {made["candidates"][n - 1] for n in made["evidence"]}
    assert gold == {"Ada | born_in | Krk", "Krk | river | Sava"}
    again = example({**row, "q_entity": ["Ada"], "a_entity": ["Sava"]})
    other = example({**row, "id": "s", "q_entity": ["Ada"], "a_entity": ["Sava"]})
    assert again == made and other["candidates"] != made["candidates"]
    named = example(
        {"ID": "g", "question": "Q?", "answer": "Sava", "gt_triples": GRAPH[:2], "2hop_triples": GRAPH}
    )
    assert len(named["candidates"]) == 4 and len(named["evidence"]) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Q?", "answer": ["a"]}, "a row needs triples"),
        ({"question": "Q?", "answer": []}, "needs a question and an answer"),
        ({"question": "Q?", "answer": ["a"], "gt_triples": []}, "no triple leads to the answer"),
        ({"question": "Q?", "answer": ["a"], "gt_triples": [["a", "b"]]}, "a triple has three parts"),
    ],
)
def test_bad_rows_say_why(row: dict[str, Any], said: str) -> None:
    """A row that can't be asked or scored is refused with its reason."""
    with pytest.raises(ValueError, match=said):
        example(row)


def official(prediction: list[str], gold: list[str]) -> tuple[float, float]:
    """Hits@1 and F1 of distinct normalised answers, from their definitions."""

    def normal(text: str) -> str:
        kept = "".join(c for c in text.lower() if c not in string.punctuation)
        return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))

    said = [normal(p) for p in prediction if normal(p)]
    right = {normal(g) for g in gold}
    if not said:
        return 0.0, 0.0
    both = len(set(said) & right)
    precision, recall = both / len(set(said)), both / len(right)
    f1 = 2 * precision * recall / (precision + recall) if both else 0.0
    return float(said[0] in right), f1


def test_scores_follow_their_definitions_on_real_answers() -> None:
    """Hits@1 and F1 agree to 1e-9 on 2,000 perturbed real answers of both datasets."""
    rows = json.loads(need("kgqa/cwq_triples_100.json").read_text())
    gold = [list(map(str, row["answer"])) for row in rows]
    for row in json.loads(need("kgqa/webqsp_100.json").read_text()):
        found = [a for parse in row["Parses"] for a in parse["Answers"]]
        gold.append([a["EntityName"] or a["AnswerArgument"] for a in found])
    pairs = 0
    for i, answers in enumerate(gold):
        if not answers:
            continue
        other = gold[i - 1][0]
        made = Example(str(i), {"answers": answers})
        right = answers[0]
        for said in (
            answers,
            answers[::-1],
            [right],
            [right.upper()],
            [f"The {right}!"],
            [other],
            [other, right],
            [*answers, other],
            [f"{right} {other}"],
            [],
        ):
            hit, f1 = official(said, answers)
            text = " | ".join(said) or None
            assert scoring.hits_at_1(text, made) == hit
            assert scoring.answers_f1(text, made) == pytest.approx(f1, abs=1e-9)
            pairs += 1
    assert pairs >= 1900


def test_real_rows_load_and_those_without_triples_are_refused() -> None:
    """Every ComplexWebQuestions row is an example; a file without triples is refused with reasons."""
    spec = with_data(load_spec(FAMILY / "cwq.yaml"), need("kgqa/cwq_triples_100.json"), 40, 50)
    splits = load_splits(spec)
    assert len(splits.search) == 40 and len(splits.test) == 50
    assert all(1 <= len(made["evidence"]) <= len(made["candidates"]) <= 100 for made in splits.search)
    webqsp = with_data(load_spec(FAMILY / "webqsp.yaml"), need("kgqa/webqsp_100.json"), 10, 10)
    with pytest.raises(DatasetError, match="a row needs triples"):
        load_splits(webqsp)
