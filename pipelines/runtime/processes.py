"""Drawing in several client processes, where one core does not send requests and read answers fast enough.

`ClientProcesses` stands in the place of `ModelClients`: what is asked of it goes to one of the processes
(`pipelines.runtime.worker`), and what came of it is read from the files of the spool. All else stays in
the search's own process: which samples are missing, what may be spent, and the one writer of the store.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from datastore.errors import StoreError
from pipelines.content import Content
from pipelines.errors import ConfigurationError, DrawFailed, PipelineError, ServerDown, ServerError
from pipelines.runtime.spool import (
    ASKED,
    DRAWN,
    LOCK,
    Asked,
    Drawn,
    identity,
    is_spool,
    read_drawn,
    write_asked,
)
from pipelines.runtime.worker import Message, WorkerSettings
from pipelines.servers.billing import Bill
from pipelines.servers.clients import ModelClients
from pipelines.servers.grace import GRACE_S
from pipelines.servers.patience import Patience
from pipelines.servers.server import OnNotice
from pipelines.servers.streamed import TextStream
from pipelines.servers.wire import ContextOverflow, Draw, PromptRefused
from pipelines.spec import SamplingSpec
from pipelines.spec.pipeline import PipelineSpec

_GATHER_S = 0.002  # what is asked for meanwhile goes into one file
_KEPT_AFTER_S = 0.5
_MOST_LOST = 3  # times in a row that a process ends without having written anything


@dataclass(eq=False, slots=True)
class _Waiting:
    """A draw that was asked for and not answered yet."""

    asked: Asked
    bill: Bill
    answer: asyncio.Future[Draw]


@dataclass(eq=False, slots=True)
class _Process:
    """One client process, and what it was asked for and has not answered."""

    name: str
    slot: int
    process: asyncio.subprocess.Process
    reading: asyncio.Task[None] | None = None
    open: dict[int, _Waiting] = field(default_factory=dict)
    files: dict[str, set[int]] = field(default_factory=dict)
    n_read: int = 0

    def kill(self) -> None:
        """End it at once; what it has in flight is lost."""
        with suppress(ProcessLookupError):  # it has ended
            self.process.kill()


class ClientProcesses(ModelClients):
    """The models of a spec, drawn from by several processes.

    Args:
        spec: The pipeline.
        n: How many processes.
        folder: The spool, which is made and removed again.
        settled: Returns when everything that was given to the store before is durable.
        max_in_flight: Requests at once for each server, of all processes together.
        replicas, rng, patience, environ, on_notice, grace_s: As `ModelClients` has them.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        *,
        n: int,
        folder: Path,
        settled: Callable[[], Awaitable[object]],
        rng: random.Random,
        patience: Patience,
        max_in_flight: int = 64,
        replicas: Mapping[str, int] = MappingProxyType({}),
        environ: Mapping[str, str] = os.environ,
        on_notice: OnNotice | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self._say_once = _once(on_notice or (lambda line: None))
        super().__init__(
            spec,
            rng=rng,
            patience=patience,
            max_in_flight=max_in_flight,
            replicas=replicas,
            environ=environ,
            on_notice=self._say_once,
            grace_s=grace_s,
        )
        self._identities = {name: identity(spec, name) for name in spec.models}
        self._n = min(n, max_in_flight)
        self._folder = folder
        self._settled = settled
        self._patience = patience
        self._max_in_flight = max_in_flight
        self._replicas = replicas
        self._environ = dict(environ)
        self._seeds = [rng.randrange(2**31) for _ in range(n)]
        self._grace_s = grace_s
        self._token = secrets.token_hex(4)
        self._n_asked = self._n_files = self._n_processes = self._n_lost = 0
        self._processes: list[_Process] = []
        self._waiting: list[_Waiting] = []
        self._sending: asyncio.Task[None] | None = None
        self._seen: set[str] = set()
        self._kept: list[str] = []
        self._clearing: asyncio.Task[None] | None = None
        self._is_stopping = self._is_unstored = False

    async def draw(
        self,
        model: str,
        content: Content,
        sampling: SamplingSpec,
        n: int,
        *,
        first: int = 0,
        logprobs: bool = True,
        bill: Bill | None = None,
        stream: TextStream | None = None,
    ) -> Draw:
        """As `ModelClients.draw`, by one of the processes; a text that is read as it grows by this one."""
        if not logprobs or stream is not None:
            return await super().draw(
                model, content, sampling, n, first=first, logprobs=logprobs, bill=bill, stream=stream
            )
        self.grace.check()
        self._n_asked += 1
        asked = Asked(
            number=self._n_asked,
            model=model,
            identity=self._identities[model],
            content=json.dumps(content, ensure_ascii=False),
            sampling=sampling.model_dump_json(),
            n=n,
            first=first,
        )
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(asked, Bill() if bill is None else bill, answer))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        task = asyncio.current_task()
        assert task is not None
        task.remove_done_callback(self._ended)
        task.add_done_callback(self._ended)
        try:
            return await self.grace.awaited(_of(answer), on_stop=self._stop)
        except asyncio.CancelledError:
            if task.cancelling() > 1:  # to end at once
                self._kill()
            raise

    async def aclose(self) -> None:
        """End the processes, read what they still wrote, and remove the spool where nothing is left."""
        self._stop()
        for process in list(self._processes):
            try:
                async with asyncio.timeout(self._grace_s + 2):
                    await process.process.wait()
            except TimeoutError:
                self._kill()
                await process.process.wait()
            except asyncio.CancelledError:
                self._kill()
                raise
            if process.reading is not None:
                await process.reading
        if self._clearing is not None:
            await self._clearing
            await self._clear()
        with suppress(OSError):
            self._folder.rmdir()
        await super().aclose()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Keep all files from now on if what a task had drawn could not be stored."""
        if not task.cancelled() and isinstance(task.exception(), StoreError):
            self._is_unstored = True

    async def _send(self) -> None:
        """Hand what is waiting to the processes."""
        await asyncio.sleep(_GATHER_S)
        fault: Exception | None = None
        try:
            await self._start()
        except Exception as error:  # nobody else would wait for the answers
            fault = error
        waiting, self._waiting, self._sending = self._waiting, [], None
        if fault is None and self._processes:
            try:
                self._hand_out(waiting)
            except Exception as error:
                fault = error
        if isinstance(fault, OSError):
            _fail(waiting, _unwritable(self._folder, fault.strerror or str(fault)))
        elif fault is not None:
            _fail(waiting, ServerError(f"client processes: {type(fault).__name__}: {fault}"))

    def _hand_out(self, waiting: Sequence[_Waiting]) -> None:
        """Ask each process for as much as evens out what they have to do."""
        given: dict[_Process, list[_Waiting]] = {}
        for one in waiting:
            if one.answer.done():
                continue
            process = min(self._processes, key=lambda each: len(each.open) + len(given.get(each, ())))
            given.setdefault(process, []).append(one)
        for process, some in given.items():
            self._n_files += 1
            name = f"{self._token}.{self._n_files}{ASKED}"
            write_asked(self._folder / name, (one.asked for one in some))
            process.open.update({one.asked.number: one for one in some})
            process.files[name] = {one.asked.number for one in some}
            assert process.process.stdin is not None
            process.process.stdin.write(f"{name}\n".encode())

    async def _start(self) -> None:
        """Start the processes that are missing: all at first, later those that have ended."""
        if not self._processes:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if not is_spool(self._folder):
                raise OSError(errno.EPERM, "it is a link, or another user's")
        while len(self._processes) < self._n and not self._is_stopping:
            name = f"{self._token}.{self._n_processes}"
            slot = min(set(range(self._n)) - {each.slot for each in self._processes})
            settings = WorkerSettings(
                folder=self._folder.resolve(),
                name=name,
                models=self._models,
                patience=self._patience,
                max_in_flight=(self._max_in_flight + slot) // self._n,
                replicas=dict(self._replicas),
                seed=self._seeds[slot],
            )
            self._n_processes += 1
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the working directory is no place for modules
                "-m",
                "pipelines.runtime.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                limit=1 << 20,
                start_new_session=True,  # a signal to the search's group is the search's to pass on
            )
            assert process.stdin is not None
            process.stdin.write(settings.model_dump_json().encode() + b"\n")
            started = _Process(name, slot, process)
            started.reading = asyncio.create_task(self._listen(started))
            self._processes.append(started)
            if self._is_stopping:  # meanwhile
                process.stdin.close()

    def _stop(self) -> None:
        """Let the processes end: what they have begun is awaited, what they have not is given up."""
        if not self._is_stopping:
            self._is_stopping = True
            for process in self._processes:
                assert process.process.stdin is not None
                process.process.stdin.close()
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                one.answer.cancel()

    def _kill(self) -> None:
        """End the processes at once; what they have in flight is lost."""
        for process in self._processes:
            process.kill()

    async def _listen(self, process: _Process) -> None:
        """Read what a process says, to its end; what it leaves unanswered is asked of others."""
        try:
            await self._heard(process)
        except Exception as error:  # nobody else would wait for the answers
            process.kill()
            _fail(process.open.values(), ServerError(f"client process {process.name}: {error}"))
        await process.process.wait()
        (self._folder / f"{process.name}{LOCK}").unlink(missing_ok=True)
        if not self._is_stopping:
            self._lost(process)
        else:
            for one in process.open.values():
                one.answer.cancel()

    async def _heard(self, process: _Process) -> None:
        assert process.process.stdout is not None
        async for line in process.process.stdout:
            try:
                message = Message.model_validate_json(line)
            except ValueError:  # of a library that prints
                continue
            if message.error is not None:
                _fail(process.open.values(), _unwritable(self._folder, message.error))
            if message.file is not None:
                self._take(process, message.file)
            if message.notice is not None:
                self._say_once(message.notice)
            if message.negotiated is not None and message.negotiated not in self._negotiated:
                self.tell(message.negotiated)
        for path in sorted(self._folder.glob(f"{process.name}.*{DRAWN}")):  # written, and not told of
            if path.name not in self._seen:
                self._take(process, path.name)

    def _lost(self, process: _Process) -> None:
        """A process has ended, as when it was killed: another one takes its place."""
        self._processes.remove(process)
        self._n_lost = 0 if process.n_read else self._n_lost + 1
        left = list(process.open.values())
        if self._n_lost > _MOST_LOST:
            error = ConfigurationError(
                f"client processes end with status {process.process.returncode} and draw nothing; leave "
                "--clients out to draw in the search's own process"
            )
            _fail(left, error)
            return
        self._kept.extend(process.files)
        self._say_once(
            f"client process {process.name} has ended (status {process.process.returncode}); another one "
            f"draws what it had not written, {len(left)} request{'s' * (len(left) != 1)}"
        )
        self._waiting.extend(left)
        if self._waiting and self._sending is None:
            self._sending = asyncio.create_task(self._send())

    def _take(self, process: _Process, name: str) -> None:
        """Give what a file holds to those who wait for it; one that nobody waits for stays in the spool."""
        process.n_read += 1
        self._seen.add(name)
        is_late = False
        for drawn in read_drawn(self._folder / name):
            one = process.open.get(drawn.number)
            if one is not None and one.answer.done() and drawn.draw is not None:
                is_late = True
            elif one is not None:
                del process.open[drawn.number]
                _answer(one, drawn)
        if not is_late:
            self._kept.append(name)
        if self._clearing is None or self._clearing.done():
            self._clearing = asyncio.create_task(self._clear())

    async def _clear(self) -> None:
        """Remove files whose draws the store has."""
        kept, self._kept = self._kept, []
        answered = [
            (process, name)
            for process in self._processes
            for name, numbers in process.files.items()
            if numbers.isdisjoint(process.open)
        ]
        await asyncio.sleep(_KEPT_AFTER_S)
        try:
            await self._settled()
        except StoreError:  # which the run ends with; the files are taken in when it goes on
            return
        if self._is_unstored:
            return
        for process, name in answered:
            process.files.pop(name, None)
        for name in (*kept, *(name for _, name in answered)):
            (self._folder / name).unlink(missing_ok=True)
            self._seen.discard(name)


async def _of(answer: asyncio.Future[Draw]) -> Draw:
    return await answer


def _answer(one: _Waiting, drawn: Drawn) -> None:
    """Add the bill, and give the draw or its error."""
    one.bill.include(drawn.bill)
    if one.answer.done():
        return
    if drawn.draw is not None:
        one.answer.set_result(drawn.draw)
    elif drawn.error == "CancelledError":
        one.answer.cancel()
    else:
        one.answer.set_exception(_error(drawn.error or "", drawn.message))


def _error(name: str, message: str) -> PipelineError:
    """The error that a process had, by the name of its class."""
    if name == "DrawFailed":
        return DrawFailed(message, transient=True)
    kinds = (PromptRefused, ContextOverflow, ServerDown, ConfigurationError)
    return next((kind(message) for kind in kinds if kind.__name__ == name), ServerError(message))


def _fail(waiting: Iterable[_Waiting], error: PipelineError) -> None:
    for one in waiting:
        if not one.answer.done():
            one.answer.set_exception(error)


def _unwritable(folder: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"{folder}: client processes need a folder that can be written to ({reason}); free the disk, "
        "or leave --clients out"
    )


def _once(notify: OnNotice) -> OnNotice:
    """A handler of notices that passes each line on once in a row, whichever process says it."""
    last: list[str] = []

    def handle(line: str) -> None:
        if line not in last:
            notify(line)
        last[:] = [*last[-7:], line]

    return handle
