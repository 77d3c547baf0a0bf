"""Runs and trials in a real MLflow store: there once, with the figures of the result."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agenttts import load_run
from agenttts.results.trials import trial_id
from datastore import Store
from tests.agenttts.commands import agenttts


@pytest.fixture(scope="module")
def mlflow() -> Iterator[Any]:
    """MLflow with a database; both are optional."""
    pytest.importorskip("sqlalchemy", reason="MLflow's own database needs sqlalchemy (pip install mlflow)")
    pytest.importorskip("alembic", reason="MLflow's own database needs alembic (pip install mlflow)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("mlflow", reason="the export to MLflow needs mlflow (pip install mlflow)")


@pytest.mark.filterwarnings("ignore")
def test_a_run_and_its_trials_are_there_once(mlflow: Any, searched: Path, tmp_path: Path) -> None:
    """A parent with the figures of the result, a child for each trial; a second export changes nothing."""
    place = f"sqlite:///{tmp_path}/mlflow.db"
    result = load_run(searched)
    trials = [*result.trials, *result.confirmation]
    assert result.best is not None
    for time in range(2):
        done = agenttts("export", "mlflow", searched, "--tracking-uri", place, "--json")
        assert done.json == {
            "experiments": ["recorded"],
            "n_runs": 1,
            "n_trials": len(trials),
            "n_new": 0 if time else len(trials) + 1,
        }
        client = mlflow.MlflowClient(place)
        experiment = client.get_experiment_by_name("recorded")
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
        children = {run.data.tags["agenttts.trial"]: run for run in runs if run is not parent}
        assert len(children) == len(trials) == len(runs) - 1
        assert {child.data.tags["mlflow.parentRunId"] for child in children.values()} == {parent.info.run_id}
        assert parent.info.run_name == result.run_id and parent.info.status == "FINISHED"
        assert parent.data.metrics["best.test_score"] == result.best.test_score
        assert parent.data.params["pipeline"] == "recorded" and parent.data.params["seed"] == "0"
        history = client.get_metric_history(parent.info.run_id, "best_so_far")
        course = [one.value for one in sorted(history, key=lambda one: (one.timestamp, one.step))]
        complete = [trial for trial in result.trials if trial.status == "complete"]
        assert len(course) == len(complete) and course == sorted(course)
        assert course[-1] == max(trial.score or 0.0 for trial in complete)
        for trial in trials:
            own = children[str(trial.number)].data
            assert own.metrics.get("score") == trial.score and own.params["purpose"] == trial.purpose
            assert own.params["answer.n_samples"] == str(trial.allocation["answer"].n_samples)


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_goes_on_is_brought_up_to_date(mlflow: Any, searched: Path, tmp_path: Path) -> None:
    """Trials that came since are added, its end is told, and it may have been resumed with other limits."""
    place, db = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run.duckdb"
    shutil.copy(searched, db)
    with Store.open(db) as store:
        finished = store.run()
        store.start_run(replace(finished, status="running", outcome=None, finished_at=None))
    first = agenttts("export", "mlflow", db, "--tracking-uri", place, "--json").json
    client = mlflow.MlflowClient(place)
    experiment = client.get_experiment_by_name("recorded").experiment_id
    parent = "tags.`agenttts.trial` = 'search'"
    assert client.search_runs([experiment], parent)[0].info.status == "RUNNING"
    with Store.open(db) as store:
        trial = next(t for t in store.trials(finished.run_id) if t.status == "complete")
        store.begin_trial(replace(trial, trial_id=trial_id(finished.run_id, 999), number=999))
        settings = json.loads(finished.settings) | {"limits": {"trials": 77}, "max_error_rate": 0.5}
        store.start_run(replace(finished, outcome=None, settings=json.dumps(settings)))
    second = agenttts("export", "mlflow", db, "--tracking-uri", place, "--json").json
    assert (second["n_trials"], second["n_new"]) == (first["n_trials"] + 1, 1)
    resumed = client.search_runs([experiment], parent)[0]
    assert resumed.info.status == "FINISHED" and "limits" not in resumed.data.params
    assert json.loads(resumed.data.tags["agenttts.limits"]) == {"trials": 77}


@pytest.mark.filterwarnings("ignore")
def test_each_run_is_in_the_experiment_of_its_own_pipeline(
    mlflow: Any, searched: Path, tmp_path: Path
) -> None:
    """Exported alone or together with runs of other pipelines, it is there once; no agent's words are."""
    place, db = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run.duckdb"
    shutil.copy(searched, db)
    with Store.open(db) as store:
        first = store.run()
        spec = json.dumps(json.loads(first.spec) | {"name": "another"})
        store.start_run(replace(first, run_id="later", spec=spec, outcome=None, status="stopped"))
    together = agenttts("export", "mlflow", db, "--tracking-uri", place, "--json").json
    assert sorted(together["experiments"]) == ["another", "recorded"]
    for run in ("later", first.run_id):
        alone = agenttts("export", "mlflow", db, "--run", run, "--tracking-uri", place, "--json").json
        assert alone["n_new"] == 0 and alone["experiments"] == ["another" if run == "later" else "recorded"]
    client = mlflow.MlflowClient(place)
    for name, run in (("another", "later"), ("recorded", first.run_id)):
        experiment = client.get_experiment_by_name(name).experiment_id
        tags = [one.data.tags for one in client.search_runs([experiment], max_results=1000)]
        assert {own["agenttts.run_id"] for own in tags} == {run}
        assert not any("agenttts.reason" in own for own in tags)


@pytest.mark.filterwarnings("ignore")
def test_an_mlflow_that_is_not_there_is_one_line(mlflow: Any, searched: Path) -> None:
    """Exit code 2, with the remedy."""
    done = agenttts("export", "mlflow", searched, "--tracking-uri", "nothing://here")
    assert done.code == 2 and "--tracking-uri" in done.errors[0] and len(done.errors) == 1, done.err
