"""What a cancelled run does with requests in flight: they are awaited for a stated time, and kept."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from datastore import Store
from pipelines.runtime.sampler import Sampler
from pipelines.servers.clients import ModelClients
from tests.agenttts.small_specs import small_spec
from tests.servers import ScriptedServer


@pytest.mark.parametrize(("latency_s", "kept"), [(0.4, True), (20.0, False)])
async def test_requests_in_flight_are_kept_if_they_come_in_time(
    tmp_path: Path, server: ScriptedServer, latency_s: float, kept: bool
) -> None:
    """After a cancellation no request starts; those that come within the grace are stored with their bill;
    one line tells of it.
    """
    spec, notices = small_spec(base_url=server.base_url), list[str]()
    server.latency_s = 0.0
    with Store.open(tmp_path / "samples.duckdb") as store:
        clients = ModelClients(
            spec, rng=random.Random(0), max_in_flight=8, grace_s=3.0, on_notice=notices.append
        )
        sampler = Sampler(spec, store, clients, run_id=None, replay=False, gate=None)
        sampling = spec.stages[0].sampling
        keys = [sampler.prompt("small", chat(i), sampling).key for i in range(20)]
        await sampler.samples("retrieve", "small", chat(99), sampling, 2)  # the terms are known
        server.latency_s = latency_s
        drawing = [
            asyncio.create_task(sampler.samples("retrieve", "small", chat(i), sampling, 2)) for i in range(20)
        ]
        while len(server.arrived) < 9:
            await asyncio.sleep(0.01)
        cancelled_at = time.monotonic()
        for task in drawing:
            task.cancel()
        await asyncio.gather(*drawing, return_exceptions=True)
        assert time.monotonic() - cancelled_at < 10.0
        assert all(task.cancelled() for task in drawing) and len(server.arrived) == 9
        stored = sum(map(len, (await store.get_samples(keys)).values()))
        assert stored == (16 if kept else 0)
        await clients.aclose()
    assert notices == [
        "stopping: 8 requests in flight are awaited for 3 s at most, and kept; stop again to end at once"
    ]


async def test_a_second_cancellation_ends_at_once(tmp_path: Path, server: ScriptedServer) -> None:
    """Nothing is awaited any longer."""
    server.latency_s = 20.0
    spec = small_spec(base_url=server.base_url)
    with Store.open(tmp_path / "samples.duckdb") as store:
        clients = ModelClients(spec, rng=random.Random(0))
        sampler = Sampler(spec, store, clients, run_id=None, replay=False, gate=None)
        drawing = asyncio.create_task(
            sampler.samples("retrieve", "small", chat(0), spec.stages[0].sampling, 1)
        )
        while not server.arrived:
            await asyncio.sleep(0.01)
        drawing.cancel()
        await asyncio.sleep(0.2)
        assert not drawing.done()
        cancelled_at = time.monotonic()
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        assert drawing.cancelled() and time.monotonic() - cancelled_at < 10.0
        await clients.aclose()


def chat(number: int) -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": "user", "content": f"number {number}"}]}
