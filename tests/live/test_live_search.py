"""A search against real vLLM servers: a certificate, nothing paid twice, and the death of a server."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from agenttts import load_run, search
from agenttts.search.events import RunFinished, SearchEvent, TrialFinished
from datastore import Store
from pipelines.servers.clients import ModelClients
from pipelines.servers.group import ServerGroup, commands
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


def test_a_server_that_dies_leaves_missing_values_and_never_zeros(vllm: None, tmp_path: Path) -> None:
    """After its only server is killed a search keeps what it had; the dead trials have no score."""
    spec = load_spec(write_spec(tmp_path, ["small"], n_search=12, n_test=4))
    finished: list[TrialFinished] = []

    with ServerGroup(commands(spec, ["small"], device="cpu"), log_dir=tmp_path / "logs") as group:

        def on_event(event: SearchEvent) -> None:
            if isinstance(event, TrialFinished):
                finished.append(event)
                if len(finished) == 2:
                    os.killpg(group.pids[0], signal.SIGKILL)

        result = search(spec, trials=4, proposer="insights", db=tmp_path / "dies.duckdb", on_event=on_event)
    scored = [trial for trial in result.trials if trial.status == "complete"]
    dead = [trial for trial in result.trials if trial.status == "failed"]
    assert len(scored) >= 2 and dead, [trial.status for trial in result.trials]
    assert all(trial.samples_drawn == 0 for trial in scored[2:])  # the bank answers them
    assert all(score is not None for trial in scored for score in trial.scores.values())
    assert all(trial.score is None and trial.error for trial in dead)
    with Store.read(tmp_path / "dies.duckdb") as store:
        rows = [row for t in store.trials(result.run_id) for row in store.scores(t.trial_id).values()]
    assert any(row.status == "error" for row in rows)
    assert all((row.score is None) == (row.status == "error") for row in rows)
    assert result.best is not None and result.best.allocation in {trial.allocation for trial in scored}
