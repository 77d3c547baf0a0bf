"""How many requests a server has in flight: more while answers come, half at a sign of overload.

Additive increase and multiplicative decrease, as in TCP congestion avoidance (RFC 5681): the limit grows by
one in each round trip that fills it, and halves at most once a round trip. It decides when a request may
start; sending it, and sending it again, is left to `clients`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable


class AdaptiveLimiter:
    """`async with limiter as epoch:` waits for a free place and holds it.

    start, most: requests in flight at first, and at the very most. The limit never falls below one.
    clock: seconds, monotonic; the one that `Retry-After` is measured on.
    Inside the block the caller says how it went: `answered()`, or `overloaded(epoch)`.
    """

    def __init__(
        self, *, start: int = 32, most: int = 64, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not 1 <= start <= most:
            raise ValueError(f"start must be from 1 to most={most}, got {start}")
        self._limit = float(start)
        self._most = float(most)
        self._clock = clock
        self._in_flight = 0
        self._epoch = 0
        self._streak = 0
        self._closed_until = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def epoch(self) -> int:
        """What entering gives; for a request that takes no place."""
        return self._epoch

    @property
    def streak(self) -> int:
        """How often the limit was halved since the last answer."""
        return self._streak

    async def __aenter__(self) -> int:
        if self._waiting or not self._has_place():
            await self._wait()
        else:
            self._in_flight += 1
        return self._epoch

    async def __aexit__(self, *_: object) -> None:
        self._in_flight -= 1
        if self._waiting:
            self._admit()

    def answered(self) -> None:
        """A request was answered: one place more for each full round of answers."""
        self._streak = 0
        if self._in_flight >= self._limit - 1:
            self._limit = min(self._most, self._limit + 1 / self._limit)

    def overloaded(
        self, epoch: int, retry_after_s: float | None = None, *, pause_s: float | None = None
    ) -> None:
        """The server is overloaded: half the places, unless this request started before the last halving.

        Args:
            epoch: What entering the limiter gave.
            retry_after_s: Seconds for which nothing starts; None: the server did not say.
            pause_s: The same, where this request is the one that halves the places; None: no pause.
        """
        if epoch == self._epoch:
            self._epoch += 1
            self._streak += 1
            self._limit = max(1.0, self._limit / 2)
            retry_after_s = max(retry_after_s or 0.0, pause_s or 0.0)
        if retry_after_s:
            self._closed_until = max(self._closed_until, self._clock() + retry_after_s)

    def _has_place(self) -> bool:
        return self._in_flight < int(self._limit) and self._clock() >= self._closed_until

    async def _wait(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._in_flight -= 1
            self._admit()
            raise

    def _admit(self) -> None:
        """Give free places to those that wait, in order; come back when `Retry-After` is over."""
        while self._waiting and self._has_place():
            place = self._waiting.popleft()
            if not place.done():
                self._in_flight += 1
                place.set_result(None)
        closed_s = self._closed_until - self._clock()
        if self._waiting and closed_s > 0 and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(closed_s, self._reopen)

    def _reopen(self) -> None:
        self._timer = None
        self._admit()
