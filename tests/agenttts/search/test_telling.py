"""A check warns of prompts that show a gold value, or nothing of the example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agenttts.search.check import check
from agenttts.search.telling import telling_prompts
from pipelines.examples import Example
from pipelines.spec.files import load_spec
from tests.agenttts.small_specs import SPEC, small_spec, write_examples

_FAMILIES = sorted(Path(__file__).parents[3].glob("pipelines/*/*.yaml"))
_ROW = Example("1", {"question": "q", "gold": "red"})


def warnings(stages: Sequence[dict[str, Any]], row: Example = _ROW, **spec: Any) -> list[str]:
    findings = list(telling_prompts(small_spec(stages=stages, **spec), [row]))
    assert all(finding.severity == "warning" for finding in findings)
    return [finding.line for finding in findings]


@pytest.mark.parametrize(
    "prompt",
    [
        {"prompt": "{{ question }} is {{ gold }}"},
        {"prompt": "{% if gold %}{{ question }}{% endif %}"},
        {"prompt": None, "messages": [{"role": "user", "content": "{{ question }} {{ gold | upper }}"}]},
    ],
)
def test_a_prompt_with_the_gold_value(prompt: dict[str, Any]) -> None:
    """A prompt that reads the label of the metric is a warning with stage, field and metric."""
    (line,) = warnings([prompt])
    assert line.startswith(("stages[retrieve].prompt: ", "stages[retrieve].messages[0].content: "))
    assert "stage 'retrieve' reads 'gold', the gold value of the pipeline's metric" in line


def test_labels_of_all_metrics() -> None:
    """The labels of a stage's own metric and of further metrics are gold values, too."""
    hop = {"prompt": "{{ question }} {{ hop }}", "metric": {"kind": "set_f1", "label": "hop"}}
    (line,) = warnings([hop])
    assert "reads 'hop', the gold value of the metric of stage 'retrieve'" in line
    further = {"short": {"kind": "token_f1", "label": "brief"}}
    (line,) = warnings([{"prompt": "{{ question }} {{ brief }}"}], metrics=further)
    assert "reads 'brief', the gold value of the metric 'short'" in line


def test_the_output_of_a_stage_that_is_named_like_the_label() -> None:
    """Among the inputs the name is the output, and no leak; else it is the label, as the remedy says."""
    later = {"prompt": "check {{ answer }} against {{ retrieve }}"}
    metric = {"kind": "exact_match", "label": "retrieve"}
    assert warnings([{}, {}, {**later, "inputs": ["retrieve", "answer"]}], metric=metric) == []
    (line,) = warnings([{}, {}, {**later, "inputs": ["answer"]}], metric=metric)
    assert "or name stage 'retrieve' among the inputs if its output is meant" in line


def test_what_scores_samples_may_read_the_gold_value() -> None:
    """A scorer that gets the whole example is no leak, nor is a fusion's prompt without the label."""
    scored = {"kind": "best_of_n", "scorer": {"python": "pipelines.software.scoring:shown_score"}}
    fused = {"kind": "fusion", "model": "small", "prompt": "{{ question }} {{ samples }}"}
    assert warnings([{"aggregator": scored}, {"aggregator": fused}]) == []
    (line,) = warnings([{"aggregator": {**fused, "prompt": "{{ samples }} {{ gold }}"}}])
    assert line.startswith("stages[retrieve].aggregator.prompt: ")


def test_a_parser_that_allows_gold_values_only() -> None:
    """A parser whose allowed values are the gold ones is a leak, too."""
    (line,) = warnings([{"parser": {"kind": "lines", "allowed": "gold"}}])
    assert line.startswith("stages[retrieve].parser.allowed: ")


@pytest.mark.parametrize("prompt", ["", "Hello", "{% for i in range(3) %}{{ i }}{% endfor %}"])
def test_a_constant_prompt(prompt: str) -> None:
    """A prompt that names no field and no input is a warning; one with an input alone is none."""
    (line,) = warnings([{"prompt": prompt}, {"prompt": "{{ retrieve }}"}])
    assert line.startswith("stages[retrieve].prompt: names no field of the rows and no input")


def test_an_output_that_hides_a_field() -> None:
    """A stage named like a field of the rows is a warning where a later stage reads that name."""
    row = Example("1", {**_ROW.fields, "retrieve": "a passage"})
    (line,) = warnings([{}, {"prompt": "{{ question }} {{ retrieve }}"}], row)
    assert line.startswith("stages[retrieve].name: is also a field of the rows; stage 'answer' reads")
    assert warnings([{}, {"prompt": "{{ question }}"}], row) == []


async def test_the_check_says_it_with_its_line(tmp_path: Path) -> None:
    """The check has the warning with the line of the file, also where the examples can't be read."""
    write_examples(tmp_path, 150, 20)
    file = tmp_path / "pipeline.yaml"
    text = SPEC.format(url="http://127.0.0.1:9/v1").replace("label: answer", "label: gold")
    file.write_text(text.replace("find {{ question }}", "find {{ question }} {{ gold }}"))
    (leak,) = await check(load_spec(file))
    assert leak.line.startswith(f"{file}:7: stages[retrieve].prompt: the prompt of stage 'retrieve' reads")
    (tmp_path / "test.jsonl").unlink()
    findings = await check(load_spec(file))
    assert leak in findings


@pytest.mark.parametrize("file", _FAMILIES, ids=[file.stem for file in _FAMILIES])
def test_the_families(file: Path) -> None:
    """No prompt of the pipelines in the box shows a gold value, and none is constant."""
    assert list(telling_prompts(load_spec(file), [])) == []
