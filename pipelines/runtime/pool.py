"""Client processes together: started, given draws in equal shares, and replaced when they end too soon."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from pipelines.errors import ConfigurationError, ServerError
from pipelines.runtime.client_process import ClientProcess
from pipelines.runtime.pending import PendingDraw, fail_all
from pipelines.runtime.spool import REQUESTS
from pipelines.runtime.spool_folder import SpoolFolder
from pipelines.runtime.worker import WorkerSettings
from pipelines.servers.server import OnNegotiated, OnNotice

_GATHER_S = 0.002  # requests that come meanwhile go into one file
_MOST_LOST = 3  # times in a row that a process ends without having written anything


class ProcessPool:
    """The client processes of a search.

    Args:
        settings: What each has to know, but its name; they share a folder.
        settled: Returns when everything that was given to the store before is durable.
        environ: Their environment variables.
        on_negotiated: Called with what one of them has found out about a server.
        on_notice: Called with lines for people.

    Attributes:
        spool: The folder of their files.
        token: What the names of these files begin with.
        processes: Those that run, from the first draw on.
    """

    def __init__(
        self,
        settings: Sequence[WorkerSettings],
        *,
        settled: Callable[[], Awaitable[object]],
        environ: Mapping[str, str],
        on_negotiated: OnNegotiated,
        on_notice: OnNotice,
    ) -> None:
        self.spool = SpoolFolder(settings[0].folder, settled, self._answered_files)
        self.token = secrets.token_hex(4)
        self.processes: list[ClientProcess] = []
        self._settings = settings
        self._environ = environ
        self._on_negotiated = on_negotiated
        self._notify = on_notice
        self._n_files = self._n_processes = self._n_lost = 0
        self._unsent: list[PendingDraw] = []
        self._sending: asyncio.Task[None] | None = None
        self._is_stopping = False

    def send(self, draws: Sequence[PendingDraw]) -> None:
        """Have draws sent with the others of the next moment."""
        self._unsent.extend(draws)
        if self._unsent and self._sending is None:
            self._sending = asyncio.create_task(self._send())

    def stop(self) -> None:
        """Let the processes end: what they have begun is awaited, what they have not is given up."""
        if not self._is_stopping:
            self._is_stopping = True
            for process in self.processes:
                process.stop()
            draws, self._unsent = self._unsent, []
            for pending in draws:
                pending.draw.cancel()

    def kill(self) -> None:
        """End the processes at once; what they have in flight is lost."""
        for process in self.processes:
            process.kill()

    async def aclose(self, within_s: float) -> None:
        """End the processes, read what they still wrote, and remove the spool where nothing is left.

        Args:
            within_s: Seconds after which a process is killed.
        """
        self.stop()
        for process in list(self.processes):
            try:
                async with asyncio.timeout(within_s):
                    await process.process.wait()
            except TimeoutError:
                self.kill()
                await process.process.wait()
            except asyncio.CancelledError:
                self.kill()
                raise
            if process.listening is not None:
                await process.listening
        await self.spool.aclose()

    def _answered_files(self) -> list[str]:
        return [name for process in self.processes for name in process.take_answered_files()]

    async def _send(self) -> None:
        """Hand the draws that are not sent yet to the processes."""
        await asyncio.sleep(_GATHER_S)
        fault: Exception | None = None
        try:
            await self._start_missing()
        except Exception as error:  # nobody else would wait for the answers
            fault = error
        draws, self._unsent, self._sending = self._unsent, [], None
        if fault is None and self.processes:
            try:
                self._hand_out(draws)
            except Exception as error:
                fault = error
        if isinstance(fault, OSError):
            fail_all(draws, _unwritable(self.spool.path, fault.strerror or str(fault)))
        elif fault is not None:
            fail_all(draws, ServerError(f"client processes: {type(fault).__name__}: {fault}"))

    def _hand_out(self, draws: Sequence[PendingDraw]) -> None:
        """Give each process as many draws as evens out what they have to do."""
        shares: dict[ClientProcess, list[PendingDraw]] = {}
        for pending in draws:
            if not pending.draw.done():
                process = min(self.processes, key=lambda each: len(each.pending) + len(shares.get(each, ())))
                shares.setdefault(process, []).append(pending)
        for process, share in shares.items():
            self._n_files += 1
            process.request(self.spool.path / f"{self.token}.{self._n_files}{REQUESTS}", share)

    async def _start_missing(self) -> None:
        """Start the processes that are missing: all at first, later those that have ended."""
        if not self.processes:
            self.spool.make()
        while len(self.processes) < len(self._settings) and not self._is_stopping:
            slot = min(set(range(len(self._settings))) - {each.slot for each in self.processes})
            settings = self._settings[slot].model_copy(update={"name": f"{self.token}.{self._n_processes}"})
            self._n_processes += 1
            process = await ClientProcess.start(settings, slot, self._environ)
            process.listening = asyncio.create_task(self._listen(process))
            self.processes.append(process)
            if self._is_stopping:  # meanwhile
                process.stop()

    async def _listen(self, process: ClientProcess) -> None:
        """Read what a process says, to its end; what it leaves unanswered is drawn by others."""
        try:
            async for message in process.messages():
                if message.error is not None:
                    fail_all(process.pending.values(), _unwritable(self.spool.path, message.error))
                if message.file is not None:
                    self._take(process, message.file)
                if message.notice is not None:
                    self._notify(message.notice)
                if message.negotiated is not None:
                    self._on_negotiated(message.negotiated)
            for name in self.spool.unread(process.name):
                self._take(process, name)
        except Exception as error:  # nobody else would wait for the answers
            process.kill()
            fail_all(process.pending.values(), ServerError(f"client process {process.name}: {error}"))
        await process.process.wait()
        self.spool.unlock(process.name)
        if not self._is_stopping:
            self._replace(process)
        else:
            for pending in process.pending.values():
                pending.draw.cancel()

    def _take(self, process: ClientProcess, name: str) -> None:
        """Give the answers of a file to those who wait; a file with one that nobody waits for stays."""
        process.n_read += 1
        is_late = False
        for answer in self.spool.read(name):
            pending = process.pending.get(answer.number)
            if pending is not None and pending.draw.done() and answer.draw is not None:
                is_late = True
            elif pending is not None:
                del process.pending[answer.number]
                pending.take(answer)
        if not is_late:
            self.spool.finish([name])
        self.spool.clear_soon()

    def _replace(self, process: ClientProcess) -> None:
        """A process has ended, as when it was killed: another one takes its place."""
        self.processes.remove(process)
        self._n_lost = 0 if process.n_read else self._n_lost + 1
        draws, status = list(process.pending.values()), process.process.returncode
        if self._n_lost > _MOST_LOST:
            error = ConfigurationError(
                f"client processes end with status {status} and draw nothing; leave --clients out to draw "
                "in the search's own process"
            )
            fail_all(draws, error)
            return
        self.spool.finish(process.request_files)
        self._notify(
            f"client process {process.name} has ended (status {status}); another one draws what it had not "
            f"written, {len(draws)} request{'s' * (len(draws) != 1)}"
        )
        self.send(draws)


def _unwritable(folder: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"{folder}: client processes need a folder that can be written to ({reason}); free the disk, "
        "or leave --clients out"
    )
