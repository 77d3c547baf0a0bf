"""Files and directories that are there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path, *, replace_directory: bool = False) -> Iterator[Path]:
    """Write a file or a directory beside its place, and rename it into place at the end of the block.

    The block receives the path to write to, which does not exist yet; it may create a file or a directory
    there. A reader sees what was at `path` before, or the whole new content. When the block raises, the new
    content is removed and `path` is left as it was. What a killed process left behind is removed first.

    Args:
        path: Where the content goes. Missing parent directories are made. An existing file is replaced, and
            so is an empty directory.
        replace_directory: Replace a directory that is not empty too.

    Yields:
        The path beside `path`, in the same directory and so on the same file system.

    Raises:
        OSError: The place can't be made or written, or `path` is a directory that is not empty.
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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
