"""Banks: to Parquet and back, attached beside a store, and refused when they are not sound."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datastore import BankError, BankRow, Prompt, Sample, Store, StoreError, StoreLocked, make_prompt
from tests.datastore import made

TEXT = st.text(max_size=20)
DRAWS = st.dictionaries(
    st.integers(0, 2**31 - 1),
    st.tuples(TEXT, st.integers(0, 2**31 - 1), st.none() | st.floats(-50, 0, width=32), TEXT),
    max_size=4,
)
PROMPTS = st.dictionaries(
    st.tuples(TEXT, TEXT), st.tuples(st.none() | st.integers(0, 10**6), DRAWS), max_size=5
)


def _drawn(prompt: Prompt, draws: dict[int, tuple[str, int, float | None, str]]) -> list[Sample]:
    return [
        Sample(
            prompt_key=prompt.key,
            index=index,
            text=text,
            generated_tokens=tokens,
            mean_logprob=logprob,
            finish_reason=reason,
            run_id=None,
            request_id=None,
        )
        for index, (text, tokens, logprob, reason) in sorted(draws.items())
    ]


@given(content=PROMPTS)
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_export_and_import_give_the_same(tmp_path: Path, content: Any) -> None:
    """What was exported is, once imported or attached elsewhere, what it was, run and request aside."""
    bank = tmp_path / "bank.parquet"
    samples: dict[str, list[Sample]] = {}
    prompts: dict[str, Prompt] = {}
    for (model, question), (tokens, draws) in content.items():
        prompt = make_prompt(model, {"prompt": question}, {"temperature": 1.0}, tokens)
        if draws:
            prompts[prompt.key], samples[prompt.key] = prompt, _drawn(prompt, draws)
    count = sum(map(len, samples.values()))

    async def there_and_back() -> None:
        for name in ("from", "imported", "attached"):
            (tmp_path / f"{name}.duckdb").unlink(missing_ok=True)
        with Store.open(tmp_path / "from.duckdb") as store:
            for key, of_key in samples.items():
                await store.put_samples(prompts[key], [replace(sample, run_id="r") for sample in of_key])
            assert store.export_bank(bank) == count
            summary = store.bank_summary()
        with Store.open(tmp_path / "imported.duckdb") as store:
            assert store.import_bank(bank) == count
            assert store.import_bank(bank) == 0
            assert await store.get_samples(list(samples)) == samples
            assert [await store.get_prompt(key) for key in prompts] == list(prompts.values())
            assert store.bank_summary() == summary
        with Store.open(tmp_path / "attached.duckdb") as store:
            store.attach_bank(bank)
            assert await store.get_samples(list(samples)) == samples
            assert [await store.get_prompt(key) for key in prompts] == list(prompts.values())
            assert [replace(row, source="store") for row in store.bank_summary()] == summary

    asyncio.run(there_and_back())


async def test_store_and_bank_are_merged(store: Store, tmp_path: Path) -> None:
    """Look-ups find what the store and the banks have, index by index; the store's own sample comes first."""
    prompt, only_banked = made.prompt(0), made.prompt(1)
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    for path, indices in ((first, (0, 1, 2)), (second, (2, 3))):
        with Store.open(path.with_suffix(".duckdb")) as other:
            await other.put_samples(prompt, [made.sample(prompt, i, f"{path.stem} {i}") for i in indices])
            await other.put_samples(only_banked, [made.sample(only_banked, 0)])
            other.export_bank(path)
    await store.put_samples(prompt, [made.sample(prompt, 1, "own 1")])
    store.attach_bank(first)
    store.attach_bank(second)

    async def texts() -> list[str]:
        return [sample.text for sample in (await store.get_samples([prompt.key]))[prompt.key]]

    assert await texts() == ["first 0", "own 1", "first 2", "second 3"]
    await store.put_samples(prompt, [made.sample(prompt, i, f"own {i}") for i in (1, 4)])
    assert await texts() == ["first 0", "own 1", "first 2", "second 3", "own 4"]
    (banked,) = (await store.get_samples([only_banked.key]))[only_banked.key]
    assert (banked.run_id, banked.request_id) == (None, None)
    assert [(row.source, row.samples) for row in store.bank_summary()] == [
        ("store", 2),
        (str(first), 4),
        (str(second), 3),
    ]


async def test_a_prompt_of_both_is_extended(store: Store, tmp_path: Path) -> None:
    """A prompt new to the store but in a bank keeps the bank's samples when the store adds its own."""
    prompt = made.prompt()
    with Store.open(tmp_path / "other.duckdb") as other:
        await other.put_samples(prompt, [made.sample(prompt, i) for i in range(2)])
        other.export_bank(tmp_path / "bank.parquet")
    store.attach_bank(tmp_path / "bank.parquet")
    await store.put_samples(prompt, [made.sample(prompt, 2)])
    assert [s.index for s in (await store.get_samples([prompt.key]))[prompt.key]] == [0, 1, 2]


async def test_another_store_is_a_bank_too(store: Store, tmp_path: Path) -> None:
    """A DuckDB store can be attached and imported like a Parquet bank, and is free again at once."""
    prompt, other_path = made.prompt(), tmp_path / "other.duckdb"
    with Store.open(other_path) as other:
        await other.put_samples(prompt, [made.sample(prompt, 0)])
        with pytest.raises(StoreLocked, match=r"other\.duckdb"):
            store.attach_bank(other_path)
    store.attach_bank(other_path)
    with Store.open(other_path):
        pass
    assert len((await store.get_samples([prompt.key]))[prompt.key]) == 1
    assert store.import_bank(other_path) == 1


async def test_import_adds_what_is_missing(store: Store, tmp_path: Path) -> None:
    """Import leaves the store's own samples, adds the others, and brings models and token counts along."""
    prompt = made.prompt(prompt_tokens=None)
    bank = tmp_path / "bank.parquet"
    with Store.open(tmp_path / "other.duckdb") as other:
        other.put_models([made.model("small")])
        await other.put_samples(made.prompt(), [made.sample(prompt, i, "imported") for i in range(3)])
        other.export_bank(bank)
    await store.put_samples(prompt, [made.sample(prompt, 1, "own")])
    assert store.import_bank(bank) == 2
    found = (await store.get_samples([prompt.key]))[prompt.key]
    assert [(s.text, s.run_id) for s in found] == [("imported", None), ("own", "run-1"), ("imported", None)]
    assert await store.get_prompt(prompt.key) == made.prompt()
    await store.put_samples(prompt, [made.sample(prompt, i, "late") for i in range(4)])
    assert [s.text for s in (await store.get_samples([prompt.key]))[prompt.key]][-1] == "late"
    assert store.sql("SELECT count(*) AS n FROM samples").n[0] == 4
    assert [(m.key, m.active_params) for m in store.models()] == [("small", 3e9)]


async def test_export_of_one_run(store: Store, tmp_path: Path) -> None:
    """With a run id, only the samples which that run paid for are written."""
    prompt = made.prompt()
    await store.put_samples(prompt, [made.sample(prompt, 0), made.sample(prompt, 1, run_id="run-2")])
    assert store.export_bank(tmp_path / "one.parquet", run_id="run-2") == 1
    assert store.export_bank(tmp_path / "none.parquet", run_id="run-3") == 0
    table = pq.read_table(tmp_path / "one.parquet")
    assert [sample["index"] for sample in table["samples"][0].as_py()] == [1]


def _table(rows: int = 3) -> pa.Table:
    prompts = [made.prompt(number) for number in range(rows)]
    return pa.table(
        {
            "prompt_key": [p.key for p in prompts],
            "model_key": [p.model_key for p in prompts],
            "model_name": [p.model_key for p in prompts],
            "model_revision": pa.nulls(rows, pa.string()),
            "active_params": [3e9] * rows,
            "content": [p.content for p in prompts],
            "sampling": [p.sampling for p in prompts],
            "prompt_tokens": [10] * rows,
            "samples": [[_a_sample(0), _a_sample(1)]] * rows,
        }
    )


def _a_sample(index: int | None) -> dict[str, Any]:
    return {
        "index": index,
        "text": "t",
        "generated_tokens": 1,
        "mean_logprob": np.float32(-1),
        "finish_reason": "stop",
    }


def _with(column: str, row: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row] = value
        return table.set_column(table.schema.names.index(column), column, [values])

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_with("content", 1, '{"prompt":"other"}'), "row 2: prompt_key must be the hash"),
        (_with("prompt_key", 2, "0" * 32), "row 3: prompt_key must be the hash"),
        (_with("sampling", 0, None), "row 1: sampling must be given"),
        (_with("model_name", 2, "large"), "row 3: model_key must be name@revision"),
        (_with("samples", 1, [_a_sample(0), _a_sample(-1)]), r"row 2: samples.index must be >= 0, got -1"),
        (_with("samples", 2, [_a_sample(4), _a_sample(4)]), "row 3: samples.index must be unique, 4 is"),
        (_with("samples", 1, [_a_sample(None)]), "row 2: samples.index must be given"),
        (_with("samples", 1, None), "row 2: samples must be given"),
        (lambda table: pa.concat_tables([table, table.slice(1, 1)]), "row 4: a prompt may have one row"),
        (lambda table: table.drop_columns(["sampling"]), "must have the column sampling"),
        (_with("prompt_tokens", 0, 2.5), "must have the types"),
    ],
)
def test_an_unsound_bank_is_refused(
    store: Store, tmp_path: Path, change: Callable[[pa.Table], pa.Table], says: str
) -> None:
    """A bank whose keys are not the hashes of their parts, or whose rows are not sound, is refused by row."""
    bank = tmp_path / "bank.parquet"
    pq.write_table(_table(), bank)
    store.attach_bank(bank)
    pq.write_table(change(_table()), bank)
    for take in (store.attach_bank, store.import_bank):
        with pytest.raises(BankError, match=says) as refused:
            take(bank)
        assert str(refused.value).startswith(str(bank)) and "\n" not in str(refused.value)
    assert store.sql("SELECT count(*) AS n FROM prompts").n[0] == 0


def test_files_that_are_no_banks(store: Store, tmp_path: Path) -> None:
    """A missing, foreign or truncated file and a directory each give a clear error that names them."""
    whole, cut, text = tmp_path / "whole.parquet", tmp_path / "cut.parquet", tmp_path / "notes.txt"
    pq.write_table(_table(), whole)
    cut.write_bytes(whole.read_bytes()[:-100])
    text.write_text("hello")
    for path in (tmp_path / "absent.parquet", cut, text, tmp_path):
        with pytest.raises(StoreError, match=path.name):
            store.attach_bank(path)


async def test_export_is_whole_or_absent(store: Store, tmp_path: Path) -> None:
    """An export that fails leaves the former file as it was, and no remains."""
    target = tmp_path / "folder" / "bank.parquet"
    with pytest.raises(StoreError, match=r"bank\.parquet"):
        store.export_bank(target)
    target.parent.mkdir()
    prompt = made.prompt()
    await store.put_samples(prompt, [made.sample(prompt, 0)])
    store.export_bank(target)
    before = made.digest(target)
    code = f"""
import resource
from datastore import DiskFull, Store
with Store.read({str(store.path)!r}) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        store.export_bank({str(target)!r})
    except DiskFull as error:
        print(error)
"""
    store.close()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout
    assert made.digest(target) == before
    assert list(target.parent.iterdir()) == [target]


async def test_a_bank_in_several_row_groups(store: Store, tmp_path: Path) -> None:
    """Every prompt of a bank is found, in whatever row group or page it lies."""
    bank = tmp_path / "bank.parquet"
    table = _table(100)
    pq.write_table(table, bank, row_group_size=7)
    store.attach_bank(bank)
    found = await store.get_samples(table["prompt_key"].to_pylist())
    assert all(len(samples) == 2 for samples in found.values())
    assert store.bank_summary() == [
        BankRow(
            source=str(bank),
            model_key="small",
            prompts=100,
            samples=200,
            prompt_tokens=1000,
            generated_tokens=200,
        )
    ]
