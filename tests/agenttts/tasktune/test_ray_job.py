"""Tuning as a job on a Ray cluster, which gives it GPUs of its own: the command as it is, and no code."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agenttts.training.weights import read_tuned
from pipelines.servers.group import free_port
from tests.agenttts.tasktune.museum import fit_config, museum
from tests.agenttts.tasktune.test_launching import ROOT, TWO_ON_CPU

HAS_JOBS = all(importlib.util.find_spec(name) for name in ("ray", "aiohttp_cors", "opencensus"))
pytestmark = [
    pytest.mark.usefixtures("tuning_libraries"),
    pytest.mark.skipif(not HAS_JOBS, reason="Ray's job server is not installed: pip install 'ray[default]'"),
]


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """A Ray cluster of this machine with two pretended GPUs; the address of its job server."""
    port, dashboard = free_port(), free_port()
    options = ["--port", str(port), "--dashboard-port", str(dashboard), "--include-dashboard", "true"]
    size = ["--num-cpus", "2", "--num-gpus", "2", "--temp-dir", str(folder), "--disable-usage-stats"]
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", *options, *size]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(240):
            with socket.socket() as there:
                if not there.connect_ex(("127.0.0.1", dashboard)):
                    break
            assert process.poll() is None
            time.sleep(0.5)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.mark.timeout(400)
def test_tune_fit_is_a_job_of_a_ray_cluster(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It is given two GPUs, runs two processes, and leaves the adapter and the record where they belong."""
    museum(tmp_path, 200)
    (tmp_path / "two.yaml").write_text(TWO_ON_CPU)
    config = fit_config(out="adapter", batch_size=8, epochs=1, patience=None, lora={"rank": 8})
    (tmp_path / "fit.json").write_text(json.dumps(config.model_dump(mode="json")))
    fit = ["tune", "fit", str(tmp_path / "fit.json"), "--accelerate", str(tmp_path / "two.yaml")]
    command = [sys.executable, "-m", "agenttts", *fit, "--db", str(tmp_path / "run.duckdb")]
    environ = ["env", f"PYTHONPATH={ROOT}", "OMP_NUM_THREADS=1"]
    ray = str(Path(sys.executable).parent / "ray")
    with cluster(Path("/tmp") / tmp_path_factory.mktemp("r").name) as address:  # sockets' paths are short
        submit = [ray, "job", "submit", "--address", address, "--entrypoint-num-gpus", "2", "--"]
        done = subprocess.run([*submit, *environ, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "succeeded" in done.stdout + done.stderr
    card = read_tuned(tmp_path / "adapter").card
    assert card.steps == 160 // (2 * 8) and card.metrics.after["read_off"] > card.metrics.before["read_off"]
