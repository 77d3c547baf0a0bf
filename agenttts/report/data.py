"""The data of a report: read from the store into one ReportData. Nothing is written to the store.

Beside the run's `outcome`, it holds how the search went, what samples gain, and what went wrong. A run in
progress is reported as of the last snapshot. `terminal` prints the data, `html` writes a page of it, and
`figures` plots it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from agenttts.replay.bank import BankOutcomes
from agenttts.replay.curves import Marginal, StageCurve, marginal_values, merged, solve_around, stage_curves
from agenttts.replay.headroom import StageHeadroom, headroom
from agenttts.report.changes import change_lines
from agenttts.report.course import (
    FaultCount,
    Step,
    Truncated,
    best_steps,
    count_faults,
    count_truncated,
)
from agenttts.report.insights import strongest
from agenttts.report.metric import metric_name
from agenttts.report.policy import PolicyQuery, policy_queries
from agenttts.report.standing import is_abandoned
from agenttts.report.tuned import TunedRow, read_tuned
from agenttts.results.examples import TrialExample
from agenttts.results.fresh import SPLIT as FRESH
from agenttts.results.fresh import together
from agenttts.results.loading import load_outcome, stored_spec
from agenttts.results.outcome import Outcome, jsonable, trial_json
from agenttts.results.prices import with_measured_prices
from agenttts.results.ranking import by_phase, latest
from agenttts.results.spec_bank import attach_spec_bank
from agenttts.results.trial_reader import TrialReader
from agenttts.results.trials import TrialResult, load_trial
from agenttts.space.measure import Measure
from datastore import Insight, Proposal, Store, StoreError
from pipelines.allocation import Allocation, StageOption
from pipelines.dataset.splits import load_examples
from pipelines.errors import PipelineError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON

FAILING = 10
"""How many failing examples a report shows."""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """The data of a report.

    Attributes:
        run_id: The run.
        pipeline: Name of the pipeline.
        metric: Name of its metric, in words.
        status: How the run stands: running, complete, stopped or failed.
        as_of: Unix time of the snapshot of a run in progress; None otherwise.
        started_at: Unix time.
        finished_at: Unix time; None while the run is not finished.
        budget_units: The most that an allocation may cost per query, in the outcome's measure; None when the
            run does not tell.
        proposer: Name of the proposer; None when the run does not tell.
        seed: The run's seed; None when the run does not tell.
        n_examples: The number of search examples that a complete trial is scored on.
        replay: Whether the run was replayed on recorded samples alone.
        outcome: What the run comes to, so far or in the end.
        trials: All trials in their order, one that is still going on included.
        steps: The best score after each trial of the search.
        curves: What a stage's samples buy.
        headroom: What the best allocation's samples hold beyond their vote; empty where samples are gone.
        marginals: What a dearer choice at one stage changes, the most gain per unit first.
        insights: What the search has learnt: the strongest, at most eight.
        proposals: What was proposed, and what became of it.
        faults: Why examples are missing.
        truncated: How many prompts were cut as planned.
        tuned: The tuned models among the run's choices.
        bank_solved: Whether curves also rest on allocations that were replayed on recorded samples.
        policy_queries: How far each query of the policy's test went.
        changes: What was priced anew or added during the search, in sentences.
        failing: The examples of the search split that the winner scores lowest on, none of them right.
        abandoned: Whether the run is not finished and no process writes its database.
    """

    run_id: str
    pipeline: str
    metric: str
    status: str
    as_of: float | None
    started_at: float
    finished_at: float | None
    budget_units: float | None
    proposer: str | None
    seed: int | None
    n_examples: int
    replay: bool
    outcome: Outcome
    trials: tuple[TrialResult, ...]
    steps: tuple[Step, ...]
    curves: tuple[StageCurve, ...]
    headroom: tuple[StageHeadroom, ...]
    marginals: tuple[Marginal, ...]
    insights: tuple[Insight, ...]
    proposals: tuple[Proposal, ...]
    faults: tuple[FaultCount, ...]
    truncated: tuple[Truncated, ...]
    tuned: tuple[TunedRow, ...]
    bank_solved: bool
    policy_queries: tuple[PolicyQuery, ...] = ()
    changes: tuple[str, ...] = ()
    failing: tuple[TrialExample, ...] = ()
    abandoned: bool = False

    @property
    def in_progress(self) -> bool:
        """Whether the run had not ended when it was read."""
        return self.as_of is not None or (self.status == "running" and not self.abandoned)

    @property
    def shown(self) -> tuple[TrialResult, ...]:
        """The trials as a table shows them: those of one allocation on fresh examples as one."""
        rows: dict[tuple[str, Allocation] | int, TrialResult] = {}
        for trial in self.trials:
            key = (FRESH, trial.allocation) if trial.split == FRESH else trial.number
            rows[key] = together(rows[key], trial) if key in rows else trial
        return tuple(rows.values())

    @property
    def confirmed(self) -> bool:
        """Whether the winner was scored on the sealed test split."""
        return self.outcome.best is not None and self.outcome.best.test_score is not None

    @property
    def minutes(self) -> float | None:
        """Minutes from start to end; None while the run is not finished."""
        return None if self.finished_at is None else (self.finished_at - self.started_at) / 60

    @property
    def frontier(self) -> frozenset[int]:
        """Numbers of the trials on the Pareto front."""
        return frozenset(trial.number for trial in self.outcome.frontier)

    def to_json_dict(self) -> dict[str, JSON]:
        """Return the outcome's JSON, with more about each trial and with the rest of the report."""
        beside = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("outcome", "trials")}
        searched, extra = by_phase(self.trials)
        return {
            **self.outcome.to_json_dict(),
            **{name: jsonable(value) for name, value in beside.items()},
            "confirmed": self.confirmed,
            "minutes": self.minutes,
            "trials": [self._trial_json(trial) for trial in searched],
            "confirmation": [self._trial_json(trial) for trial in extra],
        }

    def _trial_json(self, trial: TrialResult) -> dict[str, JSON]:
        return trial_json(trial) | {
            "split": trial.split,
            "flops_per_query": trial.flops_per_query,
            "calls": trial.calls,
            "cost_usd": trial.cost_usd,
            "on_frontier": trial.number in self.frontier,
        }


def read_report(
    store: Store,
    run_id: str | None = None,
    *,
    solve: bool = True,
    examples: Sequence[Example] | None = None,
    n_failing: int = FAILING,
) -> ReportData:
    """Read the report of a run.

    Args:
        store: The database, open for reading.
        run_id: The run; None for the newest.
        solve: Whether to score allocations around the best one on recorded samples, where there are enough.
            This takes seconds.
        examples: The search examples for this; None to read the spec's dataset.
        n_failing: How many failing examples of the winner are read, with their texts.

    Raises:
        StoreError: There is no such run.
        SpecError: The run is not finished, and a function of its pipeline can't be imported any more.
    """
    run = store.run(run_id)
    run_spec = stored_spec(run)
    spec = None if run_spec is None else with_measured_prices(run_spec, store, run.run_id)
    settings: dict[str, Any] = json.loads(run.settings or "{}")
    outcome = load_outcome(store, run, spec, examples)
    rows = store.trials(run.run_id)
    running = [load_trial(store, row) for row in rows if row.status == "running"]
    trials = sorted((*outcome.trials, *outcome.confirmation, *running), key=lambda trial: trial.number)
    best = None if outcome.best is None else outcome.best.allocation
    replayed: list[TrialResult] = []
    spare: list[StageHeadroom] = []
    if solve and best is not None and spec is not None and store.as_of is None:
        measure = Measure(spec, outcome.measure)
        replayed, spare = _replayed(measure, store, best, int(settings.get("seed") or 0), examples)
    failing: tuple[TrialExample, ...] = ()
    winner = None if outcome.best is None else outcome.best.trial_in(trials)
    if winner is not None and n_failing:
        reader = TrialReader(store, run.run_id, run_spec, examples)
        failing = reader.read(winner, reader.ids(winner, "wrong")[:n_failing])
    queries = (
        () if spec is None else policy_queries(store, run.run_id, trials, Measure(spec, outcome.measure))
    )
    points = merged(latest(outcome.trials, outcome.confirmation), replayed)
    options = {stage.name: stage.options for stage in spec.stages} if spec else _options_tried(trials)
    rule = json.loads(run.spec) if run.spec else {}
    return ReportData(
        run_id=run.run_id,
        pipeline=str(rule.get("name", "pipeline")),
        metric=metric_name(rule.get("metric")),
        status=run.status,
        as_of=store.as_of if run.status == "running" else None,
        started_at=run.started_at,
        finished_at=run.finished_at,
        budget_units=settings.get("budget_units"),
        proposer=settings.get("proposer"),
        seed=settings.get("seed"),
        n_examples=settings.get("n_examples", outcome.n_search),
        replay=bool(settings.get("replay")),
        outcome=outcome,
        trials=tuple(trials),
        steps=tuple(best_steps(trials, rows)),
        curves=tuple(stage_curves(points, best, options)) if best else (),
        headroom=tuple(spare),
        marginals=tuple(marginal_values(points, best)) if best else (),
        insights=strongest(store.insights(run.run_id), trials),
        proposals=tuple(store.proposals(run.run_id)),
        faults=count_faults(store, rows),
        truncated=count_truncated(store, run.run_id),
        tuned=read_tuned(store, rule),
        bank_solved=bool(replayed),
        policy_queries=queries,
        changes=change_lines(store, run.run_id),
        failing=failing,
        abandoned=is_abandoned(store, run),
    )


def _replayed(
    measure: Measure, store: Store, best: Allocation, seed: int, examples: Sequence[Example] | None
) -> tuple[list[TrialResult], list[StageHeadroom]]:
    """Recorded samples around the best allocation, and its headroom; empty where data or bank are gone."""
    spec = measure.spec
    try:
        attach_spec_bank(spec, store)
        examples = load_examples(spec, "search") if examples is None else examples
        around = solve_around(BankOutcomes(spec, store, examples, measure), best)
        return around, headroom(spec, store, examples, best, seed)
    except (PipelineError, StoreError, OSError):
        return [], []


def _options_tried(trials: Iterable[TrialResult]) -> dict[str, tuple[StageOption, ...]]:
    by_stage: dict[str, dict[StageOption, None]] = {}
    for trial in trials:
        for stage, choice in trial.allocation.items():
            by_stage.setdefault(stage, {})[choice.option] = None
    return {stage: tuple(options) for stage, options in by_stage.items()}
