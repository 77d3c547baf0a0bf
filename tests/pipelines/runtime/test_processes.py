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
from datastore.errors import DiskFull
from pipelines.errors import ConfigurationError, ServerError
from pipelines.runtime.processes import ClientProcesses
from pipelines.runtime.recovery import recovered
from pipelines.runtime.sampler import Sampler, Samples
from pipelines.runtime.spool import (
    ANSWERS,
    REQUESTS,
    DrawAnswer,
    DrawRequest,
    identity,
    write_answers,
    write_requests,
)
from pipelines.servers.billing import Bill
from pipelines.servers.patience import Patience
from pipelines.servers.wire import Draw, DrawnSample, PromptRefused
from pipelines.spec.pipeline import PipelineSpec
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
        return [process.process.pid for process in self.clients._pool.processes]


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


def _spool(folder: Path, spec: PipelineSpec, token: str = "t", first: int = 0) -> None:
    """What a search leaves that was killed: two samples of a prompt, from an index on."""
    folder.mkdir(exist_ok=True)
    sampling = spec.stages[0].sampling
    content = '{"messages": [{"role": "user", "content": "number 0"}]}'
    request = DrawRequest(
        number=7,
        model="small",
        identity=identity(spec, "small"),
        content=content,
        sampling=sampling.model_dump_json(),
        n=2,
        first=first,
    )
    samples = tuple(
        DrawnSample(text=text, generated_tokens=2, mean_logprob=None, finish_reason="stop")
        for text in ("red", "blue")
    )
    draw = Draw(samples=samples, prompt_tokens=5, request_id="q1")
    bill = Bill(calls=1, prompt_tokens=5, generated_tokens=4)
    write_requests(folder / f"{token}.1{REQUESTS}", [request])
    write_answers(
        folder / f"{token}.0.1{ANSWERS}", [DrawAnswer(number=7, bill=bill, draw=draw), DrawAnswer(number=8)]
    )


async def test_what_a_killed_search_had_left_is_recovered(server: ScriptedServer, tmp_path: Path) -> None:
    """Samples in the spool go into the bank with their bill, once, and the folder is removed."""
    folder, spec = tmp_path / "clients", small_spec(base_url=server.base_url)
    sampling = spec.stages[0].sampling
    with Store.open(tmp_path / "run.duckdb") as store:
        store.start_run(made.run("r1", started_at=0.0))
        other = spec.models["small"].model_copy(update={"revision": "two"})
        other_spec = spec.model_copy(update={"models": {**spec.models, "small": other}})
        for n_new in (2, 0):
            _spool(folder, spec)
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


async def test_a_spool_that_is_a_link_is_refused(server: ScriptedServer, tmp_path: Path) -> None:
    """Nothing is drawn, and what the link leads to stays as it is."""
    (tmp_path / "other").mkdir()
    (tmp_path / "clients").symlink_to("other")
    async with bench(server, tmp_path) as b:
        with pytest.raises(ConfigurationError, match="it is a link"):
            await b.draw(0)
    assert not list((tmp_path / "other").iterdir()) and server.n_answered == 0


async def test_a_lone_surrogate_stops_nothing(server: ScriptedServer, tmp_path: Path) -> None:
    """Neither an answer nor a prompt that no UTF-8 file can hold keeps the others from theirs."""

    def reply(request: Request) -> tuple[int, dict[str, object], dict[str, str]] | None:
        if not request.prompt.endswith("number 1"):
            return None
        choices = [
            {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for i, text in enumerate(("a\ud83d", "b"))
        ]
        return 200, {"choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}, {}

    server.reply = reply
    async with bench(server, tmp_path) as b, asyncio.timeout(30):
        sampling = b.spec.stages[0].sampling
        content = {"messages": [{"role": "user", "content": "x \ud83d y"}]}
        odd, *drawn = await asyncio.gather(
            b.sampler.samples("retrieve", "small", content, sampling, 2), *map(b.draw, range(3))
        )
    assert [one.n_drawn for one in (odd, *drawn)] == [2, 2, 2, 2]
    assert [sample.text for sample in drawn[1].samples] == ["a\ufffd", "b"]


async def test_a_full_disk_stops_the_run_and_keeps_what_was_drawn(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """The run ends with a line that names the remedy; what waited for room is written once there is some."""
    folder = tmp_path / "clients"
    async with bench(server, tmp_path) as b:
        await b.draw(0)
        token = b.clients._pool.token
        full = [folder / f".{token}.{p}.{k}{ANSWERS}.new" for p in (0, 1) for k in (1, 2)]
        for path in full:
            path.symlink_to("/dev/full")
        async with asyncio.timeout(30):
            ended = await asyncio.gather(*map(b.draw, range(1, 4)), return_exceptions=True)
        assert all(isinstance(one, ConfigurationError) and "free the disk" in str(one) for one in ended)
        for path in full:
            path.unlink(missing_ok=True)
        await b.clients.aclose()
        assert await recovered(folder, b.spec, b.store, "r1") == 6
        assert b.store.run_cost("r1").calls == server.n_answered == 4


async def test_a_signal_to_the_group_is_not_for_the_processes(server: ScriptedServer, tmp_path: Path) -> None:
    """They are no members of the search's group, and outlive a SIGTERM that finds them all the same."""
    async with bench(server, tmp_path) as b:
        await asyncio.gather(*map(b.draw, range(4)))
        server.latency_s = 0.5
        drawing = [asyncio.create_task(b.draw(number)) for number in range(4, 8)]
        while len(server.arrived) < 8:
            await asyncio.sleep(0.01)
        for pid in b.pids():
            assert os.getpgid(pid) == pid
            os.kill(pid, signal.SIGTERM)
        drawn = await asyncio.gather(*drawing)
    assert all(one.n_drawn == 2 for one in drawn) and b.notices == [] and len(server.arrived) == 8


async def test_a_file_that_can_not_be_read_ends_the_run(server: ScriptedServer, tmp_path: Path) -> None:
    """Of a process that has ended already, too: no draw waits for ever."""
    async with bench(server, tmp_path) as b:
        await b.draw(0)
        server.latency_s = 0.3
        drawing = [asyncio.create_task(b.draw(number)) for number in range(1, 20)]
        while len(server.arrived) < 6:
            await asyncio.sleep(0.01)
        process = b.clients._pool.processes[0]
        (tmp_path / "clients" / f"{process.name}.99{ANSWERS}").touch()
        os.kill(process.process.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            ended = await asyncio.gather(*drawing, return_exceptions=True)
    failures = [one for one in ended if isinstance(one, BaseException)]
    assert failures and {type(one) for one in failures} == {ServerError}


async def test_a_damaged_file_bars_nothing(server: ScriptedServer, tmp_path: Path) -> None:
    """It stays with the others of its search; what can be read is taken in; strange files stay, too."""
    folder, spec = tmp_path / "clients", small_spec(base_url=server.base_url)
    with Store.open(tmp_path / "run.duckdb") as store:
        store.start_run(made.run("r1", started_at=0.0))
        _spool(folder, spec, "u")  # of a search whose requests can't be read
        (folder / f"u.1{REQUESTS}").write_bytes(b"")
        _spool(folder, spec)
        (folder / f"t.0.9{ANSWERS}").write_bytes(b"PAR1")
        (folder / "thesis.txt").write_text("x")
        assert await recovered(folder, spec, store, "r1") == 2
        left = {path.name for path in folder.iterdir()}
        assert left == {
            "thesis.txt",
            f"t.1{REQUESTS}",
            f"t.0.9{ANSWERS}",
            f"u.1{REQUESTS}",
            f"u.0.1{ANSWERS}",
        }
        assert await recovered(folder, spec, store, "r1") == 0
        link = tmp_path / "link"
        link.symlink_to(folder)
        assert await recovered(link, spec, store, "r1") == 0 and store.run_cost("r1").calls == 1


async def test_recovered_samples_fill_the_gaps_that_they_were_drawn_for(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """Samples asked for as 1 and 3, where 0 and 2 were there, become 1 and 3."""
    folder, spec = tmp_path / "clients", small_spec(base_url=server.base_url)
    with Store.open(tmp_path / "run.duckdb") as store:
        store.start_run(made.run("r1", started_at=0.0))
        sampler = Sampler(spec, store, None, run_id=None, replay=True, gate=None)
        prompt = sampler.prompt("small", chat(0), spec.stages[0].sampling)
        old = [made.sample(prompt, index, f"old {index}", run_id=None) for index in (0, 2)]
        await store.put_samples(prompt, old)
        for n_new in (2, 0):
            _spool(folder, spec, first=1)
            assert await recovered(folder, spec, store, "r1") == n_new
        banked = (await store.get_samples([prompt.key]))[prompt.key]
        assert store.run_cost("r1").samples_drawn == 2
    assert {one.index: one.text for one in banked} == {0: "old 0", 1: "red", 2: "old 2", 3: "blue"}


async def test_what_could_not_be_stored_stays_in_the_spool(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that has no room for a draw costs nothing: the file is taken in by the next command."""

    def full(*_: object) -> None:
        raise DiskFull("no space")

    folder = tmp_path / "clients"
    async with bench(server, tmp_path) as b:
        with monkeypatch.context() as patched:
            patched.setattr(b.store._samples, "put", full)
            with pytest.raises(DiskFull):
                await asyncio.create_task(b.draw(1))
        await b.clients.aclose()
        assert await recovered(folder, b.spec, b.store, "r1") == 2
        assert b.store.run_cost("r1").calls == 1 and not folder.exists()
