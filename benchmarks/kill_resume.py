"""Kill a search at random moments and resume it: `python benchmarks/kill_resume.py --kills 10`.

A search in a process of its own, against a scripted OpenAI-compatible server over real HTTP that counts what
it sends, is killed with SIGKILL when the server has been asked a random number of requests, and resumed with
the same command and `--resume`. A sample that was stored before the kill and is drawn again counts as
repeated. The decisions (proposals, trials, scores, winner) are compared with those of an undisturbed run.

Measured 2026-11-24, two cores, `--kills 10 --seed 0`: an undisturbed run takes 206 requests for 10 trials;
killed at requests 13 to 203, 0 stored samples were drawn again each time, 48 to 192 samples were lost in
flight, and all ten resumed runs decided as the undisturbed one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datastore import Store
from tests.agenttts.small_specs import write_pipeline
from tests.servers import Request, ScriptedServer

TRIALS = 8


@dataclass(frozen=True)
class Outcome:
    """Of one kill: samples that were drawn again though stored, samples lost in flight, equal decisions."""

    at_request: int
    repeated: int
    in_flight: int
    same_decisions: bool


def answer(request: Request, index: int) -> str:
    """The same text for every draw of a prompt, so that what was in flight at a kill changes no decision."""
    digest = hashlib.sha256(f"{request.model}|{request.prompt}".encode()).digest()
    return ("red", "green", "blue")[digest[0] % 3]


def command(spec: Path, db: Path, *more: str) -> list[str]:
    call = "from agenttts.cli.main import main; main()"
    return [sys.executable, "-c", call, "search", str(spec), "--db", str(db), "--trials", str(TRIALS), *more]


def stored(db: Path) -> Counter[tuple[str, str]]:
    """(model, prompt) → samples in the store."""
    with Store.read(db) as store:
        rows = store.sql(
            "SELECT prompts.model_key AS model, prompts.content AS content, count(*) AS n "
            "FROM samples JOIN prompts ON prompts.key = samples.prompt_key GROUP BY ALL"
        )
    found: Counter[tuple[str, str]] = Counter()
    for model, content, n in rows.itertuples(index=False):
        found[model, "\n".join(m["content"] for m in json.loads(content)["messages"])] += int(n)
    return found


def decisions(db: Path) -> Any:
    """Everything that was decided, without what depends on time or on who paid."""
    with Store.read(db) as store:
        run = store.run()
        outcome = json.loads(run.outcome or "{}")
        return {
            "proposals": [(p.step, p.allocation, p.proposer, p.status) for p in store.proposals(run.run_id)],
            "trials": [(t.number, t.allocation, t.score) for t in store.trials(run.run_id)],
            "insights": [(i.step, i.text) for i in store.insights(run.run_id)],
            "best": outcome.get("best"),
            "certificate": outcome.get("certificate"),
        }


def undisturbed(folder: Path) -> tuple[Any, int]:
    """The decisions of a run that nobody kills, and how many requests it takes."""
    with ScriptedServer(answer=answer) as server:
        spec = write_pipeline(folder, server.base_url)
        subprocess.run(command(spec, folder / "run.duckdb"), check=True, capture_output=True)
        return decisions(folder / "run.duckdb"), len(server.arrived)


def killed_and_resumed(folder: Path, at_request: int, wanted: Any, *, latency_s: float = 0.004) -> Outcome:
    """Kill a run when the server has had so many requests, and resume it."""
    with ScriptedServer(answer=answer, latency_s=latency_s) as server:
        spec, db = write_pipeline(folder, server.base_url), folder / "run.duckdb"
        process = subprocess.Popen(command(spec, db), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(server.arrived) < at_request and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.2)  # what the server was answering
        before, sent_before = stored(db), server.samples.copy()
        subprocess.run(command(spec, db, "--resume"), check=True, capture_output=True)
        sent_after = server.samples - sent_before
        new = stored(db) - before
        repeated = sum((sent_after - new).values())
        in_flight = sum((sent_before - before).values())
        return Outcome(at_request, repeated, in_flight, decisions(db) == wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        wanted, requests = undisturbed(Path(folder) / "undisturbed")
        print(f"undisturbed: {requests} requests, {len(wanted['trials'])} trials")
        for kill in range(arguments.kills):
            outcome = killed_and_resumed(Path(folder) / str(kill), rng.randrange(3, requests), wanted)
            same = "the same" if outcome.same_decisions else "DIFFERENT"
            print(
                f"killed at request {outcome.at_request:4d}: {outcome.repeated} stored samples drawn again, "
                f"{outcome.in_flight} lost in flight, decisions {same}"
            )


if __name__ == "__main__":
    main()
