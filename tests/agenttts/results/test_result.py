"""What a person asks of a result in Python: examples, the best within a budget, progress in a script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agenttts import UserError, load_run, search


def test_the_examples_of_a_trial_are_read(searched: Path) -> None:
    """The winner's by default, any trial's by number, and only those that are asked for."""
    run = load_run(searched)
    winner = run.best_trial()
    assert winner is not None
    assert {e.example_id: e.score for e in run.examples()} == dict(winner.scores)
    wrong = run.examples(winner, show="wrong")
    assert wrong and all(e.score is not None and e.score < 1 and e.stages[0].samples for e in wrong)
    other = next(t for t in run.trials if t.status == "complete" and t.number != winner.number)
    changed = run.examples(winner.number, show="changed", other=other)
    assert all(e.score != other.scores[e.example_id] for e in changed)
    tested = next(trial for trial in run.confirmation if trial.purpose == "test")
    assert all(str(e.fields["id"]).startswith("test-") for e in run.examples(tested))
    with pytest.raises(UserError, match="has no trial 9999"):
        run.examples(9999)


def test_the_best_within_a_budget_is_the_best_that_costs_no_more(searched: Path) -> None:
    """At the run's own budget it is the best plain mean; below the cheapest there is none."""
    run = load_run(searched)
    scored = [t for t in (*run.trials, *run.confirmation) if t.split == "search" and t.status == "complete"]
    best = run.best_within(60)
    assert best is not None and best.score == max(trial.score or 0.0 for trial in scored)
    for trial in run.frontier:
        assert run.best_within(trial.budget_units) == trial
    assert run.best_within(min(trial.budget_units for trial in scored) - 1e-6) is None


def test_a_frame_has_the_rows_of_confirmation_and_test(searched: Path) -> None:
    """A row for each trial that the database has."""
    run = load_run(searched)
    frame = run.to_df()
    assert len(frame) == len(run.trials) + len(run.confirmation)
    assert set(frame["split"]) >= {"search", "test"}
    policies = frame["policy"].dropna()
    assert list(policies) == [str(t.policy) for t in run.confirmation if t.policy is not None]


def test_progress_is_shown_where_it_is_asked_for(recorded: Path, tmp_path: Path) -> None:
    """On stderr, beside the caller's own handler; without a terminal it is off unless it is asked for."""
    code = (
        "import sys\n"
        "from agenttts import search\n"
        "events = []\n"
        "search(sys.argv[1], budget=12, trials=2, replay=True, db=sys.argv[2], policy='fixed', "
        "progress=eval(sys.argv[3]), on_event=events.append)\n"
        "print(len(events))\n"
    )
    for progress, is_shown in (("True", True), ("None", False), ("False", False)):
        command = [sys.executable, "-c", code, str(recorded), str(tmp_path / f"{progress}.duckdb"), progress]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and int(done.stdout) > 3
        assert ("best so far" in done.stderr) is is_shown


def test_a_script_without_a_handler_prints_nothing_into_a_pipe(
    recorded: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """stderr is no terminal here."""
    search(recorded, budget=12, trials=1, replay=True, db=tmp_path / "r.duckdb", policy="fixed")
    assert capfd.readouterr() == ("", "")
