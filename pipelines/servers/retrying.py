"""How long one draw is tried again: by the time that has passed, not by a number of tries.

A server that is down is no draw's affair: see `breaker`. What is counted here is met while it answers others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.errors import DrawFailed
from pipelines.servers.patience import Patience
from pipelines.servers.wire import Fault

LONGEST_WAIT_S = 60.0  # between two tries where the server does not say how long
MOST_OVERLOADS = 60  # of one request while others are answered
OWN_FAULTS = 3
"""Faults of one draw, after which its prompt may be what the server can't bear."""


class Overload:
    """For how long a server has asked for fewer requests, and answered none.

    Args:
        forgotten_s: Seconds without a sign of overload, after which it is another one.
    """

    def __init__(self, forgotten_s: float) -> None:
        self._forgotten_s = forgotten_s
        self._since: float | None = None
        self._last = 0.0

    @property
    def lasted_s(self) -> float:
        """Seconds; 0 without one."""
        return 0.0 if self._since is None else self._last - self._since

    def add(self) -> bool:
        """The server has asked for fewer requests; returns whether it did not before."""
        now = time.monotonic()
        begins = self._since is None or now - self._last > self._forgotten_s
        if begins:
            self._since = now
        self._last = now
        return begins

    def end(self) -> None:
        """The server has answered."""
        self._since = None


@dataclass(slots=True)
class Tries:
    """The tries of one draw.

    Attributes:
        where: The model and its server, for messages.
        patience: How long is waited.
        holds: Whether requests are held while the server is down. Else an overload that lasts for
            `longest_outage_s` fails the draw.
        jittered_s: A wait before the k-th retry.
        alone_since: When the server, asked in between, first answered another prompt (monotonic); None: it
            did not.
        n_faults: Faults so far.
    """

    where: str
    patience: Patience
    holds: bool
    jittered_s: Callable[[int], float]
    alone_since: float | None = None
    n_faults: int = 0
    _n_overloads: int = 0
    _n_others: int = 0  # since the server was last down
    _since: float = 0.0  # of the first of these

    @property
    def is_suspect(self) -> bool:
        """Whether a prompt that does no harm is to show first that the server is down."""
        return self.n_faults >= OWN_FAULTS

    def wait_s(self, fault: Fault, *, is_down: bool, overloaded_s: float) -> float:
        """Return how long to wait before the next try.

        Args:
            fault: How the last one ended.
            is_down: Whether the server is down, so that the next one is held.
            overloaded_s: For how long it has asked for fewer requests, and answered none.

        Raises:
            DrawFailed: There is none.
        """
        self.n_faults += 1
        now, alone_since = time.monotonic(), self.alone_since
        if alone_since is not None and (fault.outage or now - alone_since >= self.patience.retry_s):
            raise self._failed(f"{fault.reason}, while another prompt is answered", fault)
        if is_down:
            self._n_overloads = self._n_others = 0
            return 0.0
        if fault.kind == "overload":
            return self._overload_s(fault, overloaded_s)
        self._since = self._since if self._n_others else now
        self._n_others += 1
        left_s = self.patience.retry_s - (now - self._since)
        if left_s <= 0:
            raise self._failed(f"{fault.reason}, {self._n_others} tries", fault)
        return min(left_s, max(fault.retry_after_s or 0.0, self.jittered_s(self._n_others - 1)))

    def _overload_s(self, fault: Fault, overloaded_s: float) -> float:
        self._n_overloads += 1
        n, ahead_s, most_s = self._n_overloads, fault.retry_after_s or 0.0, self.patience.longest_outage_s
        if self.holds:
            if n >= MOST_OVERLOADS:
                raise self._failed(f"{fault.reason}, {n} tries while others were answered", fault)
        elif ahead_s > most_s:
            why = f"it asks to wait {ahead_s:.0f} s, more than the {most_s:g} s that are waited"
            raise self._failed(f"{fault.reason}, {why}", fault)
        elif overloaded_s + ahead_s >= most_s or n >= MOST_OVERLOADS:
            raise self._failed(f"{fault.reason}, {n} tries, no answer for {overloaded_s:.0f} s", fault)
        return 0.0  # the limiter holds it back

    def _failed(self, why: str, fault: Fault) -> DrawFailed:
        failure = DrawFailed(f"{self.where}: {why}", transient=True)
        failure.__cause__ = fault
        return failure


def doubled_s(first_s: float, attempt: int) -> float:
    """Return the longest wait before try k = 0, 1, …: first_s · 2^k, 60 s at most.

    Args:
        first_s: The longest wait before the first.
        attempt: k.
    """
    return min(LONGEST_WAIT_S, first_s * 2.0 ** min(attempt, 30))
