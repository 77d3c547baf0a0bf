"""What holds whatever fails: paid is stored or was in flight, no fault is a 0, decisions stay, one line.

AGENTTTS_FAULTS multiplies the number of cases; 1 by default.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agenttts import search
from benchmarks.kill_resume import answer
from datastore import ExampleScore, FileReplaced, Store
from pipelines import load_spec
from pipelines.allocation import Allocation, StageChoice
from pipelines.examples import Example
from pipelines.runtime import Runtime
from pipelines.servers.clients import ModelClients
from pipelines.servers.patience import Patience
from tests.agenttts.small_specs import write_pipeline
from tests.faults import ANSWERS, broken, every_nth, small_file_system
from tests.servers import ScriptedServer

MORE = int(os.environ.get("AGENTTTS_FAULTS", "1"))
TRIALS = 3
BREAKS = 1 if MORE == 1 else 3
MOST_LOST = 24 * 8  # samples of the examples of a trial, in flight or waiting for their commit


@dataclass(frozen=True)
class Stored:
    """What a search left in its store."""

    status: str
    decisions: list[tuple[str, str, float | None]]
    n_samples: int
    n_payments: int
    outcome_best: str


def stored(db: Path) -> Stored:
    """Read it, and check that no fault has a score and that every sample was paid for."""
    with Store.read(db) as store:
        run = store.run()
        decisions = []
        for trial in store.trials(run.run_id):
            decisions.append((trial.purpose, trial.allocation, trial.score))
            for score in store.scores(trial.trial_id).values():
                assert (score.score is None) == (score.status == "error"), score
        (n_samples,) = store.sql("SELECT count(*) AS n FROM samples WHERE run_id IS NOT NULL")["n"]
        cost = store.run_cost(run.run_id)
        assert cost.samples_drawn == n_samples, "each sample is stored together with its payment"
        best = (run.outcome or "").partition('"best":')[2][:200]
        return Stored(run.status, decisions, int(n_samples), cost.calls, best)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """The same search without a fault."""
    tmp_path = tmp_path_factory.mktemp("sound")
    with ScriptedServer(answer=answer) as server:
        search(
            write_pipeline(tmp_path / "sound", server.base_url),
            trials=TRIALS,
            policy="fixed",
            db=tmp_path / "sound.duckdb",
        )
    return stored(tmp_path / "sound.duckdb")


@pytest.mark.parametrize("seed", range(MORE))
def test_a_search_through_faulty_answers(tmp_path: Path, sound: Stored, seed: int) -> None:
    """Every n-th answer fails in some way: what was sent whole is stored, and decisions are the same."""
    rng = random.Random(seed)
    n, kinds = rng.randint(3, 12), rng.sample(ANSWERS, rng.randint(1, len(ANSWERS)))
    with ScriptedServer(answer=answer) as server:
        server.fault = every_nth(n, kinds, first=rng.randrange(n))
        search(
            write_pipeline(tmp_path, server.base_url),
            trials=TRIALS,
            policy="fixed",
            db=tmp_path / "run.duckdb",
        )
    left = stored(tmp_path / "run.duckdb")
    assert left.n_samples == sum(server.samples.values())
    assert (left.status, left.decisions) == (sound.status, sound.decisions), (n, kinds)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    with small_file_system(tmp_path / "disk", 8) as folder:
        yield folder


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error of a command that a broken store ended."""
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def gone_on(kind: str, db: Path, tmp_path: Path, at: int) -> tuple[Stored, ScriptedServer, list[str]]:
    """A search whose store breaks, and the same command again until it ends."""
    errors: list[str] = []
    with ScriptedServer(answer=answer) as server:
        spec = write_pipeline(tmp_path, server.base_url)
        command = ["search", spec, "--trials", TRIALS, "--policy", "fixed", "--db", db, "--max-in-flight", 8]
        for attempt in itertools.count():
            assert attempt <= BREAKS
            resume = ["--resume"] if db.exists() and _begun(db) else []
            done = broken(kind, at if attempt < BREAKS else 0, [*command, *resume])
            if done.returncode == 0:
                return stored(db), server, errors
            (db.parent / "filler").unlink(missing_ok=True)
            if not kind.startswith("kill"):
                errors.append(one_line(done))
    raise AssertionError


def _begun(db: Path) -> bool:
    with Store.read(db) as store:
        return bool(store.runs())


@pytest.mark.parametrize("seed", range(MORE))
@pytest.mark.parametrize("kind", ["kill-after", "efbig", "eio", *(["kill"] if MORE > 1 else [])])
def test_a_search_through_a_store_that_breaks(tmp_path: Path, sound: Stored, kind: str, seed: int) -> None:
    """Killed or refused at some write, and gone on with: nothing is paid twice but what was in flight."""
    at = random.Random(f"{kind} {seed}").randint(5, 60)
    left, server, errors = gone_on(kind, tmp_path / "run.duckdb", tmp_path, at)
    lost = sum(server.samples.values()) - left.n_samples
    assert 0 <= lost <= BREAKS * MOST_LOST
    assert left.decisions == sound.decisions and left.status == sound.status, at
    words = {"efbig": "disk is full", "eio": "Input/output error"}
    assert all(words[kind] in error for error in errors), errors


def test_a_search_on_a_disk_that_fills_up(tmp_path: Path, small_disk: Path, sound: Stored) -> None:
    """No space left, for real: one line, and with room again the same decisions."""
    left, server, errors = gone_on("enospc", small_disk / "run.duckdb", tmp_path, 20)
    assert errors and all("the disk is full" in error for error in errors)
    assert 0 <= sum(server.samples.values()) - left.n_samples <= BREAKS * MOST_LOST
    assert left.decisions == sound.decisions


def test_a_search_whose_database_is_deleted(tmp_path: Path, server: ScriptedServer) -> None:
    """One line that says so, soon: no more is drawn than was in flight."""
    db, spec = tmp_path / "run.duckdb", write_pipeline(tmp_path, server.base_url)
    done = broken(
        "unlink",
        12,
        ["search", spec, "--trials", TRIALS, "--policy", "fixed", "--db", db, "--max-in-flight", 8],
    )
    assert "was deleted, moved or replaced" in one_line(done)
    assert not db.exists()


@settings(deadline=None, max_examples=8 * MORE, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(2, 6),
    kinds=st.lists(st.sampled_from([*ANSWERS, "hang", "filtered", "short"]), min_size=1, max_size=4),
    first=st.integers(0, 5),
)
def test_an_example_is_answered_or_says_why(
    tmp_path_factory: pytest.TempPathFactory, n: int, kinds: list[str], first: int
) -> None:
    """Whatever the server does: a value or a reason, never both; what was sent whole is stored."""
    folder = tmp_path_factory.mktemp("faults")
    allocation = Allocation({s: StageChoice("small", 2) for s in ("retrieve", "answer")})

    async def run(url: str) -> None:
        spec = load_spec(write_pipeline(folder, url))
        clients = ModelClients(
            spec,
            rng=random.Random(0),
            patience=Patience(timeout_s=0.3, retry_s=0.05),
            holds=False,
            backoff_s=0.001,
            environ={},
        )
        with Store.open(folder / "run.duckdb") as store:
            runtime = Runtime(spec, store, clients, run_id="run-1")
            examples = [Example(str(i), {"question": f"q{i}", "answer": "red"}) for i in range(6)]
            outcomes = await asyncio.gather(*(runtime.run_example(allocation, e) for e in examples))
            for outcome in outcomes:
                if outcome.status == "ok":
                    assert outcome.score is not None and outcome.reason is None
                else:
                    assert outcome.score is None and outcome.output is None and outcome.reason
                    assert "\n" not in outcome.reason
            (n_samples,) = store.sql("SELECT count(*) AS n FROM samples")["n"]
            assert store.run_cost("run-1").samples_drawn == n_samples == sum(server.samples.values())
        await clients.aclose()

    with ScriptedServer(answer=answer, retry_after_s=0.001) as server:
        server.fault = every_nth(n, kinds, first)
        asyncio.run(run(server.base_url))


@settings(deadline=None, max_examples=15 * MORE, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 11), change=st.sampled_from(["unlink", "replace", "none"]))
def test_a_write_is_answered_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: str
) -> None:
    """Of twelve writes, those before the file goes away succeed, and every one after it is refused."""
    path = tmp_path_factory.mktemp("faults") / "run.duckdb"
    changes: dict[str, Callable[[], object]] = {
        "unlink": path.unlink,
        "replace": lambda: path.with_suffix(".new").replace(path),
        "none": lambda: None,
    }

    async def run() -> list[bool]:
        answered = []
        with Store.open(path) as store:
            Store.open(path.with_suffix(".new")).close()
            for number in range(12):
                if number == at:
                    changes[change]()
                score = ExampleScore(
                    trial_id="t", example_id=str(number), score=0.5, status="ok", reason=None
                )
                try:
                    await store.put_scores([score])
                    answered.append(True)
                except FileReplaced:
                    answered.append(False)
        return answered

    answered = asyncio.run(run())
    assert answered == [number < at or change == "none" for number in range(12)]
