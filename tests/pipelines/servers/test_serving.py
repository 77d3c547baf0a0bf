"""Servers start together, are waited for, and leave no process behind, whatever ends them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ServerError, SpecError
from pipelines.servers.commands import Seat, ServeCommand, commands
from pipelines.servers.group import ServerGroup
from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.zoo import SPEC
from tests.agenttts.small_specs import small_spec

SERVER = """
import http.server, sys
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""


def stand_in(name: str, code: str = SERVER) -> ServeCommand:
    """A process that is healthy, or what `code` makes of it, on a free port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    argv = (sys.executable, "-c", code, str(port))
    return ServeCommand(models=(name,), argv=argv, env={}, health_url=f"http://127.0.0.1:{port}/health")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


def test_all_are_healthy_inside_the_block_and_gone_after_it(tmp_path: Path) -> None:
    """Each has a log of its own."""
    with ServerGroup([stand_in("a"), stand_in("b")], log_dir=tmp_path, timeout_s=30) as group:
        pids = group.pids
        assert len(pids) == 2 and all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)
    assert {file.name for file in tmp_path.iterdir()} == {"a.log", "b.log"}


def test_one_that_dies_at_the_start_takes_the_others_along(tmp_path: Path) -> None:
    """The error names the model and shows the end of its log."""
    broken = stand_in("broken", "import sys; print('no such weights'); sys.exit(3)")
    with (
        pytest.raises(ServerError, match=r"(?s)broken.*status 3.*no such weights"),
        ServerGroup([stand_in("a"), broken], log_dir=tmp_path, timeout_s=30),
    ):
        pass


def test_one_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """After the time-out the error says which."""
    silent = stand_in("silent", "import time; time.sleep(60)")
    with (
        pytest.raises(ServerError, match="silent: not healthy after 1 s"),
        ServerGroup([silent], log_dir=tmp_path, timeout_s=1),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_servers_end_with_the_program_that_started_them(number: signal.Signals, tmp_path: Path) -> None:
    """On SIGTERM, Ctrl-C and even SIGKILL."""
    command = stand_in("a")
    program = f"""
import time
from pathlib import Path
from pipelines.servers.commands import ServeCommand
from pipelines.servers.group import ServerGroup
command = ServeCommand(models=("a",), argv={command.argv!r}, env={{}}, health_url={command.health_url!r})
with ServerGroup([command], log_dir=Path({str(tmp_path)!r}), timeout_s=30) as group:
    print(group.pids[0], flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.send_signal(number)
    process.wait(30)
    process.stdout.close()
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_servers_that_share_a_gpu_start_one_after_the_other(tmp_path: Path) -> None:
    """The next starts once the one before is healthy; on another GPU it starts at once."""
    events = tmp_path / "events.txt"

    def on(name: str, *devices: str) -> ServeCommand:
        noting = f"""
import time
def note(event):
    with open({str(events)!r}, "a") as file: file.write(event + " {name}\\n")
note("starts")
time.sleep(1)
"""
        code = noting + SERVER.replace("http.server.HTTPServer", "note('ready'); http.server.HTTPServer")
        return replace(stand_in(name, code), devices=frozenset(devices))

    servers = [on("a", "0", "1"), on("b", "1"), on("c", "2"), on("d", "1", "2")]
    with ServerGroup(servers, log_dir=tmp_path / "logs", timeout_s=60) as group:
        assert len(group.pids) == 4
    noted = events.read_text().splitlines()
    position = {event: noted.index(event) for event in noted}
    assert position["starts c"] < position["ready a"] < position["starts b"]
    assert position["ready b"] < position["starts d"] and position["ready c"] < position["starts d"]


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """Before anything starts."""
    command = stand_in("a")
    with (
        ServerGroup([command], log_dir=tmp_path, timeout_s=30),
        pytest.raises(ServerError, match=r"port .* is in use"),
        ServerGroup([command], log_dir=tmp_path / "second", timeout_s=30),
    ):
        pass


def test_the_commands_for_a_cpu_and_a_gpu() -> None:
    """One server for each model; on a GPU they share its memory, on a CPU its cores."""
    spec = load_spec(SPEC)
    gpu = commands(spec, ["small", "large"], device="gpu")
    assert gpu[1].argv[:3] == ("vllm", "serve", str(SPEC.parent / "models/large"))
    assert "--gpu-memory-utilization" in gpu[0].argv and gpu[0].argv[-1] == "0.45"
    (cpu,) = commands(spec, ["small"], device="cpu", python="python")
    assert cpu.argv[:3] == ("python", "-m", "vllm.entrypoints.openai.api_server")
    assert {"--dtype", "float32", "--enforce-eager"} <= set(cpu.argv)
    assert cpu.env["VLLM_TARGET_DEVICE"] == "cpu" and cpu.env["HF_HUB_OFFLINE"] == "1"
    assert cpu.health_url == "http://127.0.0.1:8101/health"


def test_a_seat_names_the_gpus_and_the_share() -> None:
    """Numbered as nvidia-smi does; the model's own arguments come last, so that they win."""
    spec = load_spec(SPEC)
    seats = {"small": Seat(devices=("3",), share=0.25), "large": Seat(devices=("0", "2"), share=0.5)}
    small, large = commands(spec, ["small", "large"], device="gpu", seats=seats)
    assert small.env["CUDA_VISIBLE_DEVICES"] == "3" and small.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert small.argv[-2:] == ("--gpu-memory-utilization", "0.25") and small.devices == {"3"}
    assert large.argv[-4:] == ("--tensor-parallel-size", "2", "--gpu-memory-utilization", "0.5")
    (cpu,) = commands(spec, ["small"], device="cpu", seats=seats)
    assert "CUDA_VISIBLE_DEVICES" not in cpu.env and not cpu.devices


def test_an_adapter_is_served_by_its_parent(tmp_path: Path) -> None:
    """--lora-modules names it, with a rank that vLLM allows."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 12}))
    spec = _with_models(
        {
            "base": {"base_url": "http://127.0.0.1:8201/v1", "active_params": 1e6},
            "tuned": {
                "base_url": "http://127.0.0.1:8201/v1",
                "active_params": 1e6,
                "parent": "base",
                "path": str(adapter),
            },
        }
    )
    (command,) = commands(spec, device="gpu")
    assert command.models == ("base", "tuned")
    argv = list(command.argv)
    assert argv[argv.index("--max-lora-rank") + 1] == "16"
    assert argv[argv.index("--lora-modules") + 1] == f"tuned={adapter}"


def test_what_can_not_be_served_from_here_is_refused() -> None:
    """A remote address, and one port for two models."""
    away = {"a": {"base_url": "https://api.example.com/v1", "active_params": 1e6}}
    with pytest.raises(SpecError, match="local address"):
        commands(_with_models(away), device="gpu")
    twice = {n: {"base_url": "http://127.0.0.1:8201/v1", "active_params": 1e6} for n in ("a", "b")}
    with pytest.raises(SpecError, match="8201"):
        commands(_with_models(twice), device="gpu")


def _with_models(models: dict[str, Any]) -> PipelineSpec:
    return small_spec(params=dict.fromkeys(models, 1e6), models=models)
