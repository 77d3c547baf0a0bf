"""The one thread that talks to DuckDB: requests queue up, and whatever has queued shares one transaction.

A request is answered after its transaction is committed (fsync included), so an answer means durable. Batched
requests (puts and look-ups, which commute) are collected and handled together; an action is run alone, in
order. What the requests do is not known here.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from datastore.errors import DiskFull, StoreClosed, translate

_log = logging.getLogger(__name__)
_MOST_REQUESTS_PER_TRANSACTION = 4096

Result = TypeVar("Result")


class Transaction:
    """What a handler gets: the connection, and a place to say what to do once the outcome is known."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self.after_commit: list[Callable[[], None]] = []
        self.after_rollback: list[Callable[[], None]] = []


Action = Callable[[Transaction], Any]
Handler = Callable[[Transaction, Sequence[Any]], Sequence[Any]]


@dataclass(eq=False, slots=True)
class _Request:
    handler: Handler | None  # None: payload is an action
    payload: Any
    reply: Future[Any] | asyncio.Future[Any]
    outside: bool = False  # an action that must not run inside a transaction


@dataclass(slots=True)
class _Failure:
    error: BaseException


class Writer:
    """Owns `connection` and its thread.

    `between` runs after each transaction, outside of one. It returns the seconds after which it wants to run
    again though nothing happened; None: not before the next transaction.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        path: Path,
        *,
        between: Callable[[duckdb.DuckDBPyConnection], float | None] | None = None,
    ) -> None:
        self._connection = connection
        self._path = path
        self._between = between
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"store {path.name}", daemon=True)
        self._thread.start()

    def run(self, action: Callable[[Transaction], Result], *, outside: bool = False) -> Result:
        """Run `action` in the thread, after everything submitted before it; returns when it is committed."""
        reply: Future[Result] = Future()
        self._submit(_Request(None, action, reply, outside))
        return reply.result()

    def submit(self, handler: Handler, payload: Any) -> asyncio.Future[Any]:
        """Queue `payload` for `handler`, together with other payloads for it; call it on an event loop."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._submit(_Request(handler, payload, reply))
        return reply

    def close(self) -> None:
        """Finish what is queued, then close the connection. Closing twice is harmless."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _submit(self, request: _Request) -> None:
        with self._gate:
            if self._closed:
                raise StoreClosed(f"{self._path}: the store is closed; open it again")
            self._queue.put(request)

    def _work(self) -> None:
        due: float | None = None
        open_ = True
        while open_:
            requests, open_ = self._take(due)
            for part in _split(requests):
                self._answer(part, self._outcomes(part))
            if open_ and self._between is not None:
                due = self._between(self._connection)
        try:
            self._connection.close()
        except duckdb.Error as error:
            _log.warning("%s", translate(error, self._path))

    def _take(self, due: float | None) -> tuple[list[_Request], bool]:
        """What is queued now, waiting at most `due` seconds for it; False when the end was among it."""
        requests: list[_Request] = []
        try:
            item = self._queue.get(timeout=due)
            while item is not None:
                requests.append(item)
                if len(requests) == _MOST_REQUESTS_PER_TRANSACTION:
                    return requests, True
                item = self._queue.get_nowait()
        except queue.Empty:
            return requests, True
        return requests, False

    def _outcomes(self, requests: list[_Request]) -> list[Any]:
        try:
            return self._transact(requests)
        except Exception as error:
            failure = translate(error, self._path) if isinstance(error, duckdb.Error | OSError) else error
            failure.__cause__ = error if failure is not error else error.__cause__
            if len(requests) == 1 or isinstance(failure, DiskFull):
                return [_Failure(failure)] * len(requests)
        return [outcome for request in requests for outcome in self._outcomes([request])]  # find the culprit

    def _transact(self, requests: list[_Request]) -> list[Any]:
        transaction = Transaction(self._connection)
        if requests[0].outside:
            return [requests[0].payload(transaction)]
        try:
            self._connection.execute("BEGIN")
            results = _handle(transaction, requests)
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):  # a failed commit has rolled back already
                self._connection.execute("ROLLBACK")
            for effect in transaction.after_rollback:
                effect()
            raise
        for effect in transaction.after_commit:
            effect()
        return results

    def _answer(self, requests: list[_Request], outcomes: list[Any]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(request.reply, asyncio.Future):
                by_loop.setdefault(request.reply.get_loop(), []).append((request.reply, outcome))
            elif isinstance(outcome, _Failure):
                request.reply.set_exception(outcome.error)
            else:
                request.reply.set_result(outcome)
        for loop, replies in by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, replies)
            except RuntimeError:  # the loop was closed: nobody waits any more
                _log.debug("%s: %d answers for a closed event loop", self._path, len(replies))


def _split(requests: list[_Request]) -> list[list[_Request]]:
    """Runs of requests that may share a transaction, in order."""
    parts: list[list[_Request]] = []
    for request in requests:
        if request.outside or not parts or parts[-1][0].outside:
            parts.append([])
        parts[-1].append(request)
    return parts


def _handle(transaction: Transaction, requests: list[_Request]) -> list[Any]:
    results: list[Any] = [None] * len(requests)
    waiting: dict[Handler, list[int]] = {}

    def flush() -> None:
        for handler, places in waiting.items():
            answers = handler(transaction, [requests[place].payload for place in places])
            for place, answer in zip(places, answers, strict=True):
                results[place] = answer
        waiting.clear()

    for place, request in enumerate(requests):
        if request.handler is None:
            flush()
            results[place] = request.payload(transaction)
        else:
            waiting.setdefault(request.handler, []).append(place)
    flush()
    return results


def _resolve(replies: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for reply, outcome in replies:
        if reply.done():  # cancelled while it waited; what was asked has happened all the same
            continue
        if isinstance(outcome, _Failure):
            reply.set_exception(outcome.error)
        else:
            reply.set_result(outcome)
