"""Files that change under way, break on the disk, or say what can't be: one line of error, no more lost."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datastore import BankError, FileReplaced, Store, StoreError
from datastore.bank import SCHEMA
from tests.datastore import made


def _other_file(path: Path) -> None:
    other = path.with_name("other.duckdb")
    with Store.open(other) as store:
        store.start_run(made.run("of the other"))
    os.replace(other, path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "moved": lambda path: path.rename(path.with_name("moved.duckdb")),
    "replaced": _other_file,
    "its directory deleted": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_file_that_goes_away_is_noticed_at_the_next_write(tmp_path: Path, change: str) -> None:
    """Every write after it is refused in one line, none is lost silently, and the store closes."""
    path = tmp_path / "folder" / "runs.duckdb"
    path.parent.mkdir()
    prompt = made.prompt()
    with Store.open(path) as store:
        await store.put_samples(prompt, [made.sample(prompt, 0)])
        CHANGES[change](path)
        for write in (
            lambda: store.put_samples(prompt, [made.sample(prompt, 1)]),
            lambda: store.put_payment(made.payment()),
            lambda: asyncio.to_thread(store.start_run, made.run()),
        ):
            with pytest.raises(FileReplaced, match=r"deleted, moved or replaced") as refused:
                await write()
            assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    if change == "moved":
        with Store.open(path.with_name("moved.duckdb")) as store:
            assert [s.index for s in (await store.get_samples([prompt.key]))[prompt.key]] == [0]
    if change == "replaced":
        with Store.open(path) as store:
            assert [run.run_id for run in store.runs()] == ["of the other"]


async def test_a_new_database_is_its_owners(tmp_path: Path) -> None:
    """The file, its log and its live snapshot; an older file keeps its permissions, its log has them too."""
    path = tmp_path / "runs.duckdb"
    before = os.umask(0o022)
    try:
        for mode in (0o600, 0o640):
            if path.exists():
                path.chmod(mode)
            with Store.open(path) as store:
                store.start_run(made.run(str(mode)))
                store.refresh_live_snapshot()
                modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
                assert modes == dict.fromkeys(("runs.duckdb", "runs.duckdb.wal", "runs.live.duckdb"), mode)
    finally:
        assert os.umask(before) == 0o022


def test_the_latest_run_is_the_last_that_was_begun(store: Store) -> None:
    """Also after the clock was set back, and where an earlier one was gone on with since."""
    for run_id, at in (("a", 300.0), ("b", 200.0), ("c", 100.0)):
        store.start_run(made.run(run_id, started_at=at))
    store.start_run(made.run("a", started_at=300.0))
    store.finish_run("b", "complete", "{}", 400.0)
    assert store.run().run_id == store.run("latest").run_id == "c"
    assert [run.run_id for run in store.runs()] == ["a", "b", "c"]


async def test_a_flipped_bit_is_one_line_or_nothing(tmp_path: Path) -> None:
    """Wherever a bit of a database or of a bank flips: a StoreError of one line, or what was stored."""
    path, bank = tmp_path / "whole.duckdb", tmp_path / "whole.parquet"
    prompts = [made.prompt(number) for number in range(30)]
    with Store.open(path) as store:
        store.start_run(made.run())
        for prompt in prompts:
            await store.put_samples(prompt, [made.sample(prompt, i, f"{i} é" * 50) for i in range(20)])
        whole = await store.get_samples([prompt.key for prompt in prompts])
        store.export_bank(bank)
    rng, refused = random.Random(7), dict.fromkeys((path, bank), 0)

    async def read(file: Path) -> dict[str, list[Any]]:
        if file.suffix == ".parquet":
            with Store.open(tmp_path / "empty.duckdb") as store:
                store.attach_bank(file)
                return await store.get_samples(list(whole))
        with Store.open(file) as store:
            assert [run.run_id for run in store.runs()] == ["run-1"]
            return await store.get_samples(list(whole))

    for source in (path, bank):
        content = source.read_bytes()
        for number in range(40):
            broken = bytearray(content)
            at = rng.randrange(len(content))
            broken[at] ^= 1 << rng.randrange(8)
            file = tmp_path / f"broken{number}{source.suffix}"
            file.write_bytes(broken)
            try:
                stored = await read(file)
            except StoreError as error:
                refused[source] += 1
                assert str(file) in str(error) and "\n" not in str(error), at
            else:
                texts = {key: [s.text for s in samples] for key, samples in stored.items()}
                assert texts == {key: [s.text for s in samples] for key, samples in whole.items()}, at
    assert min(refused.values()) > 5, refused


def _bank(tmp_path: Path, **changes: Any) -> Path:
    prompt = made.prompt(prompt_tokens=3)
    sample = {"index": 0, "text": "a", "generated_tokens": 1, "mean_logprob": -0.5, "finish_reason": "stop"}
    row = {
        "prompt_key": prompt.key,
        "model_key": "small",
        "model_name": "small",
        "model_revision": None,
        "active_params": 3e9,
        "content": prompt.content,
        "sampling": prompt.sampling,
        "prompt_tokens": 3,
    }
    good = made.prompt(1)
    first = {**row, "prompt_key": good.key, "content": good.content, "samples": [sample]}
    bad = {**row, "samples": [sample, {**sample, "index": 1}]}
    for name, value in changes.items():
        if name in row:
            bad[name] = value
        else:
            bad["samples"][1][name] = value  # type: ignore[index]
    path = tmp_path / "bank.parquet"
    pq.write_table(pa.Table.from_pylist([first, bad], SCHEMA), path)
    return path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generated_tokens", -1),
        ("prompt_tokens", -5),
        ("active_params", float("inf")),
        ("active_params", float("nan")),
        ("active_params", 0.0),
        ("mean_logprob", float("nan")),
        ("mean_logprob", 0.5),
        ("mean_logprob", float("-inf")),
    ],
)
def test_a_bank_with_impossible_numbers_is_refused(
    store: Store, tmp_path: Path, field: str, value: float
) -> None:
    """Attached or imported, with the row, the rule and the value; nothing of it is taken."""
    path = _bank(tmp_path, **{field: value})
    for take in (store.import_bank, store.attach_bank):
        with pytest.raises(
            BankError, match=rf"bank\.parquet: row 2: (samples\.)?{field} must be .*, got .*; correct"
        ):
            take(path)
    assert store.bank_summary() == []


def test_a_bank_of_possible_numbers_is_taken(store: Store, tmp_path: Path) -> None:
    """Nothing generated, a log-probability of 0, and one that nobody knows."""
    assert store.import_bank(_bank(tmp_path, generated_tokens=0, mean_logprob=0.0, active_params=None)) == 3
