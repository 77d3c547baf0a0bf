"""Opening a database file: creating it whole or not at all, and refusing anything else without touching it.

DuckDB lets nobody open a file that a writer has open. One Store writes; others read its live snapshot
(`snapshot`).
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from datastore import migrations
from datastore.errors import ForeignFile, StoreError, TruncatedFile, locked, translate

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
_PRIVATE = 0o600  # prompts and answers are their owner's
_STALE_CLAIM_S = 5.0  # a claim is held for the time of one rename
_FILE_HEADERS_BYTES = 3 * 4096  # DuckDB's main header and its two database headers, before the first block

# The system's file locks belong to the process, and closing any descriptor of a file drops them. So who has a
# file open in this process is known here, and nobody opens it a second time.
_guard = threading.Lock()
_writing: set[Path] = set()
_reading: Counter[Path] = Counter()


def wal_of(path: Path) -> Path:
    """Return the path of DuckDB's write-ahead log for the database at `path`."""
    return path.with_name(path.name + ".wal")


def is_written_here(path: Path) -> bool:
    """Tell whether a Store of this process has the database at `path` open for writing."""
    with _guard:
        return path in _writing


def is_open_here(path: Path) -> bool:
    """Tell whether a Store of this process has the database at `path` open, for writing or reading."""
    with _guard:
        return path in _writing or _reading[path] > 0


def release(path: Path, *, writing: bool) -> None:
    """Record that this process no longer has `path` open. Call it after closing the connection."""
    with _guard:
        if writing:
            _writing.discard(path)
        else:
            _reading[path] -= 1


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, OSError) as error:
        raise translate(error, path) from error


def open_for_writing(path: Path, *, create: bool, created_at: float) -> duckdb.DuckDBPyConnection:
    """Open the one writing connection to a database, with its schema up to date.

    Args:
        path: The database file, absolute.
        create: Whether a missing file is created.
        created_at: Unix seconds, stored in a database that is created.

    Returns:
        The connection. Call `release` after closing it.

    Raises:
        StoreLocked: Another process, or another Store of this process, has the file open.
        ForeignFile: The file was not made by this package.
        TruncatedFile: The file is shorter than its header says.
        NewerSchema: A newer version of this package or of DuckDB wrote the file.
        StoreError: The file cannot be opened for another reason. In all cases it is left as it was.
    """
    with _guard, _reporting(path):
        if path in _writing or _reading[path] > 0:
            raise locked(path, "this process")
        _refuse_foreign(path)
        _writing.add(path)
    try:
        with _reporting(path):
            if not path.exists():
                if not create:
                    raise StoreError(f"{path}: no such database; check the path")
                _create(path, created_at)
            elif not os.access(path.parent, os.W_OK):
                raise StoreError(f"{path}: its directory must be writable; change that, or name another file")
            with _connect(path, read_only=True) as connection:
                _refuse_truncated(connection, path)
                version = migrations.version_of(connection, path)
            connection = _connect(path)
            try:
                migrations.migrate(connection, version)
            except BaseException:
                connection.close()
                raise
            return connection
    except BaseException:
        release(path, writing=True)
        raise


def open_for_reading(path: Path) -> duckdb.DuckDBPyConnection:
    """Open a read-only connection to a database.

    Args:
        path: The database file, absolute.

    Returns:
        The connection. Call `release` after closing it.

    Raises:
        StoreLocked: A writer has the file open.
        StoreError: The file cannot be opened; the subclasses are those of `open_for_writing`.
    """
    with _guard, _reporting(path):
        if path in _writing:
            raise locked(path, "this process")
        if not _reading[path]:
            _refuse_foreign(path)
        _reading[path] += 1
    try:
        with _reporting(path):
            if not path.exists():
                raise StoreError(f"{path}: no such database; check the path")
            connection = _connect(path, read_only=True)
            try:
                _refuse_truncated(connection, path)
                version = migrations.version_of(connection, path)
                if version < migrations.current_version():
                    raise StoreError(
                        f"{path}: schema version {version} is older than {migrations.current_version()}; "
                        "open it once for writing to bring it up to date: "
                        f'python -c "from datastore import Store; Store.open({str(path)!r}).close()"'
                    )
            except BaseException:
                connection.close()
                raise
            return connection
    except BaseException:
        release(path, writing=False)
        raise


def open_in_memory() -> duckdb.DuckDBPyConnection:
    """Open a connection to an empty database in memory."""
    return _connect(":memory:")


def _create(path: Path, created_at: float) -> None:
    """Make the database beside its place and link it there, so that a crash leaves nothing or all of it."""
    if wal_of(path).exists():
        raise StoreError(
            f"{path}: the database is missing, but not {wal_of(path).name}, which holds its last writes; "
            "restore the one or remove the other"
        )
    if not path.parent.is_dir():
        raise StoreError(f"{path}: its directory does not exist; create it, or name another file")
    new = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
    try:
        connection = _connect(new)
        try:
            new.chmod(_PRIVATE)
            migrations.create(connection, created_at=created_at)
        finally:
            connection.close()
        _put_in_place(new, path)
    finally:
        new.unlink(missing_ok=True)
        wal_of(new).unlink(missing_ok=True)


def _put_in_place(new: Path, path: Path) -> None:
    """Give the new database its name, unless another process was quicker; the lock decides who writes.

    Where the file system has no hard links (exFAT, many network and FUSE mounts), a file made exclusively
    stands for the right to rename, so that no process renames over the database of another.
    """
    try:
        os.link(new, path)
        return
    except FileExistsError:
        return
    except OSError:
        claim = path.with_name(f".{path.name}.claim")
    while not path.exists():
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            with suppress(FileNotFoundError):
                if time.time() - claim.stat().st_mtime > _STALE_CLAIM_S:  # of a process that was killed
                    claim.unlink()
            time.sleep(0.01)
            continue
        try:
            if not path.exists():
                os.rename(new, path)
        finally:
            claim.unlink(missing_ok=True)


def is_database(path: Path) -> bool:
    """Tell whether a file has DuckDB's mark, after its header's checksum. OSError if it can't be read."""
    with path.open("rb") as file:
        return file.read(12)[8:] == b"DUCK"


def _refuse_foreign(path: Path) -> None:
    """ForeignFile for what is there and no database: by name or content DuckDB would read some of it."""
    if path.is_dir() or (path.exists() and not is_database(path)):
        raise ForeignFile(f"{path}: not a DuckDB database; name another file, this one was left as it is")


def _refuse_truncated(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """DuckDB reads blocks when they are needed; a file that ends early is better refused at once.

    Free blocks don't count: DuckDB cuts them off the end of a file and goes on listing them.
    """
    if wal_of(path).exists():  # blocks that only the log mentions are counted too
        return
    row = connection.execute("SELECT block_size * used_blocks FROM pragma_database_size()").fetchone()
    needed = _FILE_HEADERS_BYTES + int(row[0]) if row else 0
    size = path.stat().st_size
    if size < needed:
        raise TruncatedFile(
            f"{path}: the file is truncated: its header says {needed} bytes or more, it has {size}; "
            "restore it from a copy, it was left as it is"
        )


def _connect(path: Path | str, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(path, read_only=read_only, config=_CONFIG)
    connection.execute("SET enable_progress_bar = false")  # it would print into the user's output
    return connection
