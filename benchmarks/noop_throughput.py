"""The runtime's own cost: requests per second on one core against a server that does nothing, store on.

    python benchmarks/noop_throughput.py [--requests 4000] [--samples 4] [--tokens 8] [--no-logprobs]
        [--profile]

A two-stage pipeline runs through `Runtime` with a DuckDB store; every prompt is new, so every stage is a
request, and every sample is parsed, voted on and committed. The server is another process, on another core.
Printed: requests per second by the clock, and the CPU time of the client process with all its threads, whose
inverse is what one core that does nothing else gives.

Measured 2026-11-24, two cores: 4,000 requests of n = 4 at 1,441 requests/s (5,764 samples/s), store on;
0.692 ms of CPU a request, 1,445 requests/s on a core of its own.

Measured 2026-11-26 on another machine, shared, in turn with the first landing (982bb0d), three times each:
0.99, 0.96, 1.04 ms there and 0.49, 0.50, 0.53 ms here, half of it; requests go through aiohttp itself. With
samples of 256 tokens log-probabilities are most of a request: 1.7 ms with them (2.9 ms before a faster
decoder), 0.39 ms without (`--no-logprobs`).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

from datastore import Store
from pipelines import Allocation, Example, PipelineSpec, StageChoice
from pipelines.runtime.runtime import Runtime
from pipelines.servers.clients import ModelClients


class NoopServer(asyncio.Protocol):
    """Answers any request at once with as many fixed choices as `n` asks for."""

    answers: ClassVar[dict[tuple[int, bool], bytes]] = {}
    tokens: ClassVar[int] = 8

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(self.received) < end + 4 + length:
                return
            body, self.received = self.received[end + 4 : end + 4 + length], self.received[end + 4 + length :]
            n = int(body.partition(b'"n":')[2].partition(b",")[0] or 1)
            kind = (n, b'"logprobs":true' in body)
            if kind not in self.answers:
                self.answers[kind] = _answer(*kind, self.tokens)
            self.transport.write(self.answers[kind])


def _answer(n: int, logprobs: bool, tokens: int) -> bytes:
    token = {"token": " red", "logprob": -0.25, "bytes": [32, 114, 101, 100], "top_logprobs": []}
    message = {"role": "assistant", "content": "red or green"}
    given = {"content": [token] * tokens} if logprobs else None
    choice = {"message": message, "finish_reason": "stop", "logprobs": given}
    usage = {"prompt_tokens": 40, "completion_tokens": tokens * n}
    choices = [{"index": index, **choice} for index in range(n)]
    body = json.dumps(
        {"id": "cmpl-1", "object": "chat.completion", "choices": choices, "usage": usage}
    ).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


async def serve(tokens: int) -> None:
    NoopServer.tokens = tokens
    server = await asyncio.get_running_loop().create_server(NoopServer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def pipeline(port: int, n_samples: int, tokens: int, logprobs: bool) -> PipelineSpec:
    stage = {
        "models": ["noop"],
        "max_samples": n_samples,
        "prompt_tokens": 40,
        "generated_tokens": tokens,
        "sampling": {"max_tokens": 2 * tokens},
    }
    context = "The house by the river is red, the door of the house is green, the roof is grey. " * 3
    return PipelineSpec.model_validate(
        {
            "name": "noop",
            "stages": [
                {"name": "first", "prompt": context + "{{ question }}", **stage},
                {"name": "second", "prompt": context + "{{ first }} {{ question }}", **stage},
            ],
            "models": {
                "noop": {
                    "base_url": f"http://127.0.0.1:{port}/v1",
                    "active_params": 1e6,
                    "request": {} if logprobs else {"logprobs": False},
                }
            },
            "dataset": {"search": "none.jsonl", "test": "none.jsonl"},
            "metric": {"kind": "exact_match", "label": "gold"},
            "budget": {"units": 10},
        }
    )


async def measure(port: int, n_requests: int, n_samples: int, tokens: int, logprobs: bool) -> None:
    spec = pipeline(port, n_samples, tokens, logprobs)
    examples = [
        Example(str(i), {"question": f"Which colour has house {i}?", "gold": "red"})
        for i in range(n_requests)
    ]
    allocation = Allocation({name: StageChoice("noop", n_samples) for name in ("first", "second")})
    clients = ModelClients(spec, rng=random.Random(0))
    with tempfile.TemporaryDirectory() as directory, Store.open(Path(directory, "noop.duckdb")) as store:
        runtime = Runtime(spec, store, clients, run_id="noop")
        warm = n_requests // 20
        await asyncio.gather(*(runtime.run_example(allocation, example) for example in examples[:warm]))
        timed = examples[warm : warm + n_requests // 2]
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        outcomes = await asyncio.gather(*(runtime.run_example(allocation, example) for example in timed))
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    await clients.aclose()
    assert all(outcome.status == "ok" for outcome in outcomes)
    calls = sum(stage.calls for outcome in outcomes for stage in outcome.stages)
    assert calls == 2 * len(timed)
    print(f"{calls} requests of n={n_samples}, store on: {calls / wall_s:.0f} requests/s by the clock")
    print(
        f"{cpu_s / calls * 1e3:.3f} ms of CPU a request: {calls / cpu_s:.0f} requests/s on a core of its own"
    )
    print(f"{calls * n_samples / wall_s:.0f} samples/s by the clock, load {os.getloadavg()[0]:.1f}")


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--requests", type=int, default=4000)
    arguments.add_argument("--samples", type=int, default=4)
    arguments.add_argument("--tokens", type=int, default=8, help="of each sample")
    arguments.add_argument("--no-logprobs", action="store_true")
    arguments.add_argument("--profile", action="store_true")
    arguments.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if options.serve:
        os.sched_setaffinity(0, cores[1:] or cores)
        asyncio.run(serve(options.tokens))
        return
    command = [sys.executable, __file__, "--serve", "--tokens", str(options.tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        os.sched_setaffinity(0, cores[:1])
        try:
            profile = cProfile.Profile()
            if options.profile:
                profile.enable()
            asyncio.run(
                measure(port, options.requests, options.samples, options.tokens, not options.no_logprobs)
            )
            if options.profile:
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
