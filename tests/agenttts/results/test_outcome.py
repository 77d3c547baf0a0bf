"""One outcome of a run: the same in the result, in the store and in the report, finished or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agenttts import LoadedRun, load_run, search
from agenttts.proposers.base import SearchView, Turn
from agenttts.proposers.solver import SolverProposer
from agenttts.report.data import ReportData, read_report
from agenttts.report.html import to_html
from agenttts.report.terminal import print_report
from agenttts.results.outcome import Outcome
from datastore import Store


class Breaks(SolverProposer):
    """The solver until three trials are complete."""

    async def propose(self, view: SearchView, count: int) -> Turn:
        if len(view.scored) >= 3:
            raise RuntimeError("the proposer broke")
        return await super().propose(view, count)


@pytest.fixture(scope="module")
def broken(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a search for the least cost that did not come to its end."""
    db = tmp_path_factory.mktemp("broken") / "run.duckdb"
    settings: dict[str, Any] = {"objective": "cost", "min_quality": 0.6, "trials": 20, "replay": True}
    with pytest.raises(RuntimeError, match="broke"):
        search(recorded, proposer=Breaks(), db=db, **settings)
    return db


def read(db: Path) -> tuple[LoadedRun, ReportData]:
    run = load_run(db)
    with Store.read(db) as store:
        return run, read_report(store, solve=False)


def test_an_unfinished_run_has_one_winner(broken: Path) -> None:
    """Result and report name the same winner, frontier and cost, and say whether it is shown to be right."""
    run, report = read(broken)
    assert run.status == "failed" and run.best is not None
    assert report.outcome == run.outcome
    reaching = [trial.budget_units for trial in run.trials if (trial.score or 0.0) >= 0.6]
    winner, required = run.best_trial(), run.outcome.requirement
    assert winner is not None and required is not None and required.met is None
    assert (winner.score or 0.0) >= 0.6 and run.best.search_score < (winner.score or 0.0)
    assert len(reaching) > 1 and required.shown == (required.bound >= 0.6)


def test_an_unfinished_run_has_a_certificate(broken: Path) -> None:
    """It is made as that of a finished run, and says that nothing was tested; every report shows it."""
    from rich.console import Console

    run, report = read(broken)
    assert "shown to reach 0.6" in run.certificate
    assert "It was not scored on the test split" in run.certificate
    console = Console(width=200, record=True)
    print_report(report, console)
    assert "It was not scored on the test split" in console.export_text()
    assert "It was not scored on the test split" in to_html(report)


def test_a_stored_outcome_is_read_as_it_was_written(searched: Path) -> None:
    """The JSON that the store holds gives the same JSON again, with all trials of the store in it."""
    with Store.read(searched) as store:
        stored = json.loads(store.run().outcome or "{}")
    run = load_run(searched)
    assert run.to_json_dict() == stored and list(run.to_json_dict()) == list(stored)
    assert run.outcome == Outcome.from_json_dict(stored, (*run.trials, *run.confirmation))


@pytest.mark.parametrize("key", ["fresh", "hypervolume", "difference", "objective", "health", "certificate"])
def test_an_older_outcome_is_completed_from_the_trials(key: str, searched: Path, tmp_path: Path) -> None:
    """A key that an older version did not write has the value that its trials give."""
    whole = load_run(searched).to_json_dict()
    db = tmp_path / "older.duckdb"
    db.write_bytes(searched.read_bytes())
    with Store.open(db) as store:
        run = store.run()
        older = {name: value for name, value in whole.items() if name != key}
        store.finish_run(run.run_id, "complete", json.dumps(older), run.finished_at or 0.0)
    assert load_run(db).to_json_dict() == whole


def test_the_report_tells_more_about_each_trial(searched: Path) -> None:
    """Its JSON holds that of the result under the same names, and FLOPs of the trials; means are plain."""
    run, report = read(searched)
    result, told = run.to_json_dict(), json.loads(json.dumps(report.to_json_dict(), allow_nan=False))
    assert {name for name in result if told[name] != result[name]} == {"trials", "confirmation"}
    for trial, more in zip(run.trials, told["trials"], strict=True):
        assert "score_ci" not in more and more["score"] == trial.score and more["split"] == "search"
    assert [t["number"] for t in told["trials"] if t["on_frontier"]] == sorted(
        t.number for t in run.frontier if t in run.trials
    )
