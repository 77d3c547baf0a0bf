"""The errors of the store, and the translation of DuckDB's and the system's errors into them.

The message of a `StoreError` is one line: the file, the rule, the value that breaks it, what to do. A file
that is refused is left as it was. Mistakes in the caller's own values (a wrong type, for example) raise the
usual Python errors.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path


class StoreError(Exception):
    """Base class of all errors that the datastore package raises on purpose."""


class StoreLocked(StoreError):
    """Another process, or another Store of this one, has the file open."""


class StoreClosed(StoreError):
    """The Store was closed before the call."""


class ReadOnlyStore(StoreError):
    """A method that writes was called on a Store that was opened for reading."""


class ForeignFile(StoreError):
    """The file is not a DuckDB database, or this package did not make it."""


class TruncatedFile(StoreError):
    """The file is shorter than its own header says."""


class NewerSchema(StoreError):
    """A newer version of this package or of DuckDB wrote the file."""


class DiskFull(StoreError):
    """The disk is full; what was committed before is intact."""


class FileReplaced(StoreError):
    """The file was deleted, moved or replaced while it was open; what is written now would be lost."""


class DamagedFile(StoreError):
    """The content of the file is not what was written."""


class BankError(StoreError):
    """A file is not a valid sample bank."""


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
_DAMAGED = (
    "Corrupt",
    "corrupt",
    "checksum",
    "Serialization Error",
    "INTERNAL Error",
    "Failed to load metadata",
)
_TRUNCATED = ("Could not read enough bytes", "Reached the end of the file", "read past the end")


def locked(path: Path, holder: str) -> StoreLocked:
    """Make the error for a database that is open elsewhere.

    Args:
        path: The database file.
        holder: Who has it open, in words, such as "PID 12".
    """
    return StoreLocked(
        f"{path}: one writer per database: it is open in {holder}; wait until that ends, or name another file"
    )


def translate(error: Exception, path: Path) -> StoreError:
    """Make the StoreError for an error of DuckDB or the system.

    Args:
        error: The error; also what pyarrow raises on data that are none.
        path: The database file that it is about.

    Returns:
        An error of the most specific class.
    """
    text = " ".join(str(error).split())
    if any(phrase in text for phrase in _FULL) or getattr(error, "errno", None) in (
        errno.ENOSPC,
        errno.EFBIG,
        errno.EDQUOT,
    ):
        return DiskFull(
            f"{path}: the disk is full; what was stored before is intact: make room and start again ({text})"
        )
    if any(phrase in text for phrase in _LOCKED):
        pid = re.search(r"PID (\d+)", text)
        return locked(path, f"another process (PID {pid[1]})" if pid else "this process")
    if "with version number" in text:
        return NewerSchema(f"{path}: written by another version of DuckDB; upgrade duckdb ({text})")
    if any(phrase in text for phrase in _TRUNCATED):
        return TruncatedFile(
            f"{path}: the file is truncated; restore it from a copy, it was left as it is ({text})"
        )
    if any(phrase in text for phrase in _DAMAGED):
        return DamagedFile(
            f"{path}: the file is damaged; restore it from a copy, or name another file ({text:.300})"
        )
    if "Permission denied" in text or "Read-only file system" in text:
        return StoreError(f"{path}: no permission to write there; change it, or name another file ({text})")
    return StoreError(f"{path}: {text}")
