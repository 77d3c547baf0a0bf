"""Replicas on a Ray cluster outlive the loss of a machine and of a server."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agenttts.serving.cluster import placed_on_cluster, slots
from agenttts.serving.machine import Gpu
from pipelines.errors import ServerError
from pipelines.servers.commands import Seat, commands, moved
from pipelines.spec.files import load_spec
from pipelines.zoo import SPEC
from tests.agenttts.commands import agenttts
from tests.agenttts.serving.two_nodes import FIELDS, N_REQUESTS

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: pip install '.[ray]'")


def gpu(node: str, device: int, gb: float = 24) -> Gpu:
    return Gpu(device=str(device), memory_bytes=gb * 1e9, free_bytes=gb * 1e9, node=node)


def test_replicas_are_on_different_machines_as_long_as_there_are_some() -> None:
    """Servers that share GPUs share a slot, whose commands name the planned GPUs."""
    spec = load_spec(SPEC)
    gpus = [gpu("a", 0), gpu("a", 1), gpu("b", 0)]
    placement = placed_on_cluster(spec, ["small", "large"], gpus, n_replicas=2, n_sequences=32)
    for name in ("small", "large"):
        nodes = {one.gpus[0].node for one in placement.servers if one.need.name == name}
        assert nodes == {"a", "b"}, name
    planned = slots(spec, placement)
    assert sum(len(slot.commands) for slot in planned) == 4
    for slot in planned:
        assert {device for one in slot.commands for device in one.devices} == set(slot.devices)
    assert len({(slot.node, device) for slot in planned for device in slot.devices}) == 3
    assert {slot.node for slot in planned} == {"a", "b"}
    with pytest.raises(ServerError, match="--gpus 4x80"):
        placed_on_cluster(spec, None, [], n_replicas=1, n_sequences=32)


def test_a_server_is_moved_to_the_gpus_that_it_is_given() -> None:
    """Address, health check and GPUs change together; the rest of the command stays."""
    seat = {"small": Seat(devices=("0", "1"), share=0.5)}
    (command,) = commands(load_spec(SPEC), ["small"], device="gpu", seats=seat)
    there = moved(command, "10.0.0.2", 4321, {"0": "6", "1": "7"})
    assert there.env["CUDA_VISIBLE_DEVICES"] == "6,7" and there.devices == {"6", "7"}
    assert there.health_url == "http://10.0.0.2:4321/health"
    changed = {new for old, new in zip(command.argv, there.argv, strict=True) if old != new}
    assert changed == {"10.0.0.2", "4321"}


def test_a_cluster_that_can_not_be_is_refused() -> None:
    """Without ray the command that installs it is named; without a cluster, those that start one."""
    for address in ("127.0.0.1:9", "auto", "nowhere"):
        done = agenttts("serve", SPEC, "--cluster", address, "--dry-run", "--gpus", "1x24")
        assert done.code == 2 and len(done.errors) == 1, done.err
        assert ("ray start --head" if HAS_RAY else "[ray]") in done.errors[0]


@needs_ray
@pytest.mark.timeout(300)
def test_every_request_is_answered_while_a_node_and_a_server_are_killed(tmp_path: Path) -> None:
    """The router sends a failed request to the other replica, and Ray starts the lost one again elsewhere."""
    out = tmp_path / "seen.json"
    command = [sys.executable, "-m", "tests.agenttts.serving.two_nodes", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(out.read_text())
    assert {name: len(set(nodes)) for name, nodes in seen["seats"].items()} == {"small": 2, "large": 2}
    assert seen["fields"].items() >= FIELDS.items(), "the router leaves a request's own fields as they are"
    for harm in ("node", "server"):
        assert seen[harm]["answered"] == N_REQUESTS, seen[harm]
        assert seen[harm]["replicas_after"] == 2, seen[harm]
