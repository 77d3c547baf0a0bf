"""The page of a live run says how its servers are doing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agenttts.results.server_health import load_health
from datastore import Store
from tests.agenttts.service.conftest import SPEC, answer
from tests.agenttts.ui.conftest import serving
from tests.servers import ScriptedServer


def test_an_outage_is_seen_on_the_page(make_server: Callable[..., ScriptedServer], tmp_path: Path) -> None:
    """How many requests a server has answered, and since when and why it is down."""
    server = make_server(answer=answer, latency_s=0.05)
    for split, count in (("search", 40), ("test", 8)):
        rows = [{"question": f"{split}{i}", "gold": "x"} for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pipeline.yaml").write_text(SPEC.format(base_url=server.base_url))
    db = tmp_path / "run.duckdb"
    command = [sys.executable, "-m", "agenttts", "search", str(tmp_path / "pipeline.yaml"), "--db", str(db)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while server.n_answered < 10:
            time.sleep(0.02)
        server.stop()
        with serving(db) as served:
            (run,) = {part for part in served.get("/")[2].split('"') if part.startswith("/runs/")}
            deadline = time.monotonic() + 60
            while "down for" not in (body := served.get(run)[2]):
                assert time.monotonic() < deadline and process.poll() is None, body
                time.sleep(0.5)
            assert server.base_url in body and "connection failed" in body
    finally:
        process.kill()
        process.wait()
    with Store.read(db) as store:
        health = load_health(store, store.run().run_id)
    assert health is not None
    (one,) = health.servers
    assert one.models == ("small",) and one.n_answered >= 10 and one.n_faults >= 5 and one.down_s is not None
