"""Drawing in several client processes: what one process would bring, and nothing is lost or drawn twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from datastore import Store
from pipelines.errors import ConfigurationError
from pipelines.runtime.processes import ClientProcesses
from pipelines.runtime.recovery import recovered
from pipelines.runtime.sampler import Sampler, Samples
from pipelines.runtime.spool import ASKED, DRAWN, Asked, Drawn, identity, write_asked, write_drawn
from pipelines.servers.billing import Bill
from pipelines.servers.patience import Patience
from pipelines.servers.wire import Draw, DrawnSample, PromptRefused
from tests.agenttts.small_specs import small_spec
from tests.datastore import made
from tests.servers import Request, ScriptedServer


class Bench:
    """Draws two samples of numbered prompts in two processes, as a run does."""

    def __init__(self, server: ScriptedServer, store: Store, folder: Path) -> None:
        self.notices = list[str]()
        self.store = store
        self.spec = small_spec(base_url=server.base_url)
        self.clients = ClientProcesses(
            self.spec,
            n=2,
            folder=folder,
            settled=partial(store.get_prompt, ""),
            rng=random.Random(0),
            patience=Patience(retry_s=0.2, timeout_s=60),
            max_in_flight=8,
            on_notice=self.notices.append,
            grace_s=2.0,
        )
        self.sampler = Sampler(self.spec, store, self.clients, run_id="r1", replay=False, gate=None)

    async def draw(self, number: int) -> Samples:
        sampling = self.spec.stages[0].sampling
        return await self.sampler.samples("retrieve", "small", chat(number), sampling, 2)

    def pids(self) -> list[int]:
        return [process.process.pid for process in self.clients._processes]


def chat(number: int) -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": "user", "content": f"number {number}"}]}


@asynccontextmanager
async def bench(server: ScriptedServer, folder: Path) -> AsyncIterator[Bench]:
    with Store.open(folder / "run.duckdb") as store:
        store.start_run(made.run("r1", started_at=0.0))
        opened = Bench(server, store, folder / "clients")
        try:
            yield opened
        finally:
            await opened.clients.aclose()


async def test_two_processes_draw_what_one_would(server: ScriptedServer, tmp_path: Path) -> None:
    """Each prompt is asked once, by one of both; samples and bills are stored; the spool is gone."""
    async with bench(server, tmp_path) as b:
        drawn = await asyncio.gather(*(b.draw(number) for number in range(60)))
        assert len(b.pids()) == 2
        assert all(one.n_drawn == 2 and one.calls == 1 and one.failure is None for one in drawn)
        again = await asyncio.gather(*(b.draw(number) for number in range(60)))
        assert [one.samples for one in again] == [one.samples for one in drawn]
        cost = b.store.run_cost("r1")
    assert (cost.calls, cost.samples_drawn) == (60, 120) == (server.n_answered, sum(server.samples.values()))
    assert cost.generated_tokens == server.generated_tokens
    assert set(server.completed.values()) == {1} and server.most_in_flight <= 8
    assert not (tmp_path / "clients").exists() and b.notices == []


async def test_a_process_that_is_killed_is_replaced(server: ScriptedServer, tmp_path: Path) -> None:
    """What it had in flight is drawn by another; what it had written is not."""
    server.latency_s = 0.05
    async with bench(server, tmp_path) as b:
        drawing = [asyncio.create_task(b.draw(number)) for number in range(200)]
        while server.n_answered < 60:
            await asyncio.sleep(0.01)
        os.kill(b.pids()[0], signal.SIGKILL)
        drawn = await asyncio.gather(*drawing)
    assert all(one.n_drawn == 2 for one in drawn)
    assert len(server.arrived) - 200 <= 4 + 8, "four in flight, and what came in the last moments"
    (notice,) = b.notices
    assert "another one draws what it had not written" in notice
    assert not (tmp_path / "clients").exists()


async def test_errors_are_those_of_one_process(server: ScriptedServer, tmp_path: Path) -> None:
    """A refused prompt is missing with the server's words, and a wrong key stops the run."""

    def reply(request: Request) -> tuple[int, dict[str, object], dict[str, str]] | None:
        if request.prompt.endswith("number 1"):
            return 400, {"error": {"message": "blocked by the content filter", "code": "content_filter"}}, {}
        if request.prompt.endswith("number 2"):
            return 401, {"error": {"message": "wrong key"}}, {}
        return None

    server.reply = reply
    async with bench(server, tmp_path) as b:
        good, refused, failed = await asyncio.gather(*map(b.draw, range(3)), return_exceptions=True)
    assert isinstance(good, Samples) and good.n_drawn == 2
    assert isinstance(refused, Samples) and isinstance(refused.failure, PromptRefused)
    assert "content filter" in str(refused.failure)
    assert isinstance(failed, ConfigurationError) and "wrong key" in str(failed)


async def test_a_stopped_run_keeps_what_is_in_flight(server: ScriptedServer, tmp_path: Path) -> None:
    """After a cancellation no request starts, and those in flight are stored with their bill."""
    async with bench(server, tmp_path) as b:
        await b.draw(99)  # the terms are known
        await b.draw(98)
        server.latency_s = 1.0
        drawing = [asyncio.create_task(b.draw(number)) for number in range(40)]
        while len(server.arrived) < 10:
            await asyncio.sleep(0.01)
        for task in drawing:
            task.cancel()
        await asyncio.gather(*drawing, return_exceptions=True)
        cost = b.store.run_cost("r1")
    assert all(task.cancelled() for task in drawing)
    assert cost.calls == server.n_answered == len(server.arrived) and cost.samples_drawn == 2 * cost.calls
    assert len(server.arrived) <= 12, "what began before the processes had heard of the end"


async def test_what_a_killed_search_had_left_is_recovered(server: ScriptedServer, tmp_path: Path) -> None:
    """Samples in the spool go into the bank with their bill, once, and the folder is removed."""
    folder, spec = tmp_path / "clients", small_spec(base_url=server.base_url)
    sampling = spec.stages[0].sampling
    content = '{"messages": [{"role": "user", "content": "number 0"}]}'
    asked = Asked(
        number=7,
        model="small",
        identity=identity(spec, "small"),
        content=content,
        sampling=sampling.model_dump_json(),
        n=2,
        first=0,
    )
    samples = tuple(
        DrawnSample(text=text, generated_tokens=2, mean_logprob=None, finish_reason="stop")
        for text in ("red", "blue")
    )
    draw = Draw(samples=samples, prompt_tokens=5, request_id="q1")
    bill = Bill(calls=1, prompt_tokens=5, generated_tokens=4)
    with Store.open(tmp_path / "run.duckdb") as store:
        store.start_run(made.run("r1", started_at=0.0))
        other = spec.models["small"].model_copy(update={"revision": "two"})
        other_spec = spec.model_copy(update={"models": {**spec.models, "small": other}})
        for n_new in (2, 0):
            folder.mkdir()
            write_asked(folder / f"t.1{ASKED}", [asked])
            write_drawn(folder / f"t.0.1{DRAWN}", [Drawn(number=7, bill=bill, draw=draw), Drawn(number=8)])
            assert await recovered(folder, other_spec, store, "r1") == 0
            assert len(list(folder.iterdir())) == 2, "another model's samples stay where they are"
            assert await recovered(folder, spec, store, "r1") == n_new
            assert not folder.exists()
            assert await recovered(folder, spec, store, "r1") == 0
        sampler = Sampler(spec, store, None, run_id=None, replay=True, gate=None)
        banked = await sampler.samples("retrieve", "small", chat(0), sampling, 2)
        cost = store.run_cost("r1")
    assert [sample.text for sample in banked.samples] == ["red", "blue"] and banked.prompt_tokens == 5
    assert (cost.calls, cost.prompt_tokens, cost.generated_tokens) == (1, 5, 4)


async def test_processes_that_can_not_start_end_the_run(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops with a line that names the remedy; no draw waits for ever."""
    monkeypatch.setattr("sys.executable", "/bin/false")
    async with bench(server, tmp_path) as b:
        with pytest.raises(ConfigurationError, match="leave --clients out"):
            await asyncio.wait_for(b.draw(0), 30)
