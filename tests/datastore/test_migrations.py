"""Files of an older schema version are brought up to date when they are opened for writing."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from datastore import NewerSchema, Store, StoreError, migrations
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


def test_insights_of_version_1_are_open(path: Path) -> None:
    """A file made before insights had verdicts reads with every one open."""
    with Store.open(path) as store:
        store.start_run(made.run())
        store.put_insights([made.insight(0)])
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "ALTER TABLE insights DROP COLUMN verdict; DROP TABLE tunings; DROP TABLE preferences; "
            "UPDATE schema_version SET version = 1"
        )
    with Store.open(path) as store:
        assert store.insights("run-1") == [made.insight(0)]


def test_version_2_gains_tunings_and_preferences(path: Path) -> None:
    """A file made before models were tuned takes them up, its tables as a new file's."""
    Store.open(path).close()
    described = (
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
        "WHERE table_name IN ('tunings', 'preferences') ORDER BY table_name, ordinal_position"
    )
    with Store.read(path) as store:
        new = store.sql(described)
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "DROP TABLE tunings; DROP TABLE preferences; UPDATE schema_version SET version = 2"
        )
    with Store.open(path) as store:
        assert store.sql(described).equals(new)
        store.put_tunings([made.tuning()])
        store.put_preferences([made.preference(1.0)])
        store.put_preferences([made.preference(0.5)])
        assert store.preferences("mine") == [made.preference(0.5)]
        assert store.preferences("other") == []
        assert store.tunings() == [made.tuning()]
