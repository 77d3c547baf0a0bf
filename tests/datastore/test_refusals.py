"""Files that are not, or not now, a store: a clear error in one line, and not a byte changed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest

from datastore import ForeignFile, NewerSchema, Store, StoreError, StoreLocked, TruncatedFile
from datastore.migrations import current_version
from tests.datastore import made

HOLD = """
import sys
from datastore import Store
with Store.open(sys.argv[1]) as store:
    print("open", flush=True)
    sys.stdin.read()
"""


def _refused(path: Path, kind: type[StoreError], says: str) -> None:
    """Both ways of opening raise `kind` in one line with the file and `says`; the folder stays as it was."""
    before = {file: made.digest(file) for file in path.parent.iterdir() if file.is_file()}
    openings: list[Callable[[Path], Store]] = [Store.open, Store.read]
    for opening in openings:
        with pytest.raises(kind, match=says) as refused:
            opening(path)
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert {file: made.digest(file) for file in path.parent.iterdir() if file.is_file()} == before


async def _filled(path: Path) -> None:
    with Store.open(path) as store:
        for number in range(20):
            prompt = made.prompt(number)
            await store.put_samples(
                prompt, [made.sample(prompt, i, os.urandom(200).hex()) for i in range(200)]
            )


def test_another_process_that_writes_is_named(path: Path) -> None:
    """While a process has the store open, a second writer is told at once which file and which process."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StoreLocked, match=f"PID {holder.pid}") as refused:
            Store.open(path)
        assert str(path) in str(refused.value)
    finally:
        holder.communicate()
    with Store.open(path):
        pass


def test_a_second_writer_of_this_process_is_refused(store: Store, path: Path, tmp_path: Path) -> None:
    """One process cannot write through two Stores either, whatever the path is called."""
    alias = tmp_path / "alias.duckdb"
    alias.symlink_to(path)
    for name in (path, str(path), alias):
        with pytest.raises(StoreLocked, match="this process"):
            Store.open(name)
    store.close()
    with Store.read(path) as reader, Store.read(path), pytest.raises(StoreLocked):
        Store.open(reader.path)
    Store.open(path).close()


@pytest.mark.parametrize("content", [b"", b"hi", b"question,answer\n" * 2000, bytes(20_000)])
def test_a_file_that_is_not_duckdb(path: Path, content: bytes) -> None:
    """A text file, a short one and an empty one are foreign."""
    path.write_bytes(content)
    _refused(path, ForeignFile, "not a DuckDB database")


@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "rows.parquet", "other.sqlite"])
def test_a_file_that_duckdb_would_read_in_another_way(tmp_path: Path, name: str) -> None:
    """A table or another program's database is foreign, whatever DuckDB makes of its name or content."""
    content = {"rows.csv": b"a,b\n1,2\n", "rows.json": b'{"a": 1}', "other.sqlite": b"SQLite format 3\0"}
    (tmp_path / name).write_bytes(content.get(name, b"PAR1"))
    _refused(tmp_path / name, ForeignFile, "not a DuckDB database")


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    """Said as of any other place that holds no database."""
    (tmp_path / "runs").mkdir()
    _refused(tmp_path / "runs", ForeignFile, "not a DuckDB database")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "CREATE TABLE mine (i INTEGER)",
        "CREATE TABLE schema_version (version INTEGER)",
        "CREATE TABLE schema_version (format VARCHAR, version INTEGER); "
        "INSERT INTO schema_version VALUES ('another', 1)",
    ],
)
def test_a_database_of_someone_else(path: Path, sql: str) -> None:
    """A DuckDB file that this package did not make is foreign, even with a table of the same name."""
    with duckdb.connect(path) as connection:
        connection.execute(sql)
    _refused(path, ForeignFile, "not a sample store")


def test_a_newer_schema(path: Path) -> None:
    """A file of a newer version of this package is left alone; the versions are named."""
    Store.open(path).close()
    with duckdb.connect(path) as connection:
        connection.execute("UPDATE schema_version SET version = version + 6")
    _refused(path, NewerSchema, f"versions up to {current_version()} .* has {current_version() + 6}")


@pytest.mark.parametrize("kept", [100, 5000, 12_288, 0.3, 0.6, 0.9, -1])
async def test_a_truncated_file(path: Path, kept: float) -> None:
    """A store cut short anywhere is refused as such."""
    await _filled(path)
    content = path.read_bytes()
    assert len(content) > 1_000_000
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    _refused(path, TruncatedFile, "truncated")


def test_a_file_that_duckdb_made_shorter_is_sound(path: Path) -> None:
    """Opened, written and closed many times, the file grows and shrinks; it is never called truncated."""
    sizes = []
    for number in range(8):
        with Store.open(path) as store:
            store.start_run(made.run(f"run-{number}"))
            store.put_models([made.model()])
        sizes.append(path.stat().st_size)
    assert any(after < before for before, after in pairwise(sizes)), sizes
    with Store.read(path) as store:
        assert len(store.runs()) == 8


def test_a_missing_file(path: Path, tmp_path: Path) -> None:
    """Reading, or opening with create=False, says that there is no such database and makes none."""
    with pytest.raises(StoreError, match="no such database"):
        Store.open(path, create=False)
    with pytest.raises(StoreError, match="no such database"):
        Store.read(path)
    with pytest.raises(StoreError, match="directory does not exist"):
        Store.open(tmp_path / "absent" / "runs.duckdb")
    assert list(tmp_path.iterdir()) == []


def test_a_directory(tmp_path: Path) -> None:
    """A directory is not a store."""
    folder = tmp_path / "folder.duckdb"
    folder.mkdir()
    with pytest.raises(StoreError, match="directory"):
        Store.open(folder)


def test_a_log_without_its_database(path: Path) -> None:
    """Where only DuckDB's write-ahead log is left, no new database takes its place."""
    path.with_name(path.name + ".wal").write_bytes(b"last writes")
    with pytest.raises(StoreError, match=r"runs\.duckdb\.wal"):
        Store.open(path)
    assert not path.exists()


UNPRIVILEGED = """
import os, sys
from datastore import Store, StoreError
from datastore.records import Prompt
if os.geteuid() == 0:
    os.setuid(65534)
for name in sys.argv[1:]:
    try:
        Store.open(name)
    except StoreError as error:
        print(error)
"""


def test_an_unwritable_directory() -> None:
    """In a directory without write permission neither a new nor an existing store is opened for writing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Store.open(folder / "old.duckdb").close()
        (folder / "old.duckdb").chmod(0o444)
        folder.chmod(0o555)
        before = made.digest(folder / "old.duckdb")
        try:
            command = [sys.executable, "-c", UNPRIVILEGED, f"{folder}/new.duckdb", f"{folder}/old.duckdb"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        finally:
            folder.chmod(0o755)
        new, old = done.stdout.splitlines()
        assert new.startswith(f"{folder}/new.duckdb: ") and "permission" in new
        assert old.startswith(f"{folder}/old.duckdb: ") and "writable" in old
        assert made.digest(folder / "old.duckdb") == before
        assert [file.name for file in folder.iterdir()] == ["old.duckdb"]
