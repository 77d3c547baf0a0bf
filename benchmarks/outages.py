"""Servers that fail and runs that are stopped: `python benchmarks/outages.py`.

Searches in processes of their own, against scripted servers over real HTTP that count what they send: a
server at 503 throughout; one that is well after a while; one of two that is; a kill within the first second;
SIGTERM with requests in flight. After each the same command runs with `--resume`. Figures are in docs/log.md.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.kill_resume import answer, command, stored
from datastore import Store
from tests.agenttts.small_specs import write_pipeline
from tests.servers import ScriptedServer


def searched(spec: Path, db: Path, *options: str) -> str:
    """Run a search to its end: its exit code, how long it took, and what it left."""
    started = time.monotonic()
    done = subprocess.run(command(spec, db, *options), capture_output=True, text=True)
    return f"exit code {done.returncode} after {time.monotonic() - started:.1f} s, {left(db)}"


def left(db: Path) -> str:
    """The status of the run in a database, and how its trials ended."""
    if not db.exists():
        return "no database"
    with Store.read(db) as store:
        if not store.runs():
            return "no run"
        trials = Counter(trial.status for trial in store.trials(store.run().run_id))
        return f"run {store.run().status}, trials {dict(trials)}"


def throughout(folder: Path, options: list[str]) -> None:
    """503 from the first request for a sample on, and well before the command is repeated."""
    with ScriptedServer(answer=answer, fault=lambda request: "503") as server:
        spec, db = write_pipeline(folder, server.base_url), folder / "run.duckdb"
        print(f"503 throughout: {searched(spec, db, *options)}, {len(server.arrived)} requests", flush=True)
        server.fault = None
        print(f"  then well, --resume: {searched(spec, db, '--resume')}", flush=True)


def for_a_while(folder: Path, options: list[str], seconds: float) -> None:
    """503 for some seconds, from the thirtieth request on, and then well."""
    with ScriptedServer(answer=answer) as server:
        server.fault = _down(server, seconds)
        spec, db = write_pipeline(folder, server.base_url), folder / "run.duckdb"
        print(f"503 for {seconds:g} s, then well: {searched(spec, db, *options)}", flush=True)


def one_of_two(folder: Path, options: list[str], seconds: float) -> None:
    """Two models on two servers, of which one is at 503 for some seconds."""
    with ScriptedServer(answer=answer) as well, ScriptedServer(answer=answer) as ill:
        ill.fault = _down(ill, seconds)
        spec, db = write_pipeline(folder, well.base_url), folder / "run.duckdb"
        text = spec.read_text().replace(
            f'large, base_url: "{well.base_url}"', f'large, base_url: "{ill.base_url}"'
        )
        spec.write_text(text)
        print(f"one of two at 503 for {seconds:g} s: {searched(spec, db, *options)}", flush=True)
        print(f"  answered by the well one {well.n_answered}, the ill one {ill.n_answered}", flush=True)


def killed_early(folder: Path) -> None:
    """Kill -9 within the first two seconds of a search."""
    ends: Counter[str] = Counter()
    for tenths in range(1, 21):
        with ScriptedServer(answer=answer, latency_s=0.05) as server:
            place = folder / str(tenths)
            spec, db = write_pipeline(place, server.base_url), place / "run.duckdb"
            process = subprocess.Popen(
                command(spec, db), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(tenths / 10)
            process.kill()
            process.wait()
            before = left(db)
            ends[f"{before.split(',')[0]} -> {searched(spec, db, '--resume').split(' after')[0]}"] += 1
    print(f"kill -9 after 0.1 to 2 s, then --resume: {dict(ends)}", flush=True)


def signalled(folder: Path, number: signal.Signals, latency_s: float) -> None:
    """A signal with requests in flight at a server that takes some time for each."""
    with ScriptedServer(answer=answer, latency_s=latency_s) as server:
        spec, db = write_pipeline(folder, server.base_url), folder / "run.duckdb"
        process = subprocess.Popen(command(spec, db), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while len(server.arrived) < 30 and process.poll() is None:
            time.sleep(0.005)
        time.sleep(0.1)
        in_flight, started = len(server.arrived) - server.n_answered, time.monotonic()
        process.send_signal(number)
        process.communicate()
        seconds = time.monotonic() - started
        time.sleep(latency_s)  # what is given up is answered, and billed, all the same
        lost = sum((server.samples - stored(db)).values())
        print(
            f"{number.name} with {in_flight} requests of {latency_s:g} s in flight: exit code "
            f"{process.returncode} after {seconds:.1f} s, {sum(server.samples.values())} samples paid, "
            f"{lost} of them lost",
            flush=True,
        )


def _down(server: ScriptedServer, seconds: float) -> Callable[[object], str | None]:
    began: list[float] = []

    def fault(request: object) -> str | None:
        if len(server.arrived) < 30 and not began:
            return None
        if not began:
            began.append(time.monotonic())
        return "503" if time.monotonic() - began[0] < seconds else None

    return fault


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--longest-outage", type=float, default=20.0)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    options = ["--longest-outage", f"{arguments.longest_outage:g}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases: dict[str, Callable[[], None]] = {
            "throughout": lambda: throughout(folder / "throughout", options),
            "while": lambda: for_a_while(folder / "while", [], arguments.seconds),
            "two": lambda: one_of_two(folder / "two", [], arguments.seconds),
            "early": lambda: killed_early(folder / "early"),
            "term": lambda: signalled(folder / "term", signal.SIGTERM, 1.0),
            "int": lambda: signalled(folder / "int", signal.SIGINT, 1.0),
            "slow": lambda: signalled(folder / "slow", signal.SIGTERM, 12.0),
        }
        for case, run in cases.items():
            if arguments.only in ("", case):
                run()


if __name__ == "__main__":
    main()
