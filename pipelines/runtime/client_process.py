"""One client process (`pipelines.runtime.worker`) as its search sees it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.runtime.pending import PendingDraw
from pipelines.runtime.spool import write_requests
from pipelines.runtime.worker import Message, WorkerSettings


@dataclass(eq=False, slots=True)
class ClientProcess:
    """A running process, and the draws that are awaited from it.

    Attributes:
        name: How its files in the spool begin.
        slot: Its place among the processes; another one takes it when this one has ended.
        process: The process of the operating system.
        listening: The task that reads its messages.
        pending: The draws it has not answered, by the numbers of their requests.
        request_files: The numbers of the requests in each file that it was given, as long as one is pending.
        n_read: How many of its files were read.
    """

    name: str
    slot: int
    process: asyncio.subprocess.Process
    listening: asyncio.Task[None] | None = None
    pending: dict[int, PendingDraw] = field(default_factory=dict)
    request_files: dict[str, set[int]] = field(default_factory=dict)
    n_read: int = 0

    @classmethod
    async def start(cls, settings: WorkerSettings, slot: int, environ: Mapping[str, str]) -> ClientProcess:
        """Start a process.

        Args:
            settings: What it has to know.
            slot: Its place among the processes.
            environ: Its environment variables.

        Raises:
            OSError: It can't be started.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the working directory is no place for modules
            "-m",
            "pipelines.runtime.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            limit=1 << 20,
            start_new_session=True,  # a signal to the search's group is the search's to pass on
        )
        started = cls(settings.name, slot, process)
        started._send(settings.model_dump_json())
        return started

    def request(self, path: Path, draws: Sequence[PendingDraw]) -> None:
        """Write a file of requests, and have the process draw them.

        Args:
            path: The file, in the spool.
            draws: What is to be drawn.

        Raises:
            OSError: The file can't be written; nothing is requested.
        """
        write_requests(path, (pending.request for pending in draws))
        by_number = {pending.request.number: pending for pending in draws}
        self.pending |= by_number
        self.request_files[path.name] = set(by_number)
        self._send(path.name)

    async def messages(self) -> AsyncIterator[Message]:
        """Yield what the process says, to its end."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            try:
                message = Message.model_validate_json(line)
            except ValueError:  # of a library that prints
                continue
            yield message

    def take_answered_files(self) -> list[str]:
        """Return the files of requests that are all answered, each once."""
        names = [name for name, numbers in self.request_files.items() if numbers.isdisjoint(self.pending)]
        for name in names:
            del self.request_files[name]
        return names

    def stop(self) -> None:
        """Let it end: it awaits the requests in flight and begins no more."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def kill(self) -> None:
        """End it at once; what it has in flight is lost."""
        with suppress(ProcessLookupError):  # it has ended
            self.process.kill()

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
