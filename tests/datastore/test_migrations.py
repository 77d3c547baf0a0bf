"""Files of an older schema version are brought up to date when they are opened for writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from datastore import NewerSchema, Store, StoreError, migrations
from tests.datastore import made


def _version(store: Store) -> int:
    return int(store.sql("SELECT version FROM schema_version").version[0])


def test_an_older_file_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of version 1 goes through each step, keeps its rows, and is then too new for version 1."""
    with Store.open(path) as store:
        assert _version(store) == migrations.current_version()
        store.start_run(made.run())
    steps = {
        1: "ALTER TABLE runs ADD COLUMN note VARCHAR; UPDATE runs SET note = 'old'",
        2: "ALTER TABLE runs RENAME COLUMN note TO remark",
    }
    with monkeypatch.context() as newer:
        newer.setattr(migrations, "STEPS", steps)
        with pytest.raises(StoreError, match="open it once for writing"):
            Store.read(path)
        with Store.open(path) as store:
            assert _version(store) == 3
            assert store.runs() == [made.run()]
            assert store.sql("SELECT remark FROM runs").remark[0] == "old"
        Store.read(path).close()
    before = made.digest(path)
    with pytest.raises(NewerSchema, match="up to 1 can be read, the file has 3"):
        Store.open(path)
    assert made.digest(path) == before


def test_a_failed_step_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a step fails, the file is still of its old version, with its rows, and free."""
    with Store.open(path) as store:
        store.start_run(made.run())
    with monkeypatch.context() as newer:
        newer.setattr(
            migrations, "STEPS", {1: "DELETE FROM runs", 2: "ALTER TABLE absent ADD COLUMN a INTEGER"}
        )
        with pytest.raises(StoreError, match="absent"):
            Store.open(path)
    with Store.open(path) as store:
        assert _version(store) == migrations.current_version()
        assert store.runs() == [made.run()]
