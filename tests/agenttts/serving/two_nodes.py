"""Servers of the zoo's models on a Ray cluster of two nodes with pretended GPUs, one of which is killed.

    python -m tests.agenttts.serving.two_nodes OUT.json

It is a program of its own, because Ray sets up its process. It writes what it saw.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from agenttts.serving.cluster import cluster_gpus, connect, placed_on_cluster
from agenttts.serving.replicas import ClusterServers
from pipelines.spec.files import load_spec
from pipelines.zoo import SPEC
from tests.agenttts.serving.test_machine import nvidia_smi

FIELDS = {
    "n": 2,
    "echo": True,
    "logprobs": True,
    "seed": 3,
    "top_k": 20,
    "min_p": 0.1,
    "max_tokens": 7,
    "temperature": 0.8,
    "stop": ["."],
    "chat_template_kwargs": {"enable_thinking": False},
    "structured_outputs": {"regex": "a"},
}
N_REQUESTS = 200


@dataclass
class Zoo:
    """Two replicas of each of the zoo's models, one on each node."""

    servers: ClusterServers
    seats: dict[str, list[str]]
    kill_a_node: Callable[[], None]
    notices: list[tuple[float, str]] = field(default_factory=list)  # by time.monotonic

    def all_are_back(self, n_lost: int) -> bool:
        """Whether so many replicas were told of as lost, and as back."""
        lines = [line for _, line in list(self.notices)]
        lost, come = (sum(word in line for line in lines) for word in ("is lost", "answers at"))
        return lost >= n_lost <= come


@contextmanager
def zoo_on_two_nodes(models: list[str]) -> Iterator[Zoo]:
    """The servers, watched by a thread until the block ends."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as folder:
        put_stub_on_path(Path(folder))
        nvidia_smi(Path(folder), "0, GPU-a, 24564, 24000\n1, GPU-b, 24564, 24000")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
        doomed = cluster.add_node(num_cpus=4, num_gpus=1)
        cluster.add_node(num_cpus=4, num_gpus=3)  # nvidia-smi lists two: the third is free for what is lost
        cluster.wait_for_nodes()
        ray, spec = connect(cluster.address), load_spec(SPEC)
        gpus = cluster_gpus(ray)
        assert [gpu.memory_bytes for gpu in gpus] == [24564 * 2**20] * 3, "as each node's nvidia-smi says"
        placement = placed_on_cluster(spec, models, gpus, n_replicas=2, n_sequences=32)
        notices: list[tuple[float, str]] = []
        servers = ClusterServers(
            ray,
            spec,
            placement,
            log_dir=Path(folder) / "logs",
            timeout_s=120,
            notify=lambda line: notices.append((time.monotonic(), line)),
        )
        seats = {
            name: [one.gpus[0].node for one in placement.servers if one.need.name == name] for name in models
        }
        stop = threading.Event()
        with servers:
            watching = threading.Thread(target=watch, args=(servers, stop))
            watching.start()
            yield Zoo(servers, seats, lambda: cluster.remove_node(doomed), notices)
            stop.set()
            watching.join()
        ray.shutdown()
        cluster.shutdown()


def put_stub_on_path(folder: Path) -> None:
    """A program `vllm` that is found first."""
    program = folder / "vllm"
    stub = Path(__file__).parent / "stub_vllm.py"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {stub} "$@"\n')
    program.chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


def watch(servers: ClusterServers, stop: threading.Event) -> None:
    """Tell the routers what changes."""
    while not stop.is_set():
        servers.refresh()
        time.sleep(0.3)


def ask(url: str, number: int) -> dict[str, Any]:
    """One request by way of the router: what the server says of itself, its seconds and its status."""
    body = {"model": "zoo-large", "messages": [{"role": "user", "content": f"question {number}"}], **FIELDS}
    begun = time.monotonic()
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    seconds = time.monotonic() - begun
    if answer.status_code != 200:
        return {"status": answer.status_code, "seconds": seconds, "words": answer.text[:200]}
    words = json.loads(answer.json()["choices"][1]["message"]["content"])
    return {"status": 200, "seconds": seconds, **words}


def load(zoo: Zoo, harm: Callable[[], None], n_lost: int) -> dict[str, Any]:
    """What became of requests, eight at once, when harm was done after a third of them."""
    url, before = zoo.servers.base_urls["large"], len(zoo.notices)
    harmed_at = [0.0]

    def one(number: int) -> dict[str, Any]:
        if number == N_REQUESTS // 3:
            harmed_at[0] = time.monotonic()
            harm()
        return ask(url, number)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(N_REQUESTS)))
    deadline = time.monotonic() + 90
    so_far = sum("is lost" in line for _, line in zoo.notices[:before])
    while not zoo.all_are_back(so_far + n_lost) and time.monotonic() < deadline:
        time.sleep(0.1)
    after = [ask(url, number) for number in range(20)]
    return {
        "answered": sum(answer["status"] == 200 for answer in answers),
        "failures": [answer for answer in answers if answer["status"] != 200][:3],
        "longest_s": max(answer["seconds"] for answer in answers),
        "notices": [(round(at - harmed_at[0], 2), line) for at, line in zoo.notices[before:]],
        "replicas_after": len({answer.get("pid") for answer in after if answer["status"] == 200}),
    }


def main() -> None:
    """Kill a node under load, then a server, and write what came of both."""
    with zoo_on_two_nodes(["small", "large"]) as zoo:
        first = ask(zoo.servers.base_urls["large"], 0)
        seen = {
            "seats": zoo.seats,
            "fields": first["fields"],
            "node": load(zoo, zoo.kill_a_node, n_lost=2),
        }
        pid = ask(zoo.servers.base_urls["large"], 0)["pid"]
        seen["server"] = load(zoo, lambda: os.kill(pid, signal.SIGKILL), n_lost=1)
    Path(sys.argv[1]).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
