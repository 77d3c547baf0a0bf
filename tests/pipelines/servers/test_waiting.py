"""How long a server asks to be left alone, and how an overloaded or absent one is waited out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate

import pytest

from pipelines.errors import DrawFailed, ServerDown
from pipelines.servers.patience import Patience
from pipelines.servers.server import ServerClient
from pipelines.servers.waiting import retry_after_s
from pipelines.spec.models import SamplingSpec
from tests.servers import ScriptedServer

CHAT = {"messages": [{"role": "user", "content": "which colour is it"}]}
SAMPLING = SamplingSpec(max_tokens=8)
NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"Retry-After": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"Retry-After": formatdate(50.0, usegmt=True), "Date": formatdate(45.0, usegmt=True)}, 5.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"x-ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-reset": str(NOW + 20)}, 20.0),
        ({"x-ratelimit-reset": str(int((NOW + 20) * 1000))}, 20.0),
        ({"x-ratelimit-reset-requests": "1m30s", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-reset-requests": "90s", "x-ratelimit-remaining-requests": "0"}, 90.0),
    ],
)
def test_headers_that_say_how_long(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, dates, milliseconds, durations and points in time; nonsense counts as absent."""
    found = retry_after_s(headers, NOW)
    assert found is None if seconds is None else found == pytest.approx(seconds)


@pytest.mark.parametrize("fault", ["429", "503", "529"])
async def test_overload_does_not_use_up_retries(
    server: ScriptedServer, connect: Callable[..., ServerClient], fault: str
) -> None:
    """Twelve refusals for overload are waited out with a single retry, and fewer requests are in flight."""
    server.retry_after_s = 0.001
    server.fault_next(*[fault] * 12)
    client = connect(server, patience=Patience(retry_s=0.001))
    assert len((await client.draw("small", CHAT, SAMPLING, 1)).samples) == 1
    assert client.limiter.limit <= 2


async def test_overload_beyond_the_patience(
    server: ScriptedServer, connect: Callable[..., ServerClient]
) -> None:
    """Where nothing is held a draw fails after the stated time, or at once if the server asks for more. Else
    a server that asks for more is down.
    """
    server.fault = lambda request: "529"
    patience = Patience(longest_outage_s=0.05)
    with pytest.raises(DrawFailed, match=r"status 529: .*, \d+ tries, no answer for") as caught:
        await connect(server, patience=patience, holds=False).draw("small", CHAT, SAMPLING, 1)
    assert caught.value.transient
    server.fault, server.retry_after_s = (lambda request: "429"), 3600
    for holds, error in ((False, DrawFailed), (True, ServerDown)):
        n_arrived = len(server.arrived)
        with pytest.raises(error, match="asks to wait 3600 s"):
            await connect(server, holds=holds).draw("small", CHAT, SAMPLING, 1)
        assert len(server.arrived) == n_arrived + 1


async def test_a_server_that_restarts_is_waited_for(
    server: ScriptedServer, connect: Callable[..., ServerClient]
) -> None:
    """Refused connections are an outage, which is waited for beyond the time for retries."""
    client = connect(server, patience=Patience(retry_s=0.05))
    await client.draw("small", CHAT, SAMPLING, 1)
    server.stop()
    drawing = asyncio.create_task(client.draw("small", CHAT, SAMPLING, 1))
    await asyncio.sleep(0.2)
    assert not drawing.done()
    server.start()
    assert len((await asyncio.wait_for(drawing, 30)).samples) == 1


async def test_a_date_in_retry_after_is_waited_for(
    server: ScriptedServer, connect: Callable[..., ServerClient]
) -> None:
    """Nothing is sent before the date that the server names."""
    until = float(int(time.time()) + 2)
    late = formatdate(until, usegmt=True)
    server.reply = lambda request: (429, {}, {"retry-after": late}) if time.time() < until - 0.5 else None
    await connect(server).draw("small", CHAT, SAMPLING, 1)
    assert len(server.arrived) == 2 and time.time() >= until - 0.1
