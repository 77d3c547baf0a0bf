"""Who may ask the service, and how much: key or host, size of a body, requests under way.

With a key, the key decides. Without one the service listens on this machine only, and what a browser sends
for a page of another site, or under another host name (DNS rebinding), is refused.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect, Request

from agenttts.origin import is_from_another_site, is_own_host
from agenttts.service.problems import RETRY_AFTER_S, Problem

_OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")
BODY_S = 30.0
"""Seconds in which a body must have come."""
_PASSED_OVER = 16 << 20
"""Bytes of too long a body that are read and not kept: most clients look for an answer only afterwards."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the service takes.

    Attributes:
        requests: Under way at once; a further one is answered with 429.
        body_bytes: Of a request's body; a longer one is answered with 413.
        body_s: Seconds in which a body must have come; a slower one is answered with 408.
    """

    requests: int = 64
    body_bytes: int = 1_000_000
    body_s: float = BODY_S


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Who may ask.

    Attributes:
        host: The address at which the service listens, as a URL writes it.
        port: Its port.
        key: What a client sends as a bearer token; None: anybody on this machine may ask.
    """

    host: str
    port: int
    key: str | None = field(default=None, repr=False)

    def check(self, request: Request) -> None:
        """Raise a Problem for a request that is refused."""
        if self.key is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            is_key = hmac.compare_digest(given.encode("latin-1"), self.key.encode())
            if scheme.lower() != "bearer" or not is_key:
                message = "the key is missing or wrong; send it as `Authorization: Bearer KEY`"
                raise Problem(401, "invalid_api_key", message, kind="authentication_error")
            return
        if not is_own_host(request.headers, (*_OWN_NAMES, self.host), self.port):
            raise Problem(403, "wrong_host", f"the host must be {self.host}:{self.port}")
        if is_from_another_site(request.headers):
            raise Problem(403, "foreign_origin", "a page of another site has sent this; it is refused")


class Places:
    """Requests under way, at most so many."""

    def __init__(self, most: int) -> None:
        self._free = most

    def take(self) -> Callable[[], None]:
        """Take a place, and return what gives it back, once.

        Raises:
            Problem: There is none.
        """
        if self._free <= 0:
            message = "as many requests as the service takes are under way; try again soon"
            raise Problem(
                429, "too_many_requests", message, kind="rate_limit_error", retry_after_s=RETRY_AFTER_S
            )
        self._free -= 1
        return self._give_back

    def _give_back(self) -> None:
        self._free += 1


async def body_of(request: Request, limits: Limits) -> bytes:
    """Read a body.

    Args:
        request: The request.
        limits: The most bytes, and seconds.

    Raises:
        Problem: It is too long, too slow, or breaks off.
    """
    too_long = Problem(413, "too_large", f"a body has at most {limits.body_bytes:,} bytes")
    most = limits.body_bytes + _PASSED_OVER
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and (len(stated) > 15 or int(stated) > most):
        raise too_long
    body, n_bytes = bytearray(), 0
    try:
        async with asyncio.timeout(limits.body_s):
            async for part in request.stream():
                n_bytes += len(part)
                if n_bytes > most:
                    raise too_long
                if n_bytes <= limits.body_bytes:
                    body += part
    except TimeoutError:
        raise Problem(408, "too_slow", f"a body must come within {limits.body_s:g} s") from None
    except ClientDisconnect:
        raise Problem(400, "broken_off", "the body broke off") from None
    if n_bytes > limits.body_bytes:
        raise too_long
    return bytes(body)
