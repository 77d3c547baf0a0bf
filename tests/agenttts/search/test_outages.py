"""An outage is a state of a search and not its result: it stops, goes on later, and claims nothing of it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agenttts import Patience, SearchLimits, load_run, search
from agenttts.errors import TrialsFailed
from agenttts.search.events import Note, RunStopped, SearchEvent
from agenttts.search.redone import MOST_FAILED, trials_to_keep
from agenttts.settings import SearchSettings
from benchmarks.kill_resume import answer, decisions
from datastore import Store
from pipelines.errors import ServerDown
from tests.agenttts.commands import agenttts
from tests.agenttts.small_specs import write_pipeline
from tests.servers import Request, ScriptedServer

IMPATIENT = Patience(retry_s=0.2, longest_outage_s=2.0)
OPTIONS = ("--retry-for", "0.2", "--longest-outage", "2")


def at(n_requests: int, server: ScriptedServer) -> Callable[[Request], str | None]:
    """503 from so many requests on."""
    return lambda request: "503" if len(server.arrived) > n_requests else None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The decisions of a search whose servers are well."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with ScriptedServer(answer=answer) as server:
        search(write_pipeline(folder, server.base_url), trials=3, db=folder / "r.duckdb")
    return decisions(folder / "r.duckdb")


@pytest.mark.parametrize("n_requests", [0, 60], ids=["throughout", "from the sixtieth request on"])
def test_an_outage_stops_the_search_which_then_goes_on(
    tmp_path: Path, undisturbed: object, n_requests: int
) -> None:
    """It is told while it lasts, no trial is spent on it, the exit code is 1 with a hint, and with --resume
    the same command decides as if nothing had happened.
    """
    with ScriptedServer(answer=answer) as server:
        server.fault = at(n_requests, server)
        spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "r.duckdb"
        command = ("search", spec, "--trials", 3, "--db", db)
        stopped = agenttts(*command, "--longest-outage", 8)
        assert stopped.code == 1 and "Traceback" not in stopped.err
        assert f"server {server.base_url} is down since " in stopped.err and "next probe in" in stopped.err
        assert any(re.search(r"\(status 503: .*\), and 8 s are waited", line) for line in stopped.errors), (
            stopped.err
        )
        assert "stopped: run " in stopped.err and "--resume continues it" in stopped.err
        with Store.read(db) as store:
            assert store.run().status == "stopped"
            assert not any(trial.status == "failed" for trial in store.trials(store.run().run_id))
        server.fault = None
        resumed = agenttts(*command, "--resume")
        assert resumed.code == 0, resumed.err
    assert decisions(db) == undisturbed


def test_a_short_outage_changes_nothing(tmp_path: Path, undisturbed: object) -> None:
    """What is down for two seconds is waited for: all trials have scores, and the decisions are the same."""
    events: list[SearchEvent] = []
    began: list[float] = []

    def for_two_seconds(request: Request) -> str | None:
        if len(server.arrived) > 20:
            began.append(time.monotonic())
        return "503" if began and time.monotonic() < began[0] + 2 else None

    with ScriptedServer(answer=answer) as server:
        spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "r.duckdb"
        server.fault = for_two_seconds
        search(spec, trials=3, db=db, on_event=events.append)
    assert decisions(db) == undisturbed
    assert any(isinstance(event, Note) and "is back after" in event.message for event in events)


def test_one_of_two_servers_is_held_alone(tmp_path: Path) -> None:
    """While one is down the other goes on answering; the search stops for the one that is down."""
    with ScriptedServer(answer=answer) as well, ScriptedServer(answer=answer) as ill:
        ill.fault = lambda request: "503"
        spec = write_pipeline(tmp_path, well.base_url)
        models = f'large, base_url: "{well.base_url}"', f'large, base_url: "{ill.base_url}"'
        spec.write_text(spec.read_text().replace(*models))
        with pytest.raises(ServerDown, match=ill.base_url):
            search(spec, trials=3, db=tmp_path / "r.duckdb", patience=IMPATIENT, proposer="insights")
        assert well.n_answered >= 48 and not ill.n_answered
    result = load_run(tmp_path / "r.duckdb")
    assert result.status == "stopped" and [trial.status for trial in result.trials] == ["complete"]


def bad_text(request: Request) -> str | None:
    """Answers without a text for a third of the search's prompts."""
    return "empty" if any(f"search-{i}" in request.prompt for i in range(8)) else None


def test_failed_trials_are_no_result(tmp_path: Path) -> None:
    """Several in a row stop the search; they use up no trial, are run again, and are not claimed of."""
    events: list[SearchEvent] = []
    with ScriptedServer(answer=answer) as server:
        server.fault = bad_text
        spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "r.duckdb"
        patience = Patience(retry_s=0)
        arguments = {"trials": 3, "db": db, "proposer": "insights", "patience": patience}
        with pytest.raises(TrialsFailed, match=r"5 trials in a row have no score.*without choices"):
            search(spec, on_event=events.append, **arguments)  # type: ignore[arg-type]
        assert load_run(db).status == "stopped"
        with Store.read(db) as store:
            failed = [t for t in store.trials(store.run().run_id) if t.status == "failed"]
            kept = trials_to_keep(store, store.run().run_id, SearchLimits(trials=3), 24)
        assert len(failed) == MOST_FAILED and len(kept) == 2, "as many are run again as trials are allowed"
        assert isinstance(events[-1], RunStopped) and "--resume" in events[-1].message
        server.fault = None
        result = search(spec, resume=True, on_event=events.append, **arguments)  # type: ignore[arg-type]
    assert result.status == "complete"
    assert sum(trial.status == "complete" for trial in result.trials) == 3
    assert result.outcome.certificate.n_trials == 3
    assert "2 further trials have failed, and count as no allocation tried." in result.certificate


def test_a_search_without_a_score_is_not_complete(tmp_path: Path) -> None:
    """A limit that leaves no room for a trial: exit code 1, status stopped, and a larger one goes on."""
    with ScriptedServer(answer=answer) as server:
        spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "r.duckdb"
        command = ("search", spec, "--trials", 2, "--db", db, "--json")
        done = agenttts(*command, "--max-tokens", 300)
        assert done.code == 1 and done.json["best"] is None
        assert "no trial has a score: stopped by a limit" in done.err
        assert load_run(db).status == "stopped"
        more = agenttts(*command, "--max-tokens", 1_000_000, "--resume")
    assert more.code == 0 and more.json["best"] is not None


def test_a_test_split_without_a_score_is_scored_again(tmp_path: Path) -> None:
    """Where it can't be had the run is stopped and not complete; resumed, it takes nothing but that."""
    with ScriptedServer(answer=answer) as server:
        server.fault = lambda request: "empty" if "test-" in request.prompt else None
        spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "r.duckdb"
        command = ("search", spec, "--trials", 2, "--db", db, "--retry-for", 0)
        done = agenttts(*command)
        assert done.code == 1 and "the score on the test split is missing" in done.err
        server.fault = None
        before = len(server.arrived)
        assert agenttts(*command, "--resume").code == 0
        assert all("test-" in request.prompt for request in server.arrived[before:])
    best = load_run(db).best
    assert best is not None and best.test_score is not None


def test_resume_begins_a_run_where_there_is_none(tmp_path: Path) -> None:
    """Without a database, and with an empty one; with a run of other settings only, it says what differs."""
    with ScriptedServer(answer=answer) as server:
        spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "r.duckdb"
        Store.open(db).close()
        for place in (db, tmp_path / "new.duckdb"):
            done = agenttts("search", spec, "--trials", 1, "--db", place, "--resume")
            assert done.code == 0 and "run 2" in done.err, done.err
        other = agenttts("search", spec, "--trials", 1, "--db", db, "--resume", "--seed", 7)
    assert other.code == 2 and "seed was 0, now 7" in other.errors[0]


def test_patience_is_an_option_a_setting_and_may_change(tmp_path: Path) -> None:
    """Help, the run's settings and Python name the same three; none of them makes another run of it."""
    for command in ("search", "run"):
        text = agenttts(command, "--help").out
        assert all(option in text for option in ("--timeout", "--retry-for", "--longest-outage"))
    assert "--timeout" in agenttts("check", "--help").out
    with ScriptedServer(answer=answer) as server:
        spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "r.duckdb"
        server.fault = at(30, server)
        stopped = agenttts("search", spec, "--trials", 1, "--db", db, "--timeout", 50, *OPTIONS)
        assert stopped.code == 1
        stored = settings_of(db)
        assert stored.patience == Patience(timeout_s=50.0, retry_s=0.2, longest_outage_s=2.0)
        assert SearchSettings.from_json_dict(json.loads(json.dumps(stored.to_json_dict()))) == stored
        server.fault = None
        result = search(spec, trials=1, db=db, resume=True, patience=Patience(timeout_s=70.0))
        assert result.status == "complete" and settings_of(db).patience == Patience(timeout_s=70.0)
        refused = agenttts("search", spec, "--db", db, "--timeout", 0)
    assert refused.code == 2 and "timeout_s (--timeout) is a number of seconds, above 0" in refused.errors[0]


def settings_of(db: Path) -> SearchSettings:
    with Store.read(db) as store:
        return SearchSettings.from_json_dict(json.loads(store.run().settings))


def test_an_outage_ends_a_run_on_new_inputs(tmp_path: Path) -> None:
    """`agenttts run` and `load_run(...).run` say so instead of answering with missing values."""
    with ScriptedServer(answer=answer) as server:
        spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "r.duckdb"
        search(spec, trials=1, db=db, policy="fixed")
        server.fault = lambda request: "503"
        inputs = [{"question": f"new {i}"} for i in range(6)]
        with pytest.raises(ServerDown):
            load_run(db).run(inputs, patience=IMPATIENT)
        lines = "".join(json.dumps(one) + "\n" for one in inputs)
        done = agenttts("run", spec, "--run", "latest", "--db", db, *OPTIONS, stdin=lines)
        assert done.code == 1 and server.base_url in done.errors[0], done.err
        server.fault = None
        assert all(row["status"] == "ok" for row in load_run(db).run(inputs))
