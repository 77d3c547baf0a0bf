"""Search and test drawn from one pool by a seed, raw rows prepared, bad ones left out and told."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines import BuiltinMetric, DatasetSpec, PipelineSpec, SpecError, load_spec
from pipelines.dataset.splits import load_splits, with_data
from pipelines.errors import DatasetError
from pipelines.spec.files import dump_spec, restore_spec, spec_digest
from tests.agenttts.small_specs import small_spec


def prepared(row: Mapping[str, Any]) -> dict[str, Any]:
    if not row["q"]:
        raise ValueError("no question")
    return {"id": row["n"], "question": row["q"], "answer": row["answers"][0]}


def spec_in(root: Path, **dataset: Any) -> PipelineSpec:
    settings = {"pool": "pool.jsonl", "search": 20, "test": 30, "prepare": prepared, **dataset}
    return small_spec().model_copy(
        update={
            "dataset": DatasetSpec(**settings),
            "metric": BuiltinMetric(kind="exact_match", label="answer"),
            "root": root,
        }
    )


def rows(count: int) -> list[dict[str, Any]]:
    return [{"n": f"r{i}", "q": f"question {i}?", "answers": [str(i)]} for i in range(count)]


def write(file: Path, found: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in found)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())


def test_the_seed_alone_decides_what_is_drawn(tmp_path: Path) -> None:
    """Splits are as large as asked for and apart; the same seed draws the same, another seed other rows."""
    write(tmp_path / "pool.jsonl", rows(80))
    first, again = load_splits(spec_in(tmp_path)), load_splits(spec_in(tmp_path))
    other = load_splits(spec_in(tmp_path, seed=1))
    assert (len(first.search), len(first.test)) == (20, 30) and not first.left_out
    assert {e["question"] for e in first.search}.isdisjoint(e["question"] for e in first.test)
    assert first == again and {e["id"] for e in first.search} != {e["id"] for e in other.search}
    more = load_splits(spec_in(tmp_path, search=20, test=40))
    assert more.search == first.search and more.test[:30] == first.test


def test_bad_rows_and_repeats_are_left_out_and_told(tmp_path: Path) -> None:
    """Rows that `prepare` refuses, that lack a label, or that ask again are in neither split; all named."""
    found = rows(60)
    found[3]["q"], found[4]["answers"] = "", []
    del found[5]["answers"]
    found.append({**found[7], "n": "again"})
    write(tmp_path / "pool.jsonl", found)
    splits = load_splits(spec_in(tmp_path, search=27, test=30))
    told = sorted(splits.left_out)
    assert len(told) == 4 and {e["id"] for e in (*splits.search, *splits.test)}.isdisjoint({"r3", "r4", "r5"})
    assert any("pool.jsonl:4: no question" in line for line in told)
    assert any("pool.jsonl:5: IndexError" in line for line in told)
    assert any("pool.jsonl:6: KeyError: 'answers'" in line for line in told)
    assert any("repeats the inputs of" in line for line in told)


def test_a_pool_that_does_not_do_is_refused(tmp_path: Path) -> None:
    """Too few rows, too many bad ones, a number without a pool, a file name with one."""
    write(tmp_path / "pool.jsonl", rows(40))
    with pytest.raises(SpecError, match="at most the 40 usable rows of the pool, got 20 \\+ 30"):
        load_splits(spec_in(tmp_path))
    write(tmp_path / "pool.jsonl", [*rows(40), *({"n": i, "q": ""} for i in range(20))])
    with pytest.raises(DatasetError, match="at most a tenth of the rows may be unusable, got"):
        load_splits(spec_in(tmp_path))
    document = (Path(__file__).parents[3] / "pipelines/zoo/pipeline.yaml").read_text()
    spec = tmp_path / "spec.yaml"
    (tmp_path / "prompts").symlink_to(Path(__file__).parents[3] / "pipelines/zoo/prompts")
    spec.write_text(document.replace("search: data/search.jsonl", "search: 20"))
    with pytest.raises(SpecError, match="a number of rows needs a pool, got 20"):
        load_spec(spec)
    spec.write_text(document.replace("search: data/search.jsonl", "pool: data/search.jsonl\n  search: 20"))
    with pytest.raises(SpecError, match="with a pool it is a number of rows, got"):
        load_spec(spec)


def test_another_file_takes_the_place_of_the_pool(tmp_path: Path) -> None:
    """--data reads a local file, packed or not, instead of the hub; the spec survives the store."""
    write(tmp_path / "other.jsonl.gz", rows(50))
    spec = with_data(
        spec_in(tmp_path, hub="nobody/nothing", config="x", pool="train"), tmp_path / "other.jsonl.gz"
    )
    assert len(load_splits(spec).test) == 30
    restored = restore_spec(dump_spec(spec))
    assert restored.dataset == spec.dataset and spec_digest(restored) == spec_digest(spec)
    with pytest.raises(SpecError, match=r"dataset\.pool: is not set"):
        with_data(small_spec(), tmp_path / "other.jsonl.gz")
