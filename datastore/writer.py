"""The one thread that talks to DuckDB. Requests queue up, and all that have queued share one transaction.

A request is answered after its transaction is committed (fsync included), so an answered write is durable.
Batched requests (puts and look-ups, which commute) are collected and handled together; an action is executed
alone, in the order of the requests. This module does not know what the requests do.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from datastore.errors import DiskFull, StoreClosed, translate
from datastore.openfile import OpenFile

_log = logging.getLogger(__name__)
_MOST_REQUESTS_PER_TRANSACTION = 4096

Result = TypeVar("Result")
Payload = TypeVar("Payload")


class Transaction:
    """An open transaction, as handlers and actions receive it.

    Attributes:
        connection: The connection, inside the transaction.
        after_commit: Functions to call after the commit; handlers append to it.
        after_rollback: Functions to call after a rollback; handlers append to it.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self.after_commit: list[Callable[[], None]] = []
        self.after_rollback: list[Callable[[], None]] = []


Action = Callable[[Transaction], object]
Handler = Callable[[Transaction, Sequence[Any]], Sequence[object]]


@dataclass(eq=False, slots=True)
class _Request:
    """Either an action, or a payload for a handler."""

    reply: Future[Any] | asyncio.Future[Any]
    action: Action | None = None
    outside: bool = False  # the action must not run inside a transaction
    handler: Handler | None = None
    payload: object = None


@dataclass(slots=True)
class _Failure:
    error: BaseException


class Writer:
    """Owns a connection and the thread that uses it."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        path: Path,
        *,
        between: Callable[[duckdb.DuckDBPyConnection], float | None] | None = None,
        file: OpenFile | None = None,
    ) -> None:
        """Start the thread.

        Args:
            connection: The connection; nothing else may use it from now on.
            path: The database file, for messages.
            between: Called after each transaction, outside of one. It returns the seconds after which it must
                be called again even without a transaction; None: not before the next one.
            file: The database file, which is checked before each commit; None: nothing is written.
        """
        self._connection = connection
        self._path = path
        self._between = between
        self._file = file
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"store {path.name}", daemon=True)
        self._thread.start()

    def run(self, action: Callable[[Transaction], Result], *, outside: bool = False) -> Result:
        """Run an action in the thread and wait until it is committed.

        Args:
            action: Called with the transaction, after everything that was submitted before.
            outside: Run it outside of a transaction.

        Returns:
            What the action returns.

        Raises:
            StoreClosed: The writer was closed.
            StoreError: DuckDB or the system refused; errors that the action raises are raised as they are.
        """
        reply: Future[Result] = Future()
        self._submit(_Request(reply, action=action, outside=outside))
        return reply.result()

    def submit(
        self, handler: Callable[[Transaction, Sequence[Payload]], Sequence[Result]], payload: Payload
    ) -> asyncio.Future[Result]:
        """Queue a payload for a handler. Must be called on an event loop.

        Args:
            handler: Called with the transaction and all payloads that are queued for it; returns an answer
                for each.
            payload: The payload.

        Returns:
            A future for the handler's answer, done once the transaction is committed.

        Raises:
            StoreClosed: The writer was closed.
        """
        reply: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._submit(_Request(reply, handler=handler, payload=payload))
        return reply

    def close(self) -> None:
        """Finish all queued work, then close the connection. Closing a closed writer does nothing."""
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
            if self._file is not None and self._file.has_anothers_log():
                self._connection.execute("PRAGMA disable_checkpoint_on_shutdown")
            self._connection.close()
        except duckdb.Error as error:
            _log.warning("%s", translate(error, self._path))

    def _take(self, due: float | None) -> tuple[list[_Request], bool]:
        """Return the queued requests, after `due` seconds at most, and whether the writer is still open."""
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

    def _outcomes(self, requests: list[_Request]) -> list[object]:
        try:
            return self._transact(requests)
        except Exception as error:
            failure = translate(error, self._path) if isinstance(error, duckdb.Error | OSError) else error
            failure.__cause__ = error if failure is not error else error.__cause__
            if len(requests) == 1 or isinstance(failure, DiskFull):
                return [_Failure(failure)] * len(requests)
        return [outcome for request in requests for outcome in self._outcomes([request])]  # find the culprit

    def _transact(self, requests: list[_Request]) -> list[object]:
        transaction = Transaction(self._connection)
        if requests[0].outside and requests[0].action is not None:
            return [requests[0].action(transaction)]
        try:
            self._connection.execute("BEGIN")
            results = _handle(transaction, requests)
            with nullcontext() if self._file is None else self._file.committing():
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

    def _answer(self, requests: list[_Request], outcomes: list[object]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], object]]] = {}
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
    """Split requests into sequences that may each share a transaction, in order."""
    parts: list[list[_Request]] = []
    for request in requests:
        if request.outside or not parts or parts[-1][0].outside:
            parts.append([])
        parts[-1].append(request)
    return parts


def _handle(transaction: Transaction, requests: list[_Request]) -> list[object]:
    results: list[object] = [None] * len(requests)
    waiting: dict[Handler, list[int]] = {}

    def flush() -> None:
        for handler, places in waiting.items():
            answers = handler(transaction, [requests[place].payload for place in places])
            for place, answer in zip(places, answers, strict=True):
                results[place] = answer
        waiting.clear()

    for place, request in enumerate(requests):
        if request.action is not None:
            flush()
            results[place] = request.action(transaction)
        elif request.handler is not None:
            waiting.setdefault(request.handler, []).append(place)
    flush()
    return results


def _resolve(replies: list[tuple[asyncio.Future[Any], object]]) -> None:
    for reply, outcome in replies:
        if reply.done():  # cancelled while it waited; the transaction is committed all the same
            continue
        if isinstance(outcome, _Failure):
            reply.set_exception(outcome.error)
        else:
            reply.set_result(outcome)
