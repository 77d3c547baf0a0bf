"""A client process: draws what a search asks for and writes what came of it (`pipelines.runtime.processes`).

    python -m pipelines.runtime.worker

It reads its settings from the first line of stdin, then the names of files of its spool, and tells on stdout
of the files that it wrote. When stdin ends, it awaits the requests in flight for a short time, writes what
they brought, and ends, whether or not anybody still reads.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import sys
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

from pipelines.errors import PipelineError
from pipelines.runtime.spool import (
    ANSWERS,
    LOCK,
    DrawAnswer,
    DrawRequest,
    locked,
    read_requests,
    write_answers,
)
from pipelines.servers.billing import Bill
from pipelines.servers.clients import ModelClients
from pipelines.servers.patience import Patience
from pipelines.servers.wire import Negotiated
from pipelines.spec import ModelSpec, SamplingSpec
from pipelines.spec.strict import Strict

_MOST_ANSWERS = 256  # in a file
_WRITE_AFTER_S = 0.05
_AGAIN_AFTER_S = 0.25  # where it failed
_LAST_TRIES = 4  # at the end


class WorkerSettings(Strict):
    """What a client process has to know.

    Attributes:
        folder: The spool.
        name: How its files begin.
        models: The models of the spec.
        patience: How long servers are waited for.
        max_in_flight: Requests at once, for each server.
        replicas: Servers behind a router, by its address.
        seed: Spreads its waits.
    """

    folder: Path
    name: str
    models: dict[str, ModelSpec]
    patience: Patience
    max_in_flight: int
    replicas: dict[str, int]
    seed: int

    def place_of(self, field: str) -> str:
        """Return a field of the spec as messages name it; its file is not known here."""
        return field


class Message(Strict):
    """What a client process says: one of these.

    Attributes:
        file: The name of a file that it wrote.
        notice: A line for people, such as that a server is down.
        negotiated: Something that was found out about a server.
        error: Why a file can't be written; it is tried again.
    """

    file: str | None = None
    notice: str | None = None
    negotiated: Negotiated | None = None
    error: str | None = None


class _Worker:
    """The process: draws on the event loop, files of what is done."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._clients = ModelClients(
            settings,
            rng=random.Random(settings.seed),
            patience=settings.patience,
            max_in_flight=settings.max_in_flight,
            replicas=settings.replicas,
            on_negotiated=lambda negotiated: _say(Message(negotiated=negotiated)),
            on_notice=lambda line: _say(Message(notice=line)),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._unwritten: list[DrawAnswer] = []
        self._timer: asyncio.TimerHandle | None = None
        self._n_files = 0

    def begin(self, name: str) -> None:
        """Begin the draws of a file of requests."""
        for request in read_requests(self._settings.folder / name):
            task = asyncio.create_task(self._draw(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Await what is in flight, and write it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._write()
        for _ in range(_LAST_TRIES):
            if self._unwritten:
                await asyncio.sleep(_AGAIN_AFTER_S)
                self._write()
        await self._clients.aclose()

    async def _draw(self, request: DrawRequest) -> None:
        bill = Bill()
        answer = partial(DrawAnswer, number=request.number, bill=bill)
        try:
            draw = await self._clients.draw(
                request.model,
                json.loads(request.content),
                _sampling(request.sampling),
                request.n,
                first=request.first,
                bill=bill,
            )
        except PipelineError as error:
            self._add(answer(error=type(error).__name__, message=str(error)))
        except BaseException as error:
            name = type(error).__name__
            self._add(answer(error=name, message=f"{name}: {error}"))
            raise
        else:
            self._add(answer(draw=draw))

    def _add(self, answer: DrawAnswer) -> None:
        self._unwritten.append(answer)
        if len(self._unwritten) >= _MOST_ANSWERS:
            self._write()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_AFTER_S, self._write)

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._unwritten:
            return
        name = f"{self._settings.name}.{self._n_files + 1}{ANSWERS}"
        try:
            write_answers(self._settings.folder / name, self._unwritten)
        except Exception as error:  # as of a full disk: what was paid for waits until there is room
            self._timer = asyncio.get_running_loop().call_later(_AGAIN_AFTER_S, self._write)
            _say(Message(error=getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"))
            return
        self._n_files += 1
        self._unwritten = []
        _say(Message(file=name))


@lru_cache(maxsize=256)
def _sampling(text: str) -> SamplingSpec:
    return SamplingSpec.model_validate_json(text)


def _say(message: Message) -> None:
    with suppress(OSError, ValueError):  # the search is gone; what was drawn is kept all the same
        print(message.model_dump_json(exclude_none=True), flush=True)


async def _work() -> None:
    stdin = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    settings = WorkerSettings.model_validate_json(await stdin.readline())
    with locked(settings.folder / f"{settings.name}{LOCK}"):
        worker = _Worker(settings)
        while name := (await stdin.readline()).decode().strip():
            worker.begin(name)
        await worker.end()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # the search passes the end on, by that of stdin
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(handlers=[logging.NullHandler()])  # stderr is the search's
    asyncio.run(_work())


if __name__ == "__main__":
    main()
