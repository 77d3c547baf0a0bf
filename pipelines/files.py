"""Files and directories: written whole or not at all, and whose they are."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path, *, replace_directory: bool = False) -> Iterator[Path]:
    """Write a file or a directory beside its place, and rename it into place at the end of the block.

    The block receives the path to write to, which does not exist yet; it may create a file or a directory
    there. A reader sees either the former content of `path` or the complete new content. When the block
    raises, the new content is removed and `path` is left as it was. What a killed process left behind is
    removed first.

    Args:
        path: Where the content goes. Missing parent directories are created. An existing file or an empty
            directory is replaced.
        replace_directory: Whether to replace a directory that is not empty, too.

    Yields:
        The path beside `path`, in the same directory and so on the same file system.

    Raises:
        OSError: The path can't be created or written, or `path` is a directory that is not empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.partial")
    _remove(beside)
    try:
        yield beside
        if replace_directory and path.is_dir():
            shutil.rmtree(path)
        beside.replace(path)
    except BaseException:
        _remove(beside)
        raise


def is_own_directory(path: Path, *, private: bool = False) -> bool:
    """Return whether a path is a directory of this user's, and not a link to one.

    Args:
        path: The path; there may be nothing.
        private: Whether nobody else may be able to enter it, either.

    Raises:
        OSError: The path can't be looked at.
    """
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return is_own and not (private and status.st_mode & 0o077)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
