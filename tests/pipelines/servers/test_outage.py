"""A server that is down: its requests are held, one at a time probes it, and the wait for it has an end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from pipelines.errors import ConfigurationError, DrawFailed, ServerDown
from pipelines.servers.breaker import FAULTS_IN_A_ROW, Breaker
from pipelines.servers.patience import Patience
from pipelines.servers.server import ServerClient
from pipelines.spec.models import SamplingSpec
from tests.servers import ScriptedServer

SAMPLING = SamplingSpec(max_tokens=8)
MakeClient = Callable[..., ServerClient]


def chat(number: int) -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": "user", "content": f"which colour is ball {number}"}]}


async def draw_all(client: ServerClient, n: int) -> int:
    """Draw a sample of n prompts at once; how many came."""
    draws = await asyncio.gather(*(client.draw("small", chat(i), SAMPLING, 1) for i in range(n)))
    return sum(len(draw.samples) for draw in draws)


@pytest.mark.parametrize("fault", ["500", "503", "529", "close", "garbage"])
async def test_an_outage_is_waited_out(server: ScriptedServer, connect: MakeClient, fault: str) -> None:
    """While a server is down few requests are sent, each once; then all are answered, and it is told."""
    down_until = time.monotonic() + 1.0
    server.fault = lambda request: fault if time.monotonic() < down_until else None
    notices: list[str] = []
    client = connect(server, patience=Patience(retry_s=0.01), backoff_s=0.02, on_notice=notices.append)
    assert await draw_all(client, 40) == 40
    failed = len(server.arrived) - 40
    assert failed <= 32 + 12, "those in flight when it began, and the probes"
    assert sum(server.samples.values()) == 40 == server.n_answered
    assert all(f"server {server.base_url} is down since " in line for line in notices[:-1])
    assert "next probe in" in notices[0] and f"server {server.base_url} is back after " in notices[-1]


async def test_an_outage_that_lasts_too_long_ends_as_such(
    server: ScriptedServer, connect: MakeClient
) -> None:
    """Every request that is held raises ServerDown with reason and remedy; none is a missing value."""
    server.fault = lambda request: "503"
    client = connect(server, patience=Patience(longest_outage_s=0.3), backoff_s=0.02)
    draws = (client.draw("small", chat(i), SAMPLING, 1) for i in range(20))
    endings = await asyncio.gather(*draws, return_exceptions=True)
    assert {type(ending) for ending in endings} == {ServerDown}
    assert "status 503" in str(endings[0]) and "--longest-outage" in str(endings[0])


async def test_no_outage_is_waited_for_where_none_may_be(server: ScriptedServer, connect: MakeClient) -> None:
    """With 0 the run stops after several faults in a row."""
    server.fault = lambda request: "503"
    with pytest.raises(ServerDown):
        await connect(server, patience=Patience(longest_outage_s=0)).draw("small", chat(0), SAMPLING, 1)
    assert len(server.arrived) == FAULTS_IN_A_ROW


async def test_a_server_that_nobody_listens_for_is_down(server: ScriptedServer, connect: MakeClient) -> None:
    """Refused connections are an outage too, and a server that is started again is found."""
    client = connect(server, backoff_s=0.02, patience=Patience(retry_s=0.01))
    await client.draw("small", chat(0), SAMPLING, 1)
    server.stop()
    drawing = asyncio.create_task(draw_all(client, 10))
    await asyncio.sleep(0.3)
    assert not drawing.done()
    server.start()
    assert await asyncio.wait_for(drawing, 30) == 10


@pytest.mark.parametrize("fault", ["500", "close"])
async def test_a_prompt_that_a_server_can_not_bear_is_no_outage(
    server: ScriptedServer, connect: MakeClient, fault: str
) -> None:
    """The last requests all fail, and one for a harmless prompt is answered: these prompts alone fail."""
    server.fault = lambda request: fault if "ball 3" in request.prompt else None
    client = connect(server, backoff_s=0.005)
    draws = (client.draw("small", chat(i), SAMPLING, 1) for i in (1, 2, 3, 30, 31, 4))
    endings = await asyncio.wait_for(asyncio.gather(*draws, return_exceptions=True), 30)
    failed = [ending for ending in endings if isinstance(ending, BaseException)]
    assert len(failed) == 3 and all(isinstance(failure, DrawFailed) for failure in failed)
    assert "while another prompt is answered" in str(failed[0])


async def test_an_overload_without_an_answer_is_an_outage(
    server: ScriptedServer, connect: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a single request, whose tries come ever more rarely."""
    monkeypatch.setattr("pipelines.servers.condition._OVERLOADED_S", 0.3)
    server.fault, server.retry_after_s = (lambda request: "429"), 0.4
    client = connect(server, backoff_s=0.005, patience=Patience(longest_outage_s=0.2))
    with pytest.raises(ServerDown, match=r"status 429: .*\), and 0.2 s are waited"):
        await asyncio.wait_for(client.draw("small", chat(0), SAMPLING, 1), 10)
    assert len(server.arrived) == 2


async def test_a_prompt_that_always_overloads_a_server_is_no_outage(
    server: ScriptedServer, connect: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a harmless prompt is answered and this one is told to wait again and again, it alone fails."""
    monkeypatch.setattr("pipelines.servers.condition._OVERLOADED_S", 0.05)
    server.fault = lambda request: "429" if "ball 3" in request.prompt else None
    client = connect(server, backoff_s=0.005, patience=Patience(retry_s=0.3, longest_outage_s=20))
    with pytest.raises(DrawFailed, match=r"status 429: .*, while another prompt is answered"):
        await asyncio.wait_for(client.draw("small", chat(3), SAMPLING, 1), 10)


async def test_answers_between_faults_are_no_outage(server: ScriptedServer, connect: MakeClient) -> None:
    """One request in three fails: nothing is held, and nothing is told."""
    server.fault = lambda request: "500" if len(server.arrived) % 3 == 0 else None
    notices: list[str] = []
    assert await draw_all(connect(server, on_notice=notices.append), 60) == 60
    assert not notices


async def test_refusals_of_a_request_are_no_outage(server: ScriptedServer, connect: MakeClient) -> None:
    """A server that refuses every prompt is up."""
    server.fault = lambda request: "filtered" if "ball" in request.prompt else None
    client = connect(server, patience=Patience(longest_outage_s=0))
    draws = (client.draw("small", chat(i), SAMPLING, 1) for i in range(10))
    endings = await asyncio.gather(*draws, return_exceptions=True)
    assert {isinstance(ending, DrawFailed) for ending in endings} == {True}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock, notices: list[str], longest_s: float = 600.0) -> Breaker:
    return Breaker(
        "http://far/v1",
        longest_s=longest_s,
        first_wait_s=1.0,
        rng=random.Random(0),
        notify=notices.append,
        clock=clock,
    )


def waits(notices: list[str]) -> list[int]:
    return [int(line.rpartition("next probe in ")[2].removesuffix(" s")) for line in notices]


def test_the_waits_between_probes_double() -> None:
    """From a second to a minute, each between half and the whole of twice the one before; the same seed gives
    the same waits.
    """
    clock, notices, again = Clock(), list[str](), list[str]()
    for lines in (notices, again):
        one = breaker(clock, lines)
        for _ in range(FAULTS_IN_A_ROW):
            one.failed("status 503", probing=False)
        for _ in range(8):
            one.failed("status 503", probing=True)
    assert waits(notices) == waits(again)
    assert all(min(60, 2**k) / 2 - 1 <= s <= min(60, 2**k) for k, s in enumerate(waits(notices), 1))


def test_what_the_server_asks_for_is_waited() -> None:
    """Retry-After is the least wait before the next probe; one beyond what is waited ends the outage."""
    clock, notices = Clock(), list[str]()
    one = breaker(clock, notices)
    for _ in range(FAULTS_IN_A_ROW):
        one.failed("status 503", probing=False)
    one.failed("status 503", probing=True, retry_after_s=45.0)
    assert waits(notices) == [45]
    one.failed("status 503", probing=True, retry_after_s=3600.0)
    assert waits(notices) == [45] and one.is_down


async def test_requests_in_flight_when_it_began_do_not_put_off_the_probe() -> None:
    """Thirty more faults at the same moment are one outage with one wait."""
    clock, notices = Clock(), list[str]()
    one = breaker(clock, notices)
    for _ in range(FAULTS_IN_A_ROW + 30):
        one.failed("status 503", probing=False)
    clock.now += 1.0
    async with asyncio.timeout(5), one.passing() as probing:
        assert probing
        one.answered()
    async with one.passing() as probing:
        assert not probing


@pytest.mark.parametrize(
    ("seconds", "named"),
    [
        ({"timeout_s": 0}, "timeout_s (--timeout) is a number of seconds, above 0, got 0"),
        ({"retry_s": -1}, "retry_s (--retry-for) is a number of seconds, 0 or more"),
        ({"longest_outage_s": float("nan")}, "longest_outage_s (--longest-outage) is a number"),
    ],
)
def test_seconds_are_checked(seconds: dict[str, float], named: str) -> None:
    """The message names the argument and the option."""
    with pytest.raises(ConfigurationError) as caught:
        Patience(**seconds)
    assert named in str(caught.value)
