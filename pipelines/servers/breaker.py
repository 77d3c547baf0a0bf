"""Whether a server is down: then requests to it are held, and one at a time finds out whether it is back.

A server is down once several requests in a row have failed as they do in an outage: refused and broken
connections, no answer in time, a status of 500 and above. The waits between probes double. An outage concerns
the run and not one example, and ends as ServerDown when it lasts too long.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from pipelines.errors import ServerDown
from pipelines.servers.retrying import LONGEST_WAIT_S, doubled_s

FAULTS_IN_A_ROW = 5
"""Failed requests without an answer between them, after which a server is down."""
_EARLY_S = 0.01  # a timer may ring before its time


@dataclass(slots=True)
class _Outage:
    since: float  # by the breaker's clock
    probe_at: float
    n_probes: int = 0
    reason: str = ""


class Breaker:
    """Holds the requests to one server while it is down.

    Args:
        address: Of the server, for messages.
        longest_s: How long an outage is waited for. None: no request is ever held.
        first_wait_s: Before the first probe, at most; each further wait is twice as long.
        rng: Spreads the waits.
        notify: Called with a line after each probe that fails, and when the server is back after one.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        address: str,
        *,
        longest_s: float | None,
        first_wait_s: float,
        rng: random.Random,
        notify: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._longest_s = longest_s
        self._first_wait_s = first_wait_s
        self._rng = rng
        self._notify = notify
        self._clock = clock
        self._n_faults = 0
        self._first_fault_at = 0.0
        self._outage: _Outage | None = None
        self._ended: str | None = None  # why the outage is waited for no longer
        self._back = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def is_down(self) -> bool:
        """Whether requests are held."""
        return self._outage is not None

    @property
    def outage(self) -> tuple[float, str] | None:
        """For how many seconds the server has been down, and why; None where it is not."""
        if self._outage is None:
            return None
        return self._clock() - self._outage.since, self._outage.reason

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[bool]:
        """Wait while the server is down. The block is the request; it calls `answered` or `failed`.

        Yields:
            Whether the server is down still and this request is the probe.

        Raises:
            ServerDown: The outage has lasted for too long.
        """
        if self._outage is None:
            yield False
            return
        async with self._turn:  # in the order in which they came
            await self._probe_is_due()
            if self._outage is not None:
                yield True
                return
        yield False

    async def _probe_is_due(self) -> None:
        while self._outage is not None and self._ended is None:
            wait_s = self._outage.probe_at - self._clock()
            if wait_s <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._back.wait()
        if self._ended is not None:
            raise ServerDown(self._ended)

    def answered(self) -> None:
        """The server has answered, be it with a refusal."""
        self._n_faults = 0
        if self._outage is not None:
            outage, self._outage = self._outage, None
            self._back.set()
            if outage.n_probes > 1:
                lasted_s = self._clock() - outage.since
                self._notify(f"server {self._address} is back after {lasted_s:.0f} s")

    def asks_too_much(self, retry_after_s: float | None) -> bool:
        """Whether a server asks to be left alone for longer than an outage, or any wait, is to last.

        Args:
            retry_after_s: For how long; None: it does not say.
        """
        return self._longest_s is not None and (retry_after_s or 0.0) > max(self._longest_s, LONGEST_WAIT_S)

    def failed(
        self,
        reason: str,
        *,
        probing: bool,
        retry_after_s: float | None = None,
        overloaded_s: float | None = None,
    ) -> None:
        """A request has failed as in an outage.

        Args:
            reason: In a few words.
            probing: Whether it was the probe.
            retry_after_s: How long the server asks to be left alone; None: it does not say.
            overloaded_s: For how long it has asked for fewer requests and answered none, where that is an
                outage however few requests there were; None: this failure is one of several.
        """
        if self._longest_s is None:
            return
        now = self._clock()
        if not self._n_faults:
            self._first_fault_at = now
        self._n_faults += 1
        is_over = overloaded_s is not None or self.asks_too_much(retry_after_s)
        if self._outage is None and (self._n_faults >= FAULTS_IN_A_ROW or is_over):
            self._first_fault_at = min(self._first_fault_at, now - (overloaded_s or 0.0))
            self._outage = _Outage(since=self._first_fault_at, probe_at=now)
            self._back.clear()
            probing = True
        if self._outage is not None and probing:  # others were in flight when it began
            self._hold(self._outage, now, self._longest_s, reason, retry_after_s or 0.0)

    def _hold(self, outage: _Outage, now: float, longest_s: float, reason: str, least_s: float) -> None:
        outage.reason = reason
        lasted_s = now - outage.since
        left_s = longest_s - lasted_s
        if left_s <= _EARLY_S or least_s > left_s:
            asks = f" and asks to wait {least_s:.0f} s" if least_s > left_s > 0 else ""
            self._ended = (
                f"server {self._address} has answered nothing for {lasted_s:.0f} s ({reason}){asks}, and "
                f"{longest_s:g} s are waited (--longest-outage); nothing that was paid is lost: repeat the "
                "command (with --resume, where it has one) when the server is well"
            )
            return
        most_s = doubled_s(self._first_wait_s, outage.n_probes)
        wait_s = min(max(least_s, self._rng.uniform(most_s / 2, most_s)), left_s)
        outage.n_probes += 1
        outage.probe_at = now + wait_s
        if outage.n_probes > 1:  # not when it only sheds load for a moment
            began = time.strftime("%H:%M:%S", time.localtime(time.time() - lasted_s))
            self._notify(
                f"server {self._address} is down since {began} ({reason}), next probe in {wait_s:.0f} s"
            )
