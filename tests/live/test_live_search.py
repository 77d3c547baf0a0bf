"""A search against real vLLM servers: a certificate, nothing paid twice, and the death of a server."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from agenttts import load_run, search
from agenttts.search.events import RunFinished, SearchEvent, TrialFinished
from datastore import Store
from pipelines.errors import ServerDown
from pipelines.servers.clients import ModelClients
from pipelines.servers.group import ServerGroup, commands
from pipelines.servers.patience import Patience
from pipelines.servers.preflight import preflight
from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec
from tests.live.conftest import write_spec


async def test_preflight_finds_nothing_wrong_and_names_what_is(live_spec: PipelineSpec) -> None:
    """Two servers that answer pass; a served name that they do not have is found before a token is spent."""
    used = {name: live_spec.models[name] for name in ("small", "medium")}
    spec = live_spec.model_copy(update={"models": used})
    clients = ModelClients(spec, rng=random.Random(0))
    assert await preflight(spec, clients) == []
    await clients.aclose()
    wrong = {**used, "small": used["small"].model_copy(update={"served_name": "absent"})}
    spec = live_spec.model_copy(update={"models": wrong})
    clients = ModelClients(spec, rng=random.Random(0))
    (problem,) = await preflight(spec, clients)
    await clients.aclose()
    assert "absent" in str(problem) and problem.place.startswith("models.small")


def test_a_live_search_ends_with_a_certificate_and_pays_once(live_spec: PipelineSpec, tmp_path: Path) -> None:
    """Every example is scored, the winner is scored on the test split, and a repeat draws nothing."""
    db = tmp_path / "live.duckdb"
    events: list[SearchEvent] = []
    result = search(live_spec, trials=5, proposer="insights", db=db, on_event=events.append)
    assert result.status == "complete" and len(result.trials) == 5
    assert all(trial.n_missing == 0 and trial.n_scored == 16 for trial in result.trials)
    assert result.best is not None and result.best.test_score is not None
    assert {choice.model for trial in result.trials for choice in trial.allocation.values()} == {
        "small",
        "medium",
    }
    assert result.cost.samples_drawn > 0 and result.cost.calls < result.cost.samples_drawn
    assert result.cost.generated_tokens > result.cost.samples_drawn
    assert isinstance(events[-1], RunFinished)

    again = search(live_spec, trials=5, proposer="insights", db=db)
    assert again.run_id != result.run_id
    assert again.cost.calls == 0 and again.cost.samples_drawn == 0
    assert [t.scores for t in again.trials] == [t.scores for t in result.trials]
    assert again.best == result.best

    inputs = [{"question": "What is the team of Klara?", "candidates": ["Klara supports Tigers."]}]
    (answer,) = load_run(db).run(inputs)
    assert answer["status"] == "ok" and isinstance(answer["output"], str)


def test_a_server_that_dies_stops_the_search_and_no_trial_is_spent_on_it(vllm: None, tmp_path: Path) -> None:
    """After its only server is killed a search waits, and stops with what it had: no failed trial, no 0."""
    spec = load_spec(write_spec(tmp_path, ["small"], n_search=12, n_test=4))
    finished: list[TrialFinished] = []

    with ServerGroup(commands(spec, ["small"], device="cpu"), log_dir=tmp_path / "logs") as group:

        def on_event(event: SearchEvent) -> None:
            if isinstance(event, TrialFinished):
                finished.append(event)
                if len(finished) == 2:
                    os.killpg(group.pids[0], signal.SIGKILL)

        with pytest.raises(ServerDown):
            search(
                spec,
                trials=4,
                proposer="insights",
                db=tmp_path / "dies.duckdb",
                on_event=on_event,
                patience=Patience(retry_s=1.0, longest_outage_s=3.0),
            )
    with Store.read(tmp_path / "dies.duckdb") as store:
        run = store.run()
        trials = store.trials(run.run_id)
        rows = [row for trial in trials for row in store.scores(trial.trial_id).values()]
    assert run.status == "stopped"
    assert [trial.status for trial in trials].count("complete") >= 2
    assert not [trial for trial in trials if trial.status == "failed"]
    assert all((row.score is None) == (row.status == "error") for row in rows)
