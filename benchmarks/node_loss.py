"""A live search over a Ray cluster of two nodes, one of which is killed in the middle of it.

    PYTHONPATH=. python benchmarks/node_loss.py [TRIALS]

with ray and vllm-router installed. Two nodes with pretended GPUs run on this machine; in the place of vLLM
stands a server that speaks its protocol and takes 0.05 s an answer. `agenttts serve --cluster` starts two
replicas of the zoo's three models, `agenttts search` runs against them, and after 10 s a node is killed. It
prints what the search drew, what it lost, and when the replicas were back. Figures: docs/log.md, 2026-11-27.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from datastore.store import Store
from pipelines.zoo import SPEC
from tests.agenttts.serving.two_nodes import put_stub_on_path

KILL_AFTER_S = 10.0
DRAWN = """
SELECT count(*) AS banked, count(DISTINCT (prompt_key, "index")) AS distinct_samples,
    (SELECT sum(samples_drawn) FROM payments) AS billed,
    (SELECT sum(n_missing) FROM trials) AS missing_examples
FROM samples
"""


def main() -> None:
    """Serve, search, kill, and print what came of it."""
    from ray.cluster_utils import Cluster

    trials = sys.argv[1] if len(sys.argv) > 1 else "6"
    with tempfile.TemporaryDirectory() as folder:
        put_stub_on_path(Path(folder))
        spec, db = Path(folder) / "zoo" / SPEC.name, Path(folder) / "run.duckdb"
        shutil.copytree(SPEC.parent, spec.parent, ignore=shutil.ignore_patterns("bank"))
        lines_of_spec = SPEC.read_text().splitlines()
        spec.write_text("\n".join(line for line in lines_of_spec if not line.startswith("bank:")))
        search_options = ["--proposer", "random"]
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
        doomed = cluster.add_node(num_cpus=4, num_gpus=1)
        cluster.add_node(num_cpus=4, num_gpus=2)
        cluster.wait_for_nodes()
        program = [sys.executable, "-u", "-m", "agenttts"]
        options = ["--cluster", cluster.address, "--gpus", "1x24", "--replicas", "2"]
        serving = subprocess.Popen(
            [*program, "serve", str(spec), *options],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        lines: list[tuple[float, str]] = []
        reading = threading.Thread(target=read, args=(serving, lines))
        reading.start()
        while not any("Ctrl-C" in line for _, line in lines):
            if serving.poll() is not None:
                raise SystemExit("\n".join(line for _, line in lines))
            time.sleep(0.1)
        begun = time.monotonic()
        killing = threading.Timer(KILL_AFTER_S, lambda: cluster.remove_node(doomed))
        killing.start()
        done = subprocess.run(
            [*program, "search", str(spec), "--db", str(db), "--trials", trials, "--json", *search_options],
            capture_output=True,
            text=True,
        )
        ended = time.monotonic() - begun
        killing.join()
        time.sleep(5)
        serving.send_signal(signal.SIGINT)
        code = serving.wait(60)
        reading.join()
        cluster.shutdown()
        with Store.read(db) as store:
            drawn = store.sql(DRAWN).to_dict("records")
    outcome = json.loads(done.stdout) if done.stdout.strip() else {}
    print(f"search: exit code {done.returncode}, {ended:.1f} s; serve: exit code {code}")
    print(json.dumps({"cost": outcome.get("cost"), "samples": drawn}, indent=1))
    print("\n".join(line for line in done.stderr.splitlines() if "server" in line or "error" in line))
    for at, line in lines:
        print(f"{at - begun - KILL_AFTER_S:+.1f} s {line}")


def read(serving: subprocess.Popen[str], lines: list[tuple[float, str]]) -> None:
    """Collect the lines of a program with the time of each."""
    assert serving.stderr is not None
    for line in serving.stderr:
        lines.append((time.monotonic(), line.rstrip()))


if __name__ == "__main__":
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    main()
