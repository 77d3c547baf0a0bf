"""The runs of a database: listed, and two of them side by side, paired by example."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agenttts import load_run, search
from agenttts.report.runs import compare_runs, read_runs
from datastore import Store
from tests.agenttts.commands import agenttts


@pytest.fixture(scope="module")
def two_runs(searched: Path, recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a second, smaller search on the same pipeline."""
    db = tmp_path_factory.mktemp("two") / "two.duckdb"
    shutil.copy(searched, db)
    search(recorded, budget=12, trials=4, replay=True, db=db, seed=1, policy="fixed")
    return db


def test_every_run_is_listed_with_what_it_comes_to(two_runs: Path) -> None:
    """The newest first; figures are those of the run's own result, under the names of the report."""
    listed = agenttts("runs", two_runs, "--json")
    assert listed.code == 0, listed.err
    assert [run["budget_units"] for run in listed.json] == [12, 60]
    for summary in listed.json:
        result = load_run(two_runs, summary["run_id"]).to_json_dict()
        reported = agenttts("report", two_runs, summary["run_id"], "--json").json
        assert {"best": result["best"], "cost": result["cost"]}.items() <= summary.items()
        assert all(reported[name] == summary[name] for name in set(summary) & set(reported))
        assert summary["n_trials"] == len(result["trials"]) + len(result["confirmation"])
    table = agenttts("runs", two_runs).out
    assert all(summary["run_id"] in table for summary in listed.json)


def test_a_run_that_is_not_finished_is_listed_too(searched: Path, tmp_path: Path) -> None:
    """What it would come to now is computed from its trials; where no process writes, that is said."""
    db = tmp_path / "broken.duckdb"
    shutil.copy(searched, db)
    with Store.open(db) as store:
        run = store.run()
        store.start_run(
            type(run)(**{**_fields(run), "status": "running", "outcome": None, "finished_at": None})
        )
    with Store.read(db) as store:
        (summary,) = read_runs(store)
    assert summary.status == "running" and summary.best == load_run(db).best is not None
    listed = agenttts("runs", db).out
    assert summary.abandoned and "stopped without" in listed and "(--resume)" in listed
    shown = agenttts("report", db)
    assert (
        "stopped without a word: no process is at work on it (`agenttts search … --resume` goes on)"
        in shown.out
    )
    with Store.open(db) as store:
        store.refresh_live_snapshot()
        assert not read_runs(store)[0].abandoned, "its own writer is at work"
        with Store.read(db) as live:
            assert not read_runs(live)[0].abandoned


def _fields(run: object) -> dict[str, object]:
    return {name: getattr(run, name) for name in run.__slots__}


def test_two_runs_are_paired_on_the_test_split(two_runs: Path) -> None:
    """The difference is that of the means over the examples that both were scored on."""
    with Store.read(two_runs) as store:
        small, large = (run.run_id for run in read_runs(store))
        comparison = compare_runs(store, large, small)
        back = compare_runs(store, small, large)
    (winner,) = (pair for pair in comparison.paired if pair.what == "winner")
    assert winner.split == "test" and winner.difference.n == 80
    assert winner.difference.mean == pytest.approx(winner.first - winner.second)
    assert comparison.first.best is not None and winner.first == comparison.first.best.test_score
    (reverse,) = (pair for pair in back.paired if pair.what == "winner")
    assert reverse.difference.mean == pytest.approx(-winner.difference.mean)
    shown = agenttts("report", two_runs, large, "--against", small)
    assert shown.code == 0 and "paired on 80 examples" in shown.out
    printed = agenttts("report", two_runs, large, "--against", small, "--json").json
    assert printed["paired"][0]["difference"]["n"] == 80 and printed["problem"] is None


def test_runs_on_other_data_are_not_paired(two_runs: Path, recorded: Path, tmp_path: Path) -> None:
    """They are shown side by side, with the reason why there is no difference."""
    other = tmp_path / "other.yaml"
    other.write_text(recorded.read_text().replace("search: search.jsonl", "search: test2.jsonl"))
    for name in ("test.jsonl", "bank.parquet"):
        shutil.copy(recorded.parent / name, tmp_path / name)
    shutil.copy(recorded.parent / "search.jsonl", tmp_path / "test2.jsonl")
    db = tmp_path / "three.duckdb"
    shutil.copy(two_runs, db)
    before = load_run(db).run_id
    search(other, budget=12, trials=2, replay=True, db=db, policy="fixed")
    shown = agenttts("report", db, "--against", before)
    assert shown.code == 0 and "The two runs read other datasets" in shown.out


def test_a_comparison_writes_no_page(two_runs: Path, tmp_path: Path) -> None:
    """--html and --against exclude each other; a run that is not there is one line of error."""
    refused = agenttts("report", two_runs, "--against", "latest", "--html", tmp_path / "r.html")
    assert refused.code == 2 and "--html writes one run" in refused.errors[0]
    assert agenttts("report", two_runs, "--against", "none").code == 2
