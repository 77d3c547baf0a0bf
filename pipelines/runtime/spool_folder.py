"""The folder of a spool: what is read from it goes once the store has it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

from datastore.errors import StoreError
from pipelines.files import is_own_directory
from pipelines.runtime.spool import ANSWERS, LOCK, DrawAnswer, read_answers

_STORED_AFTER_S = 0.5  # most answers are on their way into the store by then


class SpoolFolder:
    """The files that a search and its client processes write.

    Args:
        path: The folder.
        settled: Returns when everything that was given to the store before is durable.
        answered: Returns the files of requests that have all been answered, each once.
    """

    def __init__(
        self, path: Path, settled: Callable[[], Awaitable[object]], answered: Callable[[], Iterable[str]]
    ) -> None:
        self.path = path
        self._settled = settled
        self._answered = answered
        self._read: set[str] = set()
        self._finished: list[str] = []
        self._clearing: asyncio.Task[None] | None = None
        self._keeps_all = False

    def make(self) -> None:
        """Make the folder.

        Raises:
            OSError: It can't be made, or what is there is none of this user's.
        """
        self.path.mkdir(mode=0o700, exist_ok=True)
        if not is_own_directory(self.path):
            raise OSError(errno.EPERM, "it is a link, or another user's")

    def read(self, name: str) -> list[DrawAnswer]:
        """Return what came of requests, as a file of it says."""
        self._read.add(name)
        return read_answers(self.path / name)

    def unread(self, process: str) -> list[str]:
        """Return the files of answers that a process wrote and that were not read."""
        names = (path.name for path in self.path.glob(f"{process}.*{ANSWERS}"))
        return sorted(name for name in names if name not in self._read)

    def unlock(self, process: str) -> None:
        """Remove the lock file of a process that has ended."""
        (self.path / f"{process}{LOCK}").unlink(missing_ok=True)

    def finish(self, names: Iterable[str]) -> None:
        """Have these files removed once the store has what it was given until now."""
        self._finished.extend(names)

    def clear_soon(self) -> None:
        """Begin to remove the files that are finished, and those of requests that are answered."""
        if self._clearing is None or self._clearing.done():
            self._clearing = asyncio.create_task(self._clear())

    def keep_all(self) -> None:
        """Remove no file from now on: the store could not take what one of them holds."""
        self._keeps_all = True

    async def aclose(self) -> None:
        """Remove what is finished, and the folder where nothing is left."""
        if self._clearing is not None:
            await self._clearing
            await self._clear()
        with suppress(OSError):
            self.path.rmdir()

    async def _clear(self) -> None:
        names, self._finished = [*self._finished, *self._answered()], []
        await asyncio.sleep(_STORED_AFTER_S)
        try:
            await self._settled()
        except StoreError:  # which the run ends with; the files are taken in when it goes on
            return
        if self._keeps_all:
            return
        for name in names:
            (self.path / name).unlink(missing_ok=True)
            self._read.discard(name)
