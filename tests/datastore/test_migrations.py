"""Files of an older schema version are brought up to date when they are opened for writing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from datastore import NewerSchema, RunCost, Store, StoreError, migrations
from tests.datastore import made


def _version(store: Store) -> int:
    return int(store.sql("SELECT version FROM schema_version").version[0])


def test_an_older_file_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file goes through each newer step, keeps its rows, and is then too new for this version."""
    with Store.open(path) as store:
        assert _version(store) == migrations.current_version()
        store.start_run(made.run())
    now = migrations.current_version()
    steps = {
        **migrations.STEPS,
        now: "ALTER TABLE runs ADD COLUMN note VARCHAR; UPDATE runs SET note = 'old'",
        now + 1: "ALTER TABLE runs RENAME COLUMN note TO remark",
    }
    with monkeypatch.context() as newer:
        newer.setattr(migrations, "STEPS", steps)
        with pytest.raises(StoreError, match="open it once for writing"):
            Store.read(path)
        with Store.open(path) as store:
            assert _version(store) == now + 2
            assert store.runs() == [made.run()]
            assert store.sql("SELECT remark FROM runs").remark[0] == "old"
        Store.read(path).close()
    before = made.digest(path)
    with pytest.raises(NewerSchema, match=f"up to {now} can be read, the file has {now + 2}"):
        Store.open(path)
    assert made.digest(path) == before


_VERSION_3 = """
ALTER TABLE proposals DROP COLUMN n_examples;
DROP TABLE policy_results;
ALTER TABLE trials DROP COLUMN policy;
DROP VIEW run_costs;
DROP TABLE payments;
CREATE VIEW run_costs AS SELECT 1 AS derived;
ALTER TABLE models ALTER COLUMN active_params SET NOT NULL;
ALTER TABLE stage_results ALTER COLUMN flops SET NOT NULL;
UPDATE schema_version SET version = 3;
"""


async def test_a_run_of_before_payments_keeps_its_cost(path: Path) -> None:
    """A file of version 3 gets payments that sum up to what its samples told, and the newest schema."""
    prompt = made.prompt()
    with Store.open(path) as store:
        await store.put_samples(prompt, [made.sample(prompt, i) for i in range(3)])
        await store.put_samples(prompt, [replace(made.sample(prompt, 3), request_id="another")])
        schema = store.sql("SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns()")
    with duckdb.connect(str(path)) as connection:
        connection.execute(_VERSION_3)
    with Store.open(path) as store:
        cost = RunCost(calls=2, samples_drawn=4, prompt_tokens=10, generated_tokens=12)
        assert store.run_cost("run-1") == cost
        store.put_models([replace(made.model(), active_params=None)])
        now = store.sql("SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns()")
        assert set(map(tuple, now.values)) == set(map(tuple, schema.values))


def test_what_an_older_file_holds_as_pruned_is_partial(path: Path) -> None:
    """A file of version 5 has trials that a race stopped and proposals for all examples: both are read."""
    with Store.open(path) as store:
        for number, status in enumerate(("complete", "partial", "failed")):
            store.finish_trial(replace(made.trial(number, score=0.5), status=status))
        store.put_proposals([made.proposal(1)])
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE trials SET status = 'pruned' WHERE status = 'partial'")
        connection.execute("ALTER TABLE proposals DROP COLUMN n_examples")
        connection.execute("UPDATE schema_version SET version = 5")
    with Store.open(path) as store:
        assert [trial.status for trial in store.trials("run-1")] == ["complete", "partial", "failed"]
        assert store.proposals("run-1") == [made.proposal(1)]


def test_a_failed_step_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a step fails, the file is still of its old version, with its rows, and free."""
    now = migrations.current_version()
    with Store.open(path) as store:
        store.start_run(made.run())
    with monkeypatch.context() as newer:
        newer.setattr(
            migrations,
            "STEPS",
            {**migrations.STEPS, now: "DELETE FROM runs", now + 1: "ALTER TABLE absent ADD COLUMN a INTEGER"},
        )
        with pytest.raises(StoreError, match="absent"):
            Store.open(path)
    with Store.open(path) as store:
        assert _version(store) == migrations.current_version()
        assert store.runs() == [made.run()]


def test_a_file_of_before_the_first_release_is_refused(path: Path) -> None:
    """Nothing brings such a file up to date: it is left as it is, and the message says to delete it."""
    Store.open(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE schema_version SET version = 2")
    before = made.digest(path)
    for opened in (Store.open, Store.read):
        with pytest.raises(StoreError, match=r"the file has 2, of before release 0\.1\.0; delete it"):
            opened(path)
    assert made.digest(path) == before


def test_tunings_and_preferences_are_kept(path: Path) -> None:
    """Tunings and preferences are read back; a pair has its last answer, under its own collection."""
    with Store.open(path) as store:
        store.put_tunings([made.tuning()])
        store.put_preferences([made.preference(1.0)])
        store.put_preferences([made.preference(0.5)])
        assert store.preferences("mine") == [made.preference(0.5)]
        assert store.preferences("other") == []
        assert store.tunings() == [made.tuning()]
