"""The file of a store that writes: whether it is still there, and who may read what is beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datastore.errors import FileReplaced
from datastore.opening import wal_of


class OpenFile:
    """The file of a store that writes: it stays where it is, and what is beside it is as private as it is.

    Args:
        path: The database file, which is open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = _identity(path)
        self._log = _identity(wal_of(path))
        self._mode = path.stat().st_mode & 0o666

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Check the file before a commit; a write-ahead log that is made then gets the file's permissions.

        Raises:
            FileReplaced: The file was deleted, moved or replaced.
        """
        if _identity(self._path) != self._identity:
            raise FileReplaced(
                f"{self._path}: the file was deleted, moved or replaced while it was open, so that nothing "
                "more is written; put it back, or name another file, and start again"
            )
        log = wal_of(self._path)
        make_file(log, self._mode)
        yield
        with suppress(OSError):
            if not log.stat().st_size:  # nothing was written
                log.unlink()
        self._log = _identity(log)

    def has_anothers_log(self) -> bool:
        """Tell whether the write-ahead log beside the file is that of another, which took its place."""
        return _identity(wal_of(self._path)) not in (None, self._log)


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode; None where there is no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def make_file(path: Path, mode: int) -> None:
    """Make an empty file with no more than these permissions, where there is none.

    DuckDB takes an empty write-ahead log as its own. The mask of the process would do too, but it belongs to
    all threads.
    """
    with suppress(OSError):  # DuckDB says why it can't write there
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
