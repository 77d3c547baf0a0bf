"""`agenttts tune fit --accelerate FILE`: several processes on CPUs tune one model together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agenttts.training.weights import read_tuned
from datastore import Store
from tests.agenttts.commands import agenttts
from tests.agenttts.tasktune.museum import fit_config, museum

pytestmark = pytest.mark.usefixtures("tuning_libraries")
ROOT = Path(__file__).parents[3]
TWO_ON_CPU = """\
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
num_machines: 1
num_processes: 2
use_cpu: true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of 160 rows to learn from, and a file of accelerate."""
    place = tmp_path_factory.mktemp("museum")
    museum(place, 200)
    (place / "two.yaml").write_text(TWO_ON_CPU)
    return place


def fitting(folder: Path, name: str, **changes: object) -> list[str]:
    """The command that tunes the model `name` in two processes."""
    config = fit_config(out=name, batch_size=8, epochs=3, patience=None, lora={"rank": 8}, **changes)
    (folder / f"{name}.json").write_text(json.dumps(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "agenttts", "tune", "fit", str(folder / f"{name}.json")]
    return [
        *command,
        "--accelerate",
        str(folder / "two.yaml"),
        "--db",
        str(folder / f"{name}.duckdb"),
        "--json",
    ]


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_two_processes_share_the_rows_and_resume(folder: Path) -> None:
    """Each row is seen once in an epoch, one adapter is written and registered once; killed, the same command
    goes on from the last checkpoint to the same result."""
    command = fitting(folder, "whole")
    done = subprocess.run(command, capture_output=True, text=True, env=environ())
    assert done.returncode == 0, done.stderr
    (shown,) = json.loads(done.stdout)
    undisturbed = read_tuned(folder / "whole")
    assert shown["digest"] == undisturbed.digest
    assert undisturbed.card.rows == 160
    assert undisturbed.card.steps == 3 * 160 // (2 * 8)
    assert undisturbed.card.metrics.after["read_off"] > undisturbed.card.metrics.before["read_off"] + 0.3
    with Store.read(folder / "whole.duckdb") as store:
        assert len(store.models()) == len(store.tunings()) == 1

    command = fitting(folder, "killed")
    first = subprocess.Popen(command, env=environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(folder.glob("killed.work/checkpoint-*/trainer_state.json")):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(1.5)  # its two processes look every half a second whether it is there
    assert not (folder / "killed").exists()
    subprocess.run(command, env=environ(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    resumed = read_tuned(folder / "killed")
    assert resumed.card.metrics == undisturbed.card.metrics
    assert resumed.card.steps == undisturbed.card.steps


def test_an_error_of_all_processes_is_one_line(folder: Path) -> None:
    """What both processes meet is said once, without a traceback, with exit code 2."""
    done = subprocess.run(fitting(folder, "lost", data="lost"), capture_output=True, text=True, env=environ())
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and "must be a directory that `agenttts tune data` made" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "must be YAML"),
        ("words", "must be a configuration of accelerate"),
        (TWO_ON_CPU + "colour: red\n", "unknown keys"),
        (TWO_ON_CPU.replace("MULTI_CPU", "MANY"), "not a valid DistributedType"),
        (TWO_ON_CPU.replace("MULTI_CPU", "XLA"), "distributed_type must be one of"),
        (TWO_ON_CPU.replace("processes: 2", "processes: two"), "num_processes must be 1 or more, got 'two'"),
        (
            TWO_ON_CPU.replace("true", "false").replace("s: 2", "s: 99"),
            "num_processes must be at most the GPUs",
        ),
        (TWO_ON_CPU.replace("MULTI_CPU", "FSDP"), "fsdp_version must be 2"),
        (TWO_ON_CPU.replace("MULTI_CPU", "FSDP") + "fsdp_config: {fsdp_version: 2}\n", "on GPUs only"),
    ],
)
def test_a_file_that_accelerate_would_refuse(folder: Path, content: str, message: str) -> None:
    """It is refused in one line before any process starts, with exit code 2."""
    (folder / "bad.yaml").write_text(content)
    config = folder / "bad.json"
    config.write_text(json.dumps(fit_config(out="bad").model_dump(mode="json")))
    done = agenttts("tune", "fit", config, "--accelerate", folder / "bad.yaml", "--db", folder / "bad.duckdb")
    assert done.code == 2
    (line,) = done.errors
    assert line.startswith(str(folder / "bad.yaml")) and message in line
