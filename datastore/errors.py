"""Every way the store refuses, and how DuckDB's and the system's errors become one of them.

A `StoreError` is one line: the file, what must hold, what was found, what to do. A refused file is left as it
was. Errors of the caller's own values (a wrong type, say) stay the Python errors that they are.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


class StoreError(Exception):
    """Root of everything that the datastore package raises on purpose."""


class StoreLocked(StoreError):
    """Another process, or another Store of this one, has the file open."""


class StoreClosed(StoreError):
    """The Store was closed before the call."""


class ReadOnlyStore(StoreError):
    """A write was asked of a Store that was opened for reading."""


class ForeignFile(StoreError):
    """The file is not a DuckDB database, or is one that this package did not make."""


class TruncatedFile(StoreError):
    """The file ends before its own header says it should."""


class NewerSchema(StoreError):
    """The file was written by a newer version of this package, or of DuckDB."""


class DiskFull(StoreError):
    """A write found no room; what had been committed before it is intact."""


class BankError(StoreError):
    """A sample bank's file does not hold what a bank must hold."""


_FULL = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "database is full",
    "out of disk space",
)
_LOCKED = (
    "Could not set lock on file",
    "different configuration than existing connections",
    "already attached by",
)
_TRUNCATED = ("Could not read enough bytes", "Reached the end of the file", "read past the end")


def locked(path: Path, holder: str) -> StoreLocked:
    """The error for a database that `holder` (words, such as "PID 12") has open."""
    return StoreLocked(
        f"{path}: one writer per database: it is open in {holder}; wait until that ends, or name another file"
    )


def translate(error: duckdb.Error | OSError, path: Path) -> StoreError:
    """The StoreError for what DuckDB or the system reported about the database at `path`."""
    said = " ".join(str(error).split())
    if any(sign in said for sign in _FULL) or getattr(error, "errno", None) in (
        errno.ENOSPC,
        errno.EFBIG,
        errno.EDQUOT,
    ):
        return DiskFull(
            f"{path}: the disk is full; what was stored before is intact: make room and start again ({said})"
        )
    if any(sign in said for sign in _LOCKED):
        pid = re.search(r"PID (\d+)", said)
        return locked(path, f"another process (PID {pid[1]})" if pid else "this process")
    if "not a valid DuckDB database file" in said:
        return ForeignFile(f"{path}: not a DuckDB database; name another file, this one was left as it is")
    if "with version number" in said:
        return NewerSchema(f"{path}: written by another version of DuckDB; upgrade duckdb ({said})")
    if any(sign in said for sign in _TRUNCATED):
        return TruncatedFile(
            f"{path}: the file is truncated; restore it from a copy, it was left as it is ({said})"
        )
    if "Permission denied" in said or "Read-only file system" in said:
        return StoreError(f"{path}: no permission to write there; change it, or name another file ({said})")
    return StoreError(f"{path}: {said}")
