"""Examples from files, the hub and Python, and every way a dataset is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipelines import (
    BudgetSpec,
    BuiltinMetric,
    DatasetSpec,
    Example,
    LinesParser,
    ModelSpec,
    PipelineSpec,
    SetVote,
    SpecError,
    StageSpec,
    examples_from_rows,
    load_examples,
    load_spec,
)
from pipelines.dataset.rows import read_file
from pipelines.dataset.splits import examples_digest, load_splits
from pipelines.errors import DatasetError, MissingDependency

SEARCH: list[dict[str, Any]] = [
    {"id": "s1", "question": "Who?", "candidates": ["A.", "B."], "evidence": ["A."], "answer": "A"},
    {"id": "s2", "question": "Where?", "candidates": ["C."], "evidence": None, "answer": ["C", "c"]},
]
TEST: list[dict[str, Any]] = [
    {"id": "t1", "question": "When?", "candidates": ["D."], "evidence": ["D."], "answer": "D"}
]


def spec_in(root: Path, prompt: str = "{{ question }}", **dataset: Any) -> PipelineSpec:
    numbers: dict[str, Any] = {"max_samples": 2, "prompt_tokens": 9, "generated_tokens": 9, "models": ("m",)}
    retrieve = StageSpec(
        name="retrieve",
        prompt="{{ question }} {{ candidates | join }}",
        parser=LinesParser(allowed="candidates"),
        aggregator=SetVote(),
        metric=BuiltinMetric(kind="set_f1", label="evidence"),
        **numbers,
    )
    answer = StageSpec(name="answer", prompt=prompt + "{{ retrieve | join }}", **numbers)
    return PipelineSpec(
        name="p",
        stages=(retrieve, answer),
        models={"m": ModelSpec(base_url="http://localhost:1/v1", active_params=1e6)},
        dataset=DatasetSpec(**{"search": "search.jsonl", "test": "test.jsonl", "id_field": "id", **dataset}),
        metric=BuiltinMetric(kind="exact_match", label="answer"),
        budget=BudgetSpec(units=1),
        root=root,
    )


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "search.jsonl", SEARCH)
    write(tmp_path / "test.jsonl", TEST)
    return tmp_path


def test_splits_load_in_order(root: Path) -> None:
    """Each split gives its rows in order, under their ids, and reads like a mapping."""
    examples = load_examples(spec_in(root), "search")
    assert [example.id for example in examples] == ["s1", "s2"]
    assert examples[0]["answer"] == "A" and dict(examples[1]) == SEARCH[1]
    assert load_examples(spec_in(root), "test") == [Example("t1", TEST[0])]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_formats_give_the_same_examples(root: Path, suffix: str) -> None:
    """A JSON list, JSON lines under either suffix, and Parquet with nested values are the same dataset."""
    rows = [{**row, "answer": "A"} for row in SEARCH]
    write(root / "lines.jsonl", rows)
    file = root / f"data.{suffix}"
    if suffix == "parquet":
        duckdb.sql(f"COPY (FROM read_json('{root}/lines.jsonl')) TO '{file}' (FORMAT parquet)")
    else:
        file.write_text(
            json.dumps(rows, indent=1) if suffix == "json" else (root / "lines.jsonl").read_text()
        )
    expected = load_examples(spec_in(root, search="lines.jsonl"), "search")
    assert load_examples(spec_in(root, search=file.name), "search") == expected
    (root / "lines.json").write_text((root / "lines.jsonl").read_text())
    assert load_examples(spec_in(root, search="lines.json"), "search") == expected


def test_csv_is_text_with_row_numbers_for_ids(root: Path) -> None:
    """Cells of a CSV are text, quoted line breaks kept; without an id field the row's number is the id."""
    (root / "a.csv").write_text('question,answer\n"Who\nis it?",7\nWhere?,x\n')
    (root / "b.csv").write_text("question,answer\nWhen?,y\n")
    plain = spec_in(root, search="a.csv", test="b.csv", id_field=None)
    alone = plain.stage("answer").model_copy(update={"prompt": "{{ question }}", "inputs": ()})
    only = PipelineSpec(**{**dict(plain), "stages": (alone,)})
    assert load_examples(only, "search") == [
        Example("1", {"question": "Who\nis it?", "answer": "7"}),
        Example("2", {"question": "Where?", "answer": "x"}),
    ]


def changed(**fields: Any) -> list[dict[str, Any]]:
    return [SEARCH[0], {**SEARCH[1], **fields}]


def without(field: str) -> list[dict[str, Any]]:
    return [SEARCH[0], {key: value for key, value in SEARCH[1].items() if key != field}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (without("question"), "field 'question' is missing (the row has id, candidates, evidence, answer)"),
        (
            changed(question=None),
            "field 'question' must not be null; the prompt of stage 'retrieve' needs it",
        ),
        (changed(candidates="C."), "field 'candidates' must be a list of texts, got 'C.'"),
        (changed(candidates=[]), "field 'candidates' must be a list of texts, got []"),
        (without("answer"), "field 'answer' is missing"),
        (changed(answer=None), "field 'answer' must not be null; the pipeline's metric needs it"),
        (without("evidence"), "field 'evidence' is missing"),
        (changed(evidence="C."), "field 'evidence' must be a list, got 'C.'; the metric of stage 'retrieve'"),
        (changed(id="s1"), "ids must differ, got 's1' again (first "),
        (without("id"), "the id field 'id' must be text or an integer, got None"),
        (changed(question="\ud800"), "field 'question' must be JSON-able"),
    ],
)
def test_bad_rows_are_named_with_file_and_line(root: Path, rows: list[dict[str, Any]], message: str) -> None:
    """A row that lacks what a prompt, parser or metric needs is one line with file, row and who needs it."""
    write(root / "search.jsonl", rows)
    with pytest.raises(DatasetError) as caught:
        load_examples(spec_in(root), "search")
    text = str(caught.value)
    assert text.startswith(f"{root}/search.jsonl:2: ") and message in text and "\n" not in text


def test_field_that_is_a_stage_says_how_to_get_its_output(root: Path) -> None:
    """A prompt that uses a stage which is no input of it is told to name it there."""
    spec = spec_in(root)
    stages = (spec.stage("retrieve"), spec.stage("answer").model_copy(update={"name": "draft"}))
    last = spec.stage("answer").model_copy(update={"inputs": ("draft",)})
    with pytest.raises(
        SpecError,
        match=r"'answer' names 'retrieve', which no row has.*output of stage 'retrieve'.*the inputs",
    ):
        load_examples(PipelineSpec(**{**dict(spec), "stages": (*stages, last)}), "search")


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(
    ("typo", "line", "message"),
    [
        (
            ("{{ question }}", "{{ qestion }}"),
            6,
            "stages[only].prompt: the prompt of stage 'only' names 'qes",
        ),
        (
            ("label: answer", "label: anser"),
            12,
            "metric.label: the pipeline's metric names 'anser', which no",
        ),
        (
            ("allowed: tones", "allowed: tone"),
            7,
            "stages[only].parser.allowed: the parser of stage 'only' na",
        ),
    ],
)
def test_a_field_that_no_row_has_is_the_specs_fault(
    tmp_path: Path, typo: tuple[str, str], line: int, message: str, pool: bool
) -> None:
    """A typo is told with the spec's file and line, the stage and the field, and what the rows have."""
    rows = [{"question": f"q{i}", "answer": "a", "tones": ["a", "b"]} for i in range(8)]
    write(tmp_path / "a.jsonl", rows[:4])
    write(tmp_path / "b.jsonl", rows[4:])
    write(tmp_path / "pool.jsonl", rows)
    data = "{pool: pool.jsonl, search: 4, test: 4}" if pool else "{search: a.jsonl, test: b.jsonl}"
    text = f"""\
name: typos
models:
  m: {{base_url: "http://127.0.0.1:9/v1", active_params: 1e9}}
stages:
  - name: only
    prompt: "{{{{ question }}}}"
    parser: {{kind: choice, allowed: tones}}
    models: [m]
    max_samples: 2
    prompt_tokens: 8
    generated_tokens: 8
metric: {{kind: exact_match, label: answer}}
dataset: {data}
budget: {{units: 10}}
"""
    (tmp_path / "pipeline.yaml").write_text(text)
    assert load_splits(load_spec(tmp_path / "pipeline.yaml")).search
    (tmp_path / "pipeline.yaml").write_text(text.replace(*typo))
    with pytest.raises(SpecError) as caught:
        load_splits(load_spec(tmp_path / "pipeline.yaml"))
    assert f"pipeline.yaml:{line}: {message}" in str(caught.value)
    assert "the rows have question, answer, tones" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '{"a": 1}\n{"a": \n', "x.jsonl:2: a line must be one JSON object"),
        ("x.jsonl", "[1]\n", "x.jsonl:1: a row must be a mapping of fields, got [1]"),
        ("x.json", '[{"a": 1},\n{]', "x.json:2: must be JSON"),
        (
            "x.jsonl",
            '{"a": 1}\n{"a": 1, "a": 2}\n',
            "x.jsonl:2: a key must stand once in an object, got 'a' twice",
        ),
        (
            "x.jsonl",
            '{"a": {"b": 1, "b": 1}}\n',
            "x.jsonl:1: a key must stand once in an object, got 'b' twice",
        ),
        ("x.json", ' [{"a": 1} ,\n\n {"b": [{"c": 1,\n"c": 2}]}]', "x.json:3: row 2: a key must stand once"),
        ("x.csv", "a,b\n1,2\n1\n", "x.csv:3: a row must have 2 cells, got 1"),
        ("x.csv", "a,a\n1,2\n", "x.csv:1: column names must differ"),
        ("x.parquet", "not parquet", "x.parquet: must be Parquet"),
        ("x.xlsx", "", "x.xlsx: must end in .json, .jsonl, .csv, .parquet, got '.xlsx'"),
    ],
)
def test_broken_files_are_refused(root: Path, name: str, text: str, message: str) -> None:
    """A file that is not what its suffix says is refused with its name and, where there is one, the line."""
    (root / name).write_text(text)
    with pytest.raises(DatasetError) as caught:
        load_examples(spec_in(root, search=name), "search")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_and_empty_splits_are_refused(root: Path) -> None:
    """A split whose file is missing or empty is refused under the spec's field, whichever split is read."""
    with pytest.raises(SpecError, match=r"^dataset\.test: must be a file that exists, got 'gone.jsonl'"):
        load_examples(spec_in(root, test="gone.jsonl"), "search")
    (root / "empty.jsonl").write_text("\n")
    with pytest.raises(SpecError, match=r"^dataset\.search: must have at least one row"):
        load_examples(spec_in(root, search="empty.jsonl"), "test")


def test_test_rows_must_not_repeat_search_rows(root: Path) -> None:
    """A test row with the inputs of a search row is refused, whatever its id and labels."""
    write(root / "test.jsonl", [*TEST, {**SEARCH[1], "id": "t2", "answer": "Z"}])
    with pytest.raises(DatasetError, match=r"test\.jsonl:2: a test row must not repeat .*search\.jsonl:2"):
        load_examples(spec_in(root), "search")


def test_inputs_need_no_labels(root: Path) -> None:
    """New inputs are checked for what prompts and parsers need, not for gold values or ids."""
    rows = [{"question": "Who?", "candidates": ["A."]}, {"question": "Where?", "candidates": ["B."]}]
    assert [e.id for e in examples_from_rows(spec_in(root), rows)] == ["1", "2"]
    with pytest.raises(DatasetError, match=r"^inputs\.jsonl: row 1: field 'candidates' is missing"):
        examples_from_rows(spec_in(root), [{"question": "Who?"}], source="inputs.jsonl")
    with pytest.raises(DatasetError, match=r"'answer' is missing|'evidence' is missing"):
        examples_from_rows(spec_in(root), rows, labels=True)


def test_digest_of_examples_follows_their_content() -> None:
    """The digest changes with a field and with the order, and not with the order of fields."""
    one, two = Example("1", {"a": 1, "b": 2}), Example("2", {"a": 1})
    assert examples_digest([one, two]) == examples_digest([Example("1", {"b": 2, "a": 1}), two])
    assert len({examples_digest(e) for e in ([one, two], [two, one], [one], [])}) == 4


def test_hub_dataset_with_split_slices(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever datasets.load_dataset takes is read by split, slices included; its failures are one line."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
    hub = root / "hub"
    hub.mkdir()
    write(hub / "train.jsonl", [{**row, "answer": "x"} for row in SEARCH] + [{**TEST[0]}])
    spec = spec_in(root, hub="hub", search="train[:2]", test="train[2:]")
    assert [example.id for example in load_examples(spec, "search")] == ["s1", "s2"]
    assert [example.id for example in load_examples(spec, "test")] == ["t1"]
    with pytest.raises(DatasetError, match=r"split 'nope': can't be loaded: ") as caught:
        load_examples(spec_in(root, hub="hub", search="nope", test="train"), "search")
    assert "\n" not in str(caught.value)


def test_hub_without_the_library_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the datasets library a hub dataset names the command that installs it."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependency, match=r"pip install '.*\[datasets\]'"):
        load_examples(spec_in(root, hub="org/name", search="train", test="test"), "search")


def test_a_csv_may_hold_long_texts_other_separators_and_lists(tmp_path: Path) -> None:
    """Cells over 131,072 characters; semicolons or tabs; columns of lists as JSON or Python writes them."""
    long = "word " * 40_000
    (tmp_path / "long.csv").write_text(f'text,label\n"{long}",x\n')
    assert read_file(tmp_path / "long.csv")[0].fields == {"text": long, "label": "x"}
    (tmp_path / "semicolons.csv").write_text('text;label\n"one; two, three";x\n')
    assert read_file(tmp_path / "semicolons.csv")[0].fields == {"text": "one; two, three", "label": "x"}
    (tmp_path / "tabs.csv").write_text("text\tlabel\none, two\tx\n")
    assert read_file(tmp_path / "tabs.csv")[0].fields == {"text": "one, two", "label": "x"}
    lists = """json,python,mixed\n"[""a"", ""b""]","['a', ""it's""]",[1]\n[],[],[see note]\n"""
    (tmp_path / "lists.csv").write_text(lists)
    first, second = read_file(tmp_path / "lists.csv")
    assert first.fields == {"json": ["a", "b"], "python": ["a", "it's"], "mixed": "[1]"}
    assert second.fields == {"json": [], "python": [], "mixed": "[see note]"}


def test_a_folder_of_save_to_disk_is_read(tmp_path: Path) -> None:
    """A Dataset's folder, or one split of a DatasetDict's; the latter without a split names them."""
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"question": "q", "passages": ["a", "b"]}])
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "several")
    expected = {"question": "q", "passages": ["a", "b"]}
    assert [row.fields for row in read_file(tmp_path / "one")] == [expected]
    assert [row.fields for row in read_file(tmp_path / "several/train")] == [expected]
    with pytest.raises(DatasetError, match=r"several splits; name one: .*several/test, .*several/train"):
        read_file(tmp_path / "several")
    (tmp_path / "other").mkdir()
    with pytest.raises(DatasetError, match="save_to_disk"):
        read_file(tmp_path / "other")
