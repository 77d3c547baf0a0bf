"""Looking at a store that another process, or this one, is writing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from datastore import ReadOnlyStore, Store, StoreLocked
from datastore.snapshot import live_path
from tests.datastore import made

READ = """
import sys
from datastore import Store
with Store.read(sys.argv[1]) as store:
    numbers = [trial.number for trial in store.trials("run-1")]
    print(store.as_of is not None, numbers, store.run_cost("run-1").samples_drawn)
"""


async def test_a_reader_sees_a_live_run(store: Store, path: Path) -> None:
    """While a writer has the file, a reader elsewhere sees its runs, trials, costs and bank summary."""
    prompt = made.prompt()
    store.start_run(made.run())
    store.begin_trial(made.trial(0))
    await store.put_samples(
        prompt, [made.sample(prompt, i) for i in range(3)], made.payment(prompt, samples_drawn=3)
    )
    await store.put_stage_results([made.stage_result("a")])
    await store.put_scores([made.score("a", None)])
    store.put_insights([made.insight(0)])
    store.finish_trial(made.trial(0, score=0.5))
    before = time.time()
    store.refresh_live_snapshot()
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout == "True [0] 3\n"
    with Store.read(path) as reader:
        assert reader.as_of is not None and before <= reader.as_of <= time.time()
        assert reader.runs() == store.runs()
        assert reader.trials("run-1") == [made.trial(0, score=0.5)]
        assert reader.stage_results("run-1-0000") == [made.stage_result("a")]
        assert reader.scores("run-1-0000") == {"a": made.score("a", None)}
        assert reader.insights("run-1") == [made.insight(0)]
        assert reader.run_cost("run-1") == store.run_cost("run-1")
        assert reader.bank_summary() == store.bank_summary()
        assert await reader.get_samples([prompt.key]) == {prompt.key: []}
        with pytest.raises(ReadOnlyStore):
            reader.refresh_live_snapshot()


async def test_a_reader_keeps_what_it_opened(store: Store, path: Path) -> None:
    """Readers that opened earlier keep their snapshot while newer ones replace it."""
    store.start_run(made.run())
    store.refresh_live_snapshot()
    with Store.read(path) as early:
        store.begin_trial(made.trial(0))
        store.refresh_live_snapshot()
        with Store.read(path) as late:
            assert (early.trials("run-1"), late.trials("run-1")) == ([], [made.trial(0)])
            assert late.as_of is not None and early.as_of is not None and late.as_of >= early.as_of


async def test_the_snapshot_comes_by_itself(store: Store, path: Path) -> None:
    """Soon after a trial ends, and later after anything else, the snapshot follows by itself."""
    store.start_run(made.run())
    store.finish_trial(made.trial(0, score=0.5))
    await store.put_scores([made.score("a", 1.0)])
    for _ in range(600):
        await asyncio.sleep(0.1)
        with Store.read(path) as reader:
            if reader.trials("run-1") and reader.scores("run-1-0000"):
                break
    else:
        pytest.fail("no snapshot with the trial and its score")


def test_no_snapshot_yet(store: Store, path: Path) -> None:
    """Before the first snapshot a reader is told that the store is in use; a stale one is not shown."""
    with pytest.raises(StoreLocked, match="this process"):
        Store.read(path)
    store.close()
    live_path(path).write_bytes(b"of a writer that was killed")
    with Store.read(path) as reader:
        assert reader.as_of is None
    with Store.open(path), pytest.raises(StoreLocked):
        Store.read(path)


def test_the_snapshot_goes_with_the_writer(store: Store, path: Path, tmp_path: Path) -> None:
    """After close only the database is left, and a reader opens that."""
    store.start_run(made.run())
    store.refresh_live_snapshot()
    assert live_path(path).exists()
    store.close()
    assert list(tmp_path.iterdir()) == [path]
    with Store.read(path) as reader:
        assert reader.as_of is None and len(reader.runs()) == 1


def test_a_snapshot_is_a_plain_database(store: Store, path: Path) -> None:
    """Any DuckDB client can read the snapshot file; it holds no prompts, samples and payments."""
    store.start_run(made.run())
    store.refresh_live_snapshot()
    with duckdb.connect(live_path(path), read_only=True) as connection:
        names = {row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        assert names >= {"runs", "trials", "bank_summary", "run_costs", "snapshot"}
        assert not names & {"prompts", "samples", "payments"}


async def test_a_snapshot_that_fails_disturbs_nobody(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the snapshot cannot be written, writes go on and a warning is logged."""
    live_path(path).mkdir()
    store.start_run(made.run())
    for _ in range(600):
        await store.put_scores([made.score("a", 1.0)])
        if "no live snapshot" in caplog.text:
            break
        await asyncio.sleep(0.1)
    assert "no live snapshot" in caplog.text
    assert len(store.runs()) == 1
    live_path(path).rmdir()
