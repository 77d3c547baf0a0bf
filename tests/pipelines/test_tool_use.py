"""TaskBench: rows as published, JSON as models write it, votes by element, scores by their definitions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agenttts.space.space import SearchSpace
from pipelines import Candidate, Example, StageChoice, load_spec
from pipelines.dataset.splits import load_splits, with_data
from pipelines.errors import SpecError
from pipelines.reading.readers import NoAnswer
from pipelines.stages.parsers import parse
from pipelines.stages.prompts import render
from pipelines.tool_use import scoring, voting
from pipelines.tool_use.rows import example
from tests.real_data import need

FAMILY = Path(__file__).parents[2] / "pipelines/tool_use"
DESC: dict[str, Any] = {
    "nodes": [{"id": name, "desc": "", "parameters": []} for name in ("book flight", "pay_bill", "set_alarm")]
}
ROW: dict[str, Any] = {
    "id": "1",
    "instruction": "Pay, then wake me.",
    "task_steps": '["Step 1: pay", "Step 2: wake"]',
    "task_nodes": [
        {"task": "pay_bill", "arguments": [{"name": "bill", "value": "gas"}]},
        {"task": "set_alarm", "arguments": ["<node-0>", "7.wav"]},
    ],
    "task_links": '[{"source": "pay_bill", "target": "set_alarm"}]',
    "tool_desc": DESC,
}


@pytest.mark.parametrize("name", ["taskbench_dailylife", "taskbench_huggingface", "taskbench_multimedia"])
def test_the_published_setting_loads_at_its_unit_costs(name: str) -> None:
    """One sample of 70 B at each stage costs what the law of the budget says: 395, 465, 1,118."""
    spec = load_spec(FAMILY / f"{name}.yaml")
    space = SearchSpace(spec, spec.budget.units)
    units = [space.stage_units(stage.name, StageChoice("llama-70b", 1)) for stage in spec.stages]
    assert [round(u) for u in units] == [395, 465, 1118]


def test_rows_are_read_as_published() -> None:
    """JSON in texts is decoded; an argument without a name goes by what it passes on."""
    made = example(ROW)
    assert made["steps"] == ["Step 1: pay", "Step 2: wake"] and made["nodes"] == ["pay_bill", "set_alarm"]
    assert made["links"] == [["pay_bill", "set_alarm"]]
    assert made["arguments"] == [
        ["pay_bill", "bill", "gas"],
        ["set_alarm", "node", "<node-0>"],
        ["set_alarm", "audio", "7.wav"],
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instruction": ""}, "needs a request and its tools"),
        ({"task_nodes": "[]"}, "needs a request and its tools"),
        ({"task_nodes": [{"task": "fly"}]}, "'fly' is not among the 3 tools"),
        ({"task_steps": '["cut'}, "Unterminated string"),
    ],
)
def test_bad_rows_say_why(change: dict[str, Any], said: str) -> None:
    """A row that can't be asked or scored is refused with its reason."""
    with pytest.raises(ValueError, match=said):
        example({**ROW, **change})


def test_the_tools_file_must_be_there(tmp_path: Path) -> None:
    """The descriptions are read from beside the rows; without them the error names the field and file."""
    rows = tmp_path / "rows.jsonl"
    bare = {key: value for key, value in ROW.items() if key != "tool_desc"}
    rows.write_text("".join(json.dumps({**bare, "id": i, "instruction": f"{i}?"}) + "\n" for i in range(4)))
    spec = load_spec(FAMILY / "taskbench_dailylife.yaml")
    with pytest.raises(SpecError, match=r"dataset\.shared\.tool_desc: 'taskbench_dailylife_tool_desc\.json'"):
        load_splits(with_data(spec, rows, 2, 2))
    (tmp_path / "taskbench_dailylife_tool_desc.json").write_text(json.dumps(DESC))
    splits = load_splits(with_data(spec, rows, 2, 2))
    assert [tool["name"] for tool in splits.test[0]["tools"]] == ["book flight", "pay_bill", "set_alarm"]


@pytest.mark.parametrize(
    ("text", "parses"),
    [
        ('{"tools": ["book flight"], "links": []}', True),
        ('Sure:\n```json\n{"tools": ["a"], "links": [{"source": "a", "target": "b"}]}\n```', True),
        ('{"tools": ["a"], "links": [{"source": "a", "tar', False),
        ('{"tools": "a", "links": []}', False),
        ('{"tools": [], "links": []}', False),
        ("no tools are needed", False),
    ],
)
def test_selections_parse_or_have_no_vote(text: str, parses: bool) -> None:
    """Prose around it is passed over; JSON cut in the middle, wrong types and empty lists do not parse."""
    stage = load_spec(FAMILY / "taskbench_dailylife.yaml").stage("select")
    found = parse(stage.parser, text, Example("e", {}))
    assert isinstance(found, NoAnswer) != parses


def drawn(*values: Any) -> list[Candidate]:
    return [Candidate(i, "", value) for i, value in enumerate(values)]


def selection(tools: Sequence[str], *links: tuple[str, str]) -> dict[str, Any]:
    return {"tools": list(tools), "links": [{"source": a, "target": b} for a, b in links]}


def test_votes_go_to_elements() -> None:
    """Half of the samples keep a tool, a link or a parameter; steps are those most like the others'."""
    none = Example("e", {})
    chosen = voting.by_element(
        drawn(selection("ab", ("a", "b")), None, selection("a"), selection("abc", ("a", "b"), ("b", "c"))),
        none,
    )
    assert chosen == selection("ab", ("a", "b"))
    assert voting.by_element(drawn(selection("a"), selection("b"), selection("c")), none) == selection("a")
    calls = [
        [{"tool": "a", "arguments": [{"name": "x", "value": 1}, {"name": "y", "value": "q"}]}],
        [{"tool": "a", "arguments": [{"name": "x", "value": 1}]}, {"tool": "b", "arguments": []}],
        [{"tool": "a", "arguments": [{"name": "x", "value": 2}]}],
    ]
    assert voting.by_parameter(drawn(*calls), none) == [
        {"tool": "a", "arguments": [{"name": "x", "value": "1"}]}
    ]
    steps = (["book a flight"], ["pay the gas bill", "wake me"], ["pay gas bill", "wake"])
    assert voting.most_alike(drawn(*steps), none) in steps[1:]
    for vote in (voting.by_element, voting.by_parameter, voting.most_alike):
        assert vote(drawn(None), none) is None


def f1(said: set[Any], right: set[Any]) -> float:
    """Binary F1 over the union of both, as TaskBench flattens its labels."""
    both = said | right
    pairs = [(item in said, item in right) for item in both]
    hits = sum(a and b for a, b in pairs)
    precision = hits / sum(a for a, _ in pairs) if said else 0.0
    recall = hits / sum(b for _, b in pairs) if right else 0.0
    return 2 * precision * recall / (precision + recall) if hits else float(not both)


def rouge_l(said: str, right: str) -> float:
    """ROUGE-L F-measure by its definition: longest common subsequence over both lengths."""
    first, second = (
        tuple("".join(c if c.isalnum() and c.isascii() else " " for c in t.lower()).split())
        for t in (said, right)
    )

    @cache
    def common(i: int, j: int) -> int:
        if i == len(first) or j == len(second):
            return 0
        if first[i] == second[j]:
            return 1 + common(i + 1, j + 1)
        return max(common(i + 1, j), common(i, j + 1))

    length = common(0, 0)
    if not length:
        return 0.0
    precision, recall = length / len(first), length / len(second)
    return 2 * precision * recall / (precision + recall)


def perturbed(items: list[Any], other: list[Any]) -> Iterator[list[Any]]:
    """A list as models write it: right, reversed, doubled, short, long, wrong, empty."""
    yield from (items, items[::-1], items + items, items[:1], items + other, other, [])


def test_no_output_scores_0_where_nothing_was_to_be_found() -> None:
    """A request of one tool has no links, and may have no arguments."""
    example = Example("1", {"steps": [], "nodes": [], "links": [], "arguments": []})
    for metric in (scoring.node_f1, scoring.edge_f1, scoring.parameter_name_f1, scoring.parameter_value_f1):
        assert metric(None, example) == 0.0
    assert scoring.edge_f1({"tools": [], "links": []}, example) == 1.0


def test_scores_follow_their_definitions_on_real_requests() -> None:
    """ROUGE-L, node and edge F1 agree to 1e-9 on 1,400 perturbed real plans, parameters on 56."""
    desc = json.loads(need("tools/ultratool_tool_desc.json").read_text())
    lines = need("tools/ultratool_data.json").read_text().splitlines()[:200]
    made = [Example(str(i), example({**json.loads(line), "tool_desc": desc})) for i, line in enumerate(lines)]
    pairs = 0
    for i, row in enumerate(made):
        for tools in perturbed(row["nodes"], made[i - 1]["nodes"]):
            links = list(pairwise(tools))
            said = selection(tools, *links)
            right = {tuple(link) for link in row["links"]}
            assert scoring.node_f1(said, row) == pytest.approx(f1(set(tools), set(row["nodes"])), abs=1e-9)
            assert scoring.edge_f1(said, row) == pytest.approx(f1(set(links), right), abs=1e-9)
            pairs += 1
        for steps in list(perturbed(row["steps"], made[i - 1]["steps"]))[:: 1 if i < 20 else 3]:
            expected = rouge_l(" ".join(steps), " ".join(row["steps"]))
            assert scoring.steps_rouge_l(steps, row) == pytest.approx(expected, abs=1e-9)
    assert pairs == 1400
    desc = json.loads(need("tools/taskbench_dailylife_tool_desc.json").read_text())
    lines = need("tools/taskbench_dailylife_rows.jsonl").read_text().splitlines()
    made = [Example(str(i), example({**json.loads(line), "tool_desc": desc})) for i, line in enumerate(lines)]
    for i, row in enumerate(made):
        for triples in perturbed(row["arguments"], made[i - 1]["arguments"]):
            calls = [{"tool": t, "arguments": [{"name": n, "value": v}]} for t, n, v in triples]
            names, values = {(t, n) for t, n, _ in row["arguments"]}, {tuple(a) for a in row["arguments"]}
            assert scoring.parameter_name_f1(calls, row) == pytest.approx(
                f1({(t, n) for t, n, _ in triples}, names), abs=1e-9
            )
            assert scoring.parameter_value_f1(calls, row) == pytest.approx(
                f1({tuple(t) for t in triples}, values), abs=1e-9
            )
    assert scoring.parameter_value_f1(None, made[0]) == 0.0


def test_real_rows_load_and_render() -> None:
    """UltraTool's 3,527 rows load but for those that name a tool that is not described; all stages render."""
    spec = with_data(load_spec(FAMILY / "ultratool.yaml"), need("tools/ultratool_data.json"), 200, 300)
    splits = load_splits(spec)
    assert (len(splits.search), len(splits.test)) == (200, 300)
    daily = with_data(
        load_spec(FAMILY / "taskbench_dailylife.yaml"), need("tools/taskbench_dailylife_rows.jsonl"), 4, 4
    )
    for made in load_splits(daily).search:
        outputs = {"decompose": made["steps"], "select": selection(made["nodes"])}
        texts = [render(stage, made, outputs)["messages"][0]["content"] for stage in daily.stages]
        assert all(made["request"][:200] in text for text in texts)
        assert all(f"- {name}: " in texts[2] for name in made["nodes"])
        for stage in daily.stages[1:]:
            render(stage, made, dict.fromkeys(outputs))
