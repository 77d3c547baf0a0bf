"""The runs of a database: what each comes to, and two of them side by side, paired by example."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from agenttts.report.metric import metric_name
from agenttts.report.standing import STOPPED_SILENTLY, is_abandoned
from agenttts.results.cost import SearchCost
from agenttts.results.loading import load_outcome, stored_spec
from agenttts.results.outcome import Finalist, Outcome, jsonable
from agenttts.results.trials import INTERVAL_SEED, TrialResult, load_trial, mean
from agenttts.space.measure import MeasureName
from agenttts.stats import Difference, paired_difference
from datastore.records import Run, RunStatus
from datastore.store import Store
from pipelines.jsonvalues import JSON


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What one run comes to, so far or in the end.

    Attributes:
        run_id: The run.
        pipeline: Name of the pipeline.
        metric: Name of its metric, in words.
        status: How the run stands.
        started_at: Unix time.
        finished_at: Unix time; None while the run is not finished.
        proposer: Name of the proposer; None when the run does not tell.
        seed: The run's seed; None when the run does not tell.
        measure: The measure of the budget.
        budget_units: The most that an allocation may cost per query, in that measure.
        n_trials: The number of trials, those of the confirmation included.
        best: The winner; None when no trial has a score, or the pipeline of an unfinished run is gone.
        policy: The policy that the run chose, as text; None without one.
        cost: What the run paid; None where the pipeline of an unfinished run is gone.
        abandoned: Whether the run is not finished and no process writes its database.
    """

    run_id: str
    pipeline: str
    metric: str
    status: RunStatus
    started_at: float
    finished_at: float | None
    proposer: str | None
    seed: int | None
    measure: MeasureName
    budget_units: float | None
    n_trials: int
    best: Finalist | None
    policy: str | None
    cost: SearchCost | None
    abandoned: bool = False

    @property
    def standing(self) -> str:
        """How the run stands, in words."""
        return f"{STOPPED_SILENTLY} (--resume)" if self.abandoned else self.status

    def to_json_dict(self) -> dict[str, JSON]:
        """Return the summary under the names of `agenttts report --json`."""
        return {f.name: jsonable(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True, kw_only=True)
class PairedScores:
    """One choice of each run, scored on the same examples.

    Attributes:
        what: `winner` or `policy`.
        split: The split of the examples: test, or search where not both were confirmed.
        first: The mean score of the first run's choice, over the examples that both have a score for.
        second: That of the second run's, over the same.
        difference: First minus second with its 95 % interval.
    """

    what: str
    split: str
    first: float
    second: float
    difference: Difference


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Two runs side by side.

    Attributes:
        first: The first run.
        second: The run that it is compared against.
        paired: The scores that can be paired.
        problem: Why nothing can be paired; None where something can.
    """

    first: RunSummary
    second: RunSummary
    paired: tuple[PairedScores, ...]
    problem: str | None

    def to_json_dict(self) -> dict[str, JSON]:
        """Return the comparison as `agenttts report --against --json` prints it."""
        return {
            "first": self.first.to_json_dict(),
            "second": self.second.to_json_dict(),
            "paired": jsonable(self.paired),
            "problem": self.problem,
        }


def read_runs(store: Store) -> tuple[RunSummary, ...]:
    """Read what the runs of a database come to, the newest first.

    Args:
        store: The database, open for reading.
    """
    return tuple(_summary(store, run) for run in reversed(store.runs()))


def compare_runs(store: Store, first: str | None, second: str) -> RunComparison:
    """Compare what two runs chose, paired by example.

    Args:
        store: The database, open for reading.
        first: The run; None for the newest.
        second: The run that it is compared against.

    Raises:
        StoreError: There is no such run.
    """
    runs = store.run(first), store.run(second)
    summaries = _summary(store, runs[0]), _summary(store, runs[1])
    problem = _not_comparable(runs[0], runs[1])
    paired = () if problem else tuple(_paired(store, summaries[0], summaries[1]))
    if not paired and problem is None:
        problem = "The two runs have no scored example in common."
    return RunComparison(first=summaries[0], second=summaries[1], paired=paired, problem=problem)


def _summary(store: Store, run: Run) -> RunSummary:
    rule, settings = _object(run.spec), _object(run.settings)
    outcome = _outcome(store, run)
    adaptive = None if outcome is None else outcome.adaptive
    return RunSummary(
        run_id=run.run_id,
        pipeline=str(rule.get("name", "pipeline")),
        metric=metric_name(rule.get("metric")),
        status=run.status,
        started_at=run.started_at,
        finished_at=run.finished_at,
        proposer=settings.get("proposer"),
        seed=settings.get("seed"),
        measure=settings.get("measure", "units"),
        budget_units=settings.get("budget_units"),
        n_trials=len(store.trials(run.run_id)),
        best=None if outcome is None else outcome.best,
        policy=None if adaptive is None else str(adaptive.policy),
        cost=None if outcome is None else outcome.cost,
        abandoned=is_abandoned(store, run),
    )


def _outcome(store: Store, run: Run) -> Outcome | None:
    """The stored outcome, of whose trials nothing is read; computed where the run has not finished."""
    stored = {"measure": "units", **_object(run.outcome)}
    if {f.name for f in fields(Outcome)} <= set(stored):
        return Outcome.from_json_dict(stored, [])
    spec = stored_spec(run)
    return None if spec is None else load_outcome(store, run, spec)


def _not_comparable(first: Run, second: Run) -> str | None:
    rules = [_object(run.spec) for run in (first, second)]
    for part, what in (("dataset", "read other datasets"), ("metric", "are scored by other metrics")):
        if rules[0].get(part) != rules[1].get(part):
            return f"The two runs {what}, so their scores can't be paired."
    return None


def _paired(store: Store, first: RunSummary, second: RunSummary) -> Iterator[PairedScores]:
    trials = [
        [load_trial(store, row) for row in store.trials(summary.run_id) if row.status == "complete"]
        for summary in (first, second)
    ]
    tested = [_tested(of_run, run.best) for of_run, run in zip(trials, (first, second), strict=True)]
    if None in tested:
        tested = [
            None if run.best is None else run.best.trial_in(of_run)
            for of_run, run in zip(trials, (first, second), strict=True)
        ]
    policies = [next((t for t in of_run if t.purpose == "policy"), None) for of_run in trials]
    for what, (mine, other) in (("winner", tested), ("policy", policies)):
        if mine is None or other is None:
            continue
        both = [
            (score, against)
            for key, score in mine.scores.items()
            if score is not None and (against := other.scores.get(key)) is not None
        ]
        first_mean, second_mean = mean(score for score, _ in both), mean(score for _, score in both)
        if first_mean is None or second_mean is None:
            continue
        yield PairedScores(
            what=what,
            split=mine.split,
            first=first_mean,
            second=second_mean,
            difference=paired_difference(mine.scores, other.scores, np.random.default_rng(INTERVAL_SEED)),
        )


def _tested(trials: list[TrialResult], best: Finalist | None) -> TrialResult | None:
    """The winner's trial on the test split; None where it was not scored there."""
    return next(
        (t for t in trials if t.purpose == "test" and best is not None and t.allocation == best.allocation),
        None,
    )


def _object(text: str | None) -> Mapping[str, Any]:
    data: Mapping[str, Any] = json.loads(text) if text else {}
    return data
