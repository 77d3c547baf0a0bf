"""How a server is doing: up or down, overloaded or not, and so how many requests it may have at once."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NoReturn

from pipelines.servers.breaker import Breaker
from pipelines.servers.health import ServerHealth
from pipelines.servers.limiter import AdaptiveLimiter
from pipelines.servers.retrying import LONGEST_WAIT_S, Overload, doubled_s
from pipelines.servers.wire import Fault

_OVERLOADED_S = 30.0  # without an answer, after which a server that asks for fewer requests is down


class WentDown(Exception):
    """The server went down before the request was sent."""


class Condition:
    """The condition of one server, by what comes of its requests.

    Args:
        address: The server's, for messages.
        max_in_flight: Requests at once, at the very most.
        longest_outage_s: How long an outage is waited for.
        holds: Whether requests are held while the server is down, for `longest_outage_s`.
        backoff_s: Scales the waits between tries, and twice that between probes of a server that is down.
        rng: Spreads the waits.
        notify: Called with a line when the server is down, and when it is back.

    Attributes:
        limiter: What holds requests back while the server is overloaded.
    """

    def __init__(
        self,
        address: str,
        *,
        max_in_flight: int,
        longest_outage_s: float,
        holds: bool,
        backoff_s: float,
        rng: random.Random,
        notify: Callable[[str], None],
    ) -> None:
        self.limiter = AdaptiveLimiter(start=min(32, max_in_flight), most=max_in_flight)
        self._address = address
        self._notify = notify
        self._holds = holds
        self._longest_outage_s = longest_outage_s
        self._backoff_s = backoff_s
        self._rng = rng
        self._n_answered = self._n_faults = 0
        self._overload = Overload(max(longest_outage_s, 2 * LONGEST_WAIT_S))
        self._breaker = Breaker(
            address,
            longest_s=longest_outage_s if holds else None,
            first_wait_s=2 * backoff_s,
            rng=rng,
            notify=notify,
        )

    @property
    def is_down(self) -> bool:
        """Whether the server is down."""
        return self._breaker.is_down

    @property
    def overloaded_s(self) -> float:
        """For how long the server has asked for fewer requests, and answered none; 0 where it has not."""
        return self._overload.lasted_s

    def health(self, models: tuple[str, ...]) -> ServerHealth:
        """Return the condition as it is shown.

        Args:
            models: Keys in the spec of the models that the server serves.
        """
        down_s, reason = self._breaker.outage or (None, None)
        return ServerHealth(
            address=self._address,
            models=models,
            n_answered=self._n_answered,
            n_faults=self._n_faults,
            in_flight=self.limiter.in_flight,
            most_in_flight=self.limiter.limit,
            down_s=down_s,
            reason=reason,
        )

    def passing(self) -> AbstractAsyncContextManager[bool]:
        """Wait until a draw may be tried; the context holds whether it is a probe, as `Breaker.passing`."""
        return self._breaker.passing()

    @asynccontextmanager
    async def place(self, *, probing: bool) -> AsyncIterator[int]:
        """Hold a place of the limiter, which a probe does not need.

        Yields:
            The limiter's epoch, for `trouble`.

        Raises:
            WentDown: The server went down while the place was waited for.
        """
        if probing:
            yield self.limiter.epoch
            return
        async with self.limiter as epoch:
            if self.is_down:
                raise WentDown
            yield epoch

    def answered(self, *, in_full: bool = False) -> None:
        """Record an answer: the server is neither down nor overloaded.

        Args:
            in_full: Whether it is what was asked for, and no refusal.
        """
        self._n_answered += 1
        self._overload.end()
        self._breaker.answered()
        if in_full:
            self.limiter.answered()

    def trouble(self, fault: Fault, epoch: int, *, probing: bool) -> NoReturn:
        """Record a fault, and raise it.

        Args:
            fault: The fault.
            epoch: What the request's place held.
            probing: Whether the request was a probe.
        """
        self._n_faults += 1
        is_outage, overloaded_s = fault.outage, None
        if fault.kind == "overload":
            if self._overload.add() and not self._holds:
                self._notify(
                    f"server {self._address} is overloaded ({fault.reason}); it is asked again until it has "
                    f"answered nothing for {self._longest_outage_s:g} s"
                )
            if self._overload.lasted_s >= _OVERLOADED_S:
                overloaded_s = self._overload.lasted_s
            is_outage = is_outage or probing or overloaded_s is not None
        if is_outage or self._breaker.asks_too_much(fault.retry_after_s):
            self._breaker.failed(
                fault.reason,
                probing=probing,
                retry_after_s=fault.retry_after_s,
                overloaded_s=overloaded_s,
            )
        if fault.kind == "overload" and not self._breaker.is_down:
            pause_s = self.jittered_s(self.limiter.streak)
            self.limiter.overloaded(epoch, fault.retry_after_s, pause_s=pause_s)
        elif fault.kind != "fault":
            self.limiter.overloaded(epoch)
        raise fault

    def jittered_s(self, attempt: int) -> float:
        """Return the seconds to wait before the k-th retry."""
        return self._rng.uniform(0, doubled_s(self._backoff_s, attempt))
