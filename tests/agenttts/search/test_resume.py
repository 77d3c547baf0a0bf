"""kill -9 at any moment, then --resume: nothing stored is drawn again, and the decisions are the same."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from agenttts import UserError, search
from benchmarks.kill_resume import answer, command, decisions, killed_and_resumed, stored, undisturbed
from datastore import Store
from tests.agenttts.small_specs import write_pipeline
from tests.servers import ScriptedServer


def test_killed_at_three_moments_a_search_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Early, in the middle and late: counted at the server, no stored sample is asked for again."""
    wanted, requests = undisturbed(tmp_path / "undisturbed")
    for share in (0.1, 0.5, 0.95):
        outcome = killed_and_resumed(tmp_path / str(share), int(share * requests), wanted)
        assert outcome.repeated == 0, outcome
        assert outcome.same_decisions, outcome


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_a_run_says_so_and_resumes(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM end the command in order: the run is marked as stopped, and the hint is printed."""
    with ScriptedServer(answer=answer, latency_s=0.05) as server:
        spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "run.duckdb"
        process = subprocess.Popen(
            command(spec, db), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        while len(server.arrived) < 30 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 128 + number, told
        assert "--resume" in told and "Traceback" not in told
        with Store.read(db) as store:
            assert store.run().status == "stopped"
        subprocess.run(command(spec, db, "--resume"), check=True, capture_output=True)
    with Store.read(db) as store:
        assert [run.status for run in store.runs()] == ["complete"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("latency_s", [1.0, 30.0], ids=["in time", "too late"])
def test_what_is_in_flight_at_a_signal_is_kept_if_it_comes_in_time(
    number: signal.Signals, latency_s: float, tmp_path: Path
) -> None:
    """Paid is stored: every sample that the server sends within the stated seconds; one line tells of it."""
    with ScriptedServer(answer=answer) as server:
        db, process = started(tmp_path, server)
        server.latency_s = latency_s
        n_before = len(server.arrived)
        while len(server.arrived) < n_before + 12 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        _, printed = process.communicate(timeout=100)
        assert process.returncode == 128 + number, printed
        assert "in flight are awaited for 5 s at most, and kept" in printed and "Traceback" not in printed
        n_sent, n_answered = sum(server.samples.values()), server.n_answered
        assert sum(stored(db).values()) == n_sent
        with Store.read(db) as store:
            run = store.run()
            assert run.status == "stopped" and store.run_cost(run.run_id).calls == n_answered
        assert (len(server.arrived) == n_answered) == (latency_s < 5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(number: signal.Signals, tmp_path: Path) -> None:
    """What would come in time is given up, and the run is marked as stopped all the same."""
    with ScriptedServer(answer=answer) as server:
        db, process = started(tmp_path, server)
        server.latency_s = 4.0
        n_before = len(server.arrived)
        while len(server.arrived) < n_before + 12 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        time.sleep(0.5)
        process.send_signal(number)
        _, printed = process.communicate(timeout=100)
        assert process.returncode == 128 + number and "Traceback" not in printed, printed
        with Store.read(db) as store:
            run = store.run()
            assert run.status == "stopped" and store.run_cost(run.run_id).calls < len(server.arrived)


def started(folder: Path, server: ScriptedServer) -> tuple[Path, subprocess.Popen[str]]:
    """A search in a process of its own that has had some answers: its database, and the process."""
    server.latency_s = 0.05
    spec, db = write_pipeline(folder, server.base_url), folder / "run.duckdb"
    process = subprocess.Popen(command(spec, db), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while server.n_answered < 30 and process.poll() is None:
        time.sleep(0.005)
    return db, process


def test_ctrl_c_ends_client_processes_in_order(tmp_path: Path) -> None:
    """A terminal sends it to all of them: what is in flight is kept, the run is stopped, and goes on."""
    with ScriptedServer(answer=answer, latency_s=0.05) as server:
        spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "run.duckdb"
        search = command(spec, db, "--clients", "2")
        process = subprocess.Popen(
            search, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        while len(server.arrived) < 30 and process.poll() is None:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)
        _, printed = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGINT and "Traceback" not in printed, printed
        with Store.read(db) as store:
            run = store.run()
            assert run.status == "stopped" and store.run_cost(run.run_id).calls == server.n_answered
        assert sum(stored(db).values()) == sum(server.samples.values())
        assert not db.with_name("run.duckdb.clients").exists()
        subprocess.run([*search, "--resume"], check=True, capture_output=True)
    with Store.read(db) as store:
        assert [run.status for run in store.runs()] == ["complete"]


def test_killed_while_client_processes_draw_a_search_goes_on_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    """What they have in flight when the search alone is killed is kept; where they are killed with it, what
    is drawn again was in flight, or in no file yet.
    """
    with ScriptedServer(answer=answer, latency_s=0.05) as server:
        spec, wanted = write_pipeline(tmp_path, server.base_url), tmp_path / "undisturbed.duckdb"
        subprocess.run(command(spec, wanted), check=True, capture_output=True)
        n_wanted = len(server.arrived)
        for kill, most_again in ((os.kill, 0), (os.killpg, 64 + 8)):
            db, n_before = tmp_path / f"{kill.__name__}.duckdb", len(server.arrived)
            search = command(spec, db, "--clients", "2")
            process = subprocess.Popen(
                search, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
            while len(server.arrived) < n_before + n_wanted / 2 and process.poll() is None:
                time.sleep(0.005)
            kill(process.pid, signal.SIGKILL)
            process.wait()
            resumed = subprocess.run([*search, "--resume"], check=True, capture_output=True, text=True)
            assert decisions(db) == decisions(wanted) and stored(db) == stored(wanted)
            assert len(server.arrived) - n_before - n_wanted <= most_again
            assert most_again or "samples of client processes that were killed are kept" in resumed.stderr
            assert not db.with_name(f"{db.name}.clients").exists()


def test_a_run_is_not_resumed_with_other_settings(recorded: Path, tmp_path: Path) -> None:
    """Another seed or budget is another run: it says what differs."""
    db = tmp_path / "run.duckdb"
    search(recorded, trials=4, seed=1, db=db, replay=True)
    with pytest.raises(UserError, match="seed"):
        search(recorded, trials=4, seed=2, db=db, replay=True, resume=True)
    with pytest.raises(UserError, match="budget"):
        search(recorded, trials=4, seed=1, budget=30, db=db, replay=True, resume=True)
    first = decisions(db)
    search(recorded, trials=4, seed=1, db=db, replay=True, resume=True)
    assert decisions(db) == first
