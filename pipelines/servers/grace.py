"""What becomes of the requests in flight when a run is stopped: they are awaited for a short time, and kept.

A server bills a request that it has begun, whether or not anybody reads the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

GRACE_S = 5.0
"""Seconds for which requests in flight are awaited once a run is stopped."""
_SILENT_S = 0.2  # what is over so soon nobody needs to know of


def end_if_cancelled() -> None:
    """Raise the CancelledError that `Grace.awaited` has put off in this task, if it has."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Grace:
    """The end of drawing for all servers of a run: it begins when the first of their requests is cancelled.

    Args:
        seconds: How long requests in flight are awaited, all of them together.
        notify: Called with a line when there are any that do not come at once.
    """

    def __init__(self, seconds: float, notify: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._notify = notify
        self._until: float | None = None  # monotonic
        self._has_notified = False
        self._n_in_flight = 0

    def check(self) -> None:
        """Raise CancelledError once the end has begun, so that no request begins."""
        if self._until is not None:
            raise asyncio.CancelledError

    async def awaited(
        self, request: Coroutine[Any, Any, Result], on_stop: Callable[[], None] | None = None
    ) -> Result:
        """Return what a request brings, also when its task is cancelled, if it comes in time.

        Whoever calls this keeps what came, and then calls `end_if_cancelled`. A second cancellation ends at
        once.

        Args:
            request: Not begun yet.
            on_stop: Called when the task is cancelled before the waiting; None: nothing is to be done.

        Raises:
            CancelledError: The task was cancelled, and nothing came in time.
        """
        task = asyncio.ensure_future(request)
        self._n_in_flight += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            if on_stop is not None:
                on_stop()
            await asyncio.wait([task], timeout=min(_SILENT_S, self._begun_s()))
            if not task.done():
                self._notify_once()
                await asyncio.wait([task], timeout=self._begun_s())
            if not task.done():
                raise
            return task.result()
        finally:
            self._n_in_flight -= 1
            task.cancel()

    def _begun_s(self) -> float:
        """Seconds that are left; the first call begins them."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        return max(0.0, self._until - now)

    def _notify_once(self) -> None:
        if not self._has_notified:
            self._has_notified = True
            n = self._n_in_flight
            self._notify(
                f"stopping: {n} request{'s' * (n != 1)} in flight {'is' if n == 1 else 'are'} awaited for "
                f"{self._seconds:g} s at most, and kept; stop again to end at once"
            )
