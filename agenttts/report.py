"""A run as a person wants to read it: the store's rows in, one ReportData out. Never writes to the store.

Everything that is a mean has its interval. A run that is still going on is reported as of the last snapshot.
Printing is left to `report_terminal`, HTML to `report_html`, figures to `plots`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from agenttts.budget import flops
from agenttts.curves import (
    BankSolver,
    Marginal,
    ScoredAllocation,
    StageCurve,
    estimate,
    marginal_values,
    merged,
    solve_around,
    stage_curves,
    trial_scores,
)
from agenttts.headroom import StageHeadroom, headroom
from agenttts.stats import Interval
from datastore import Insight, Proposal, Run, Store, StoreError, Trial
from pipelines.allocation import Allocation, StageChoice, StageOption
from pipelines.errors import PipelineError
from pipelines.examples import Example
from pipelines.spec import PipelineSpec
from pipelines.specfile import restore_spec

SEARCHING = ("baseline", "search")


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A trial; `score` is None while nothing was scored. FLOPs are realised, a mean over those."""

    number: int
    allocation: Allocation
    purpose: str
    split: str
    proposer: str
    reason: str
    status: str
    score: Interval | None
    n_scored: int
    n_missing: int
    budget_units: float
    flops_per_query: float | None
    samples_drawn: int
    samples_reused: int
    calls: int
    cost_usd: float | None
    error: str | None
    on_frontier: bool

    @property
    def flops(self) -> float:
        """FLOPs of the trial's samples, whether drawn for it or found in the bank."""
        return (self.flops_per_query or 0.0) * self.n_scored

    @property
    def flops_drawn(self) -> float:
        """The part of them that the trial paid for, by its share of the samples."""
        used = self.samples_drawn + self.samples_reused
        return self.flops * self.samples_drawn / used if used else 0.0


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """An allocation with its claim. Scores are None where they were not measured (yet)."""

    allocation: Allocation
    budget_units: float
    search_score: float | None
    search_interval: tuple[float, float] | None
    test_score: float | None
    test_interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """The best allocation after a trial. `flops`: of all trials so far; `flops_drawn`: the part paid for."""

    trial: int
    allocation: Allocation
    score: Interval
    flops: float
    flops_drawn: float


@dataclass(frozen=True, kw_only=True)
class SearchCost:
    """What the search paid, and what the bank spared it. `agent_tokens` are part of the tokens.

    `usd`: None where models have no price. `minutes`: from start to end; None while that is not known.
    """

    calls: int
    samples_drawn: int
    samples_reused: int
    prompt_tokens: int
    generated_tokens: int
    flops: float
    agent_tokens: int
    flops_without_bank: float | None  # None: not known before the end
    flops_spared_by_stops: float
    flops_spared_by_shared_prompts: float
    usd: float | None
    minutes: float | None

    @property
    def reused_share(self) -> float:
        """The share of the trials' samples that came from the bank; 0 without samples."""
        used = self.samples_drawn + self.samples_reused
        return self.samples_reused / used if used else 0.0


@dataclass(frozen=True, kw_only=True)
class FaultCount:
    """How often a fault left examples without a score, and in which trials."""

    reason: str
    n_examples: int
    trials: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Truncated:
    """How many of a stage's results rest on a prompt that was cut as planned, and of how many."""

    stage: str
    n_cut: int
    n_results: int


@dataclass(frozen=True, kw_only=True)
class TunedRow:
    """How a model of the run was tuned. before, after: mean score on the dataset's evaluation split, greedy;
    None where it has none. curve: {step, epoch, loss, eval_loss, score} of what was measured."""

    model: str
    tasks: tuple[str, ...]
    before: float | None
    after: float | None
    seconds: float
    curve: tuple[Mapping[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that a report shows. `as_of`: Unix time of the snapshot of a run in progress, None otherwise.

    `best`, `baseline`: None while nothing was scored. `confirmed`: scored on the sealed test split.
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
    replay: bool
    confirmed: bool
    best: Finalist | None
    baseline: Finalist | None
    difference: Interval | None
    equivalent: tuple[Finalist, ...]
    cheapest: Finalist | None
    certificate: str | None
    stopped_because: str | None
    trials: tuple[TrialRow, ...]
    steps: tuple[Step, ...]
    frontier: tuple[TrialRow, ...]
    curves: tuple[StageCurve, ...]
    headroom: tuple[StageHeadroom, ...]  # of the best allocation; () where samples are gone
    marginals: tuple[Marginal, ...]
    insights: tuple[Insight, ...]
    proposals: tuple[Proposal, ...]
    cost: SearchCost
    faults: tuple[FaultCount, ...]
    truncated: tuple[Truncated, ...]
    tuned: tuple[TunedRow, ...]  # the tuned models among the run's choices
    bank_solved: bool  # whether curves also rest on allocations solved on recorded samples

    @property
    def in_progress(self) -> bool:
        return self.as_of is not None or self.status == "running"

    def to_json_dict(self) -> dict[str, Any]:
        """JSON-able, numbers finite."""
        found = _jsonable(self)
        assert isinstance(found, dict)
        return found


def read_report(
    store: Store,
    run_id: str | None = None,
    *,
    solve: bool = True,
    examples: Sequence[Example] | None = None,
) -> ReportData:
    """The report of a run.

    Args:
        store: The database, open for reading.
        run_id: The run; None for the newest.
        solve: Whether to score allocations around the best one on recorded samples, where there are enough.
            This takes seconds.
        examples: The search examples for this; None: the spec's dataset is read.

    Raises:
        StoreError: There is no such run.
    """
    run = store.run(run_id)
    spec = _spec(run)
    settings: dict[str, Any] = json.loads(run.settings or "{}")
    outcome: dict[str, Any] = json.loads(run.outcome) if run.outcome else {}
    trials = _trial_rows(store, store.trials(run.run_id))
    scored = trial_scores(store, run.run_id)
    best = _finalist(outcome.get("best")) or _best_so_far(trials)
    solved: list[ScoredAllocation] = []
    spare: list[StageHeadroom] = []
    if solve and best is not None and spec is not None and store.as_of is None:
        solved, spare = _solved(spec, store, best.allocation, int(settings.get("seed") or 0), examples)
    points = merged(scored, solved)
    options = {stage.name: stage.options for stage in spec.stages} if spec else _options_tried(trials)
    equivalent = tuple(f for f in map(_finalist, outcome.get("equivalent") or ()) if f is not None)
    rule = json.loads(run.spec) if run.spec else {}
    return ReportData(
        run_id=run.run_id,
        pipeline=str(rule.get("name", "pipeline")),
        metric=_metric_name(rule.get("metric")),
        status=run.status,
        as_of=store.as_of if run.status == "running" else None,
        started_at=run.started_at,
        finished_at=run.finished_at,
        budget_units=settings.get("budget_units"),
        proposer=settings.get("proposer"),
        seed=settings.get("seed"),
        replay=bool(settings.get("replay")),
        confirmed=best is not None and best.test_score is not None,
        best=best,
        baseline=_finalist(outcome.get("baseline")) or _best_so_far(trials, ("baseline",)),
        difference=_difference(outcome),
        equivalent=equivalent,
        cheapest=min(equivalent, key=lambda f: f.budget_units, default=None),
        certificate=_certificate(outcome),
        stopped_because=outcome.get("stopped_because"),
        trials=trials,
        steps=tuple(_steps(trials)),
        frontier=tuple(row for row in trials if row.on_frontier),
        curves=tuple(stage_curves(points, best.allocation, options)) if best else (),
        headroom=tuple(spare),
        marginals=tuple(marginal_values(points, best.allocation)) if best else (),
        insights=tuple(store.insights(run.run_id)),
        proposals=tuple(store.proposals(run.run_id)),
        cost=_cost(store, run, trials, outcome.get("cost")),
        faults=_faults(store, store.trials(run.run_id)),
        truncated=_truncated(store, run.run_id),
        tuned=_tuned(store, rule),
        bank_solved=bool(solved),
    )


def pareto_front(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """The scored rows that no other beats: as good or better for as few or fewer units; cheapest first."""
    front: list[TrialRow] = []
    present = [row for row in rows if row.score is not None]
    for row in sorted(present, key=lambda row: (row.budget_units, -_mean(row))):
        if not front or _mean(row) > _mean(front[-1]):
            front.append(row)
    return front


def _trial_rows(store: Store, trials: Sequence[Trial]) -> tuple[TrialRow, ...]:
    rows = [_trial_row(trial, store) for trial in trials]
    latest = {row.allocation: row for row in rows if row.split == "search" and row.score is not None}
    front = {row.number for row in pareto_front(latest.values())}
    return tuple(_replaced(row, on_frontier=row.number in front) for row in rows)


def _trial_row(trial: Trial, store: Store) -> TrialRow:
    scores = store.scores(trial.trial_id)
    return TrialRow(
        number=trial.number,
        allocation=Allocation.from_json(trial.allocation),
        purpose=trial.purpose,
        split=trial.split,
        proposer=trial.proposer,
        reason=trial.reason,
        status=trial.status,
        score=estimate(s.score for s in scores.values()) if trial.status == "complete" else None,
        n_scored=trial.n_scored,
        n_missing=trial.n_missing,
        budget_units=trial.budget_units,
        flops_per_query=trial.flops_per_query,
        samples_drawn=trial.samples_drawn,
        samples_reused=trial.samples_reused,
        calls=trial.calls,
        cost_usd=trial.cost_usd,
        error=trial.error,
        on_frontier=False,
    )


def _steps(trials: Iterable[TrialRow]) -> Iterable[Step]:
    best: TrialRow | None = None
    total = drawn = 0.0
    for row in trials:
        if row.split != "search" or row.purpose not in SEARCHING:
            continue
        total, drawn = total + row.flops, drawn + row.flops_drawn
        if row.score is not None and (best is None or row.score.mean > _mean(best)):
            best = row
        if best is not None and best.score is not None:
            yield Step(
                trial=row.number, allocation=best.allocation, score=best.score, flops=total, flops_drawn=drawn
            )


def _best_so_far(trials: Iterable[TrialRow], purposes: Sequence[str] = SEARCHING) -> Finalist | None:
    rows = [r for r in trials if r.score is not None and r.split == "search" and r.purpose in purposes]
    if not rows:
        return None
    row = max(rows, key=lambda row: (_mean(row), -row.budget_units))
    assert row.score is not None
    return Finalist(
        allocation=row.allocation,
        budget_units=row.budget_units,
        search_score=row.score.mean,
        search_interval=(row.score.low, row.score.high),
        test_score=None,
        test_interval=None,
    )


def _finalist(found: Mapping[str, Any] | None) -> Finalist | None:
    if not found:
        return None
    return Finalist(
        allocation=Allocation.from_dict(found["allocation"]),
        budget_units=found["budget_units"],
        search_score=found.get("search_score", found.get("score")),
        test_score=found.get("test_score"),
        search_interval=_bounds(found.get("search_ci")),
        test_interval=_bounds(found.get("test_ci")),
    )


def _bounds(found: Sequence[float] | None) -> tuple[float, float] | None:
    return (found[0], found[1]) if found else None


def _difference(outcome: Mapping[str, Any]) -> Interval | None:
    bounds, best, baseline = outcome.get("difference_ci"), outcome.get("best"), outcome.get("baseline")
    if not bounds or not best or not baseline:
        return None
    mean = outcome.get("difference")
    if mean is None:
        mean = best["test_score"] - baseline["test_score"]
    return Interval(mean=mean, low=bounds[0], high=bounds[1], n=outcome.get("n_test") or 0)


def _certificate(outcome: Mapping[str, Any]) -> str | None:
    found = outcome.get("certificate")
    return found.get("text") if isinstance(found, Mapping) else found


def _cost(store: Store, run: Run, trials: Sequence[TrialRow], final: Mapping[str, Any] | None) -> SearchCost:
    paid = store.run_cost(run.run_id)
    own_flops = 0.0
    known = {model.key: model.active_params for model in store.models()}
    for key, active_params in known.items():
        cost = store.run_cost(run.run_id, models=[key])
        own_flops += flops(active_params, cost.prompt_tokens, cost.generated_tokens, 1)
    prices = [row.cost_usd for row in trials]
    shares = [r.samples_drawn / max(1, r.samples_drawn + r.samples_reused) for r in trials]
    usd = sum(p * s for p, s in zip(prices, shares, strict=True) if p is not None)
    final = final or {}
    return SearchCost(
        calls=final.get("calls", paid.calls),
        samples_drawn=final.get("samples_drawn", paid.samples_drawn),
        samples_reused=final.get("samples_reused", sum(row.samples_reused for row in trials)),
        prompt_tokens=final.get("prompt_tokens", paid.prompt_tokens),
        generated_tokens=final.get("generated_tokens", paid.generated_tokens),
        flops=final.get("flops", own_flops),
        agent_tokens=final.get("agent_tokens", 0),
        flops_without_bank=final.get("flops_without_bank"),
        flops_spared_by_stops=final.get("flops_spared_by_stops", 0.0),
        flops_spared_by_shared_prompts=final.get("flops_spared_by_shared_prompts", 0.0),
        usd=final.get("usd", None if not prices or None in prices else usd),
        minutes=None if run.finished_at is None else (run.finished_at - run.started_at) / 60,
    )


def _faults(store: Store, trials: Iterable[Trial]) -> tuple[FaultCount, ...]:
    examples: Counter[str] = Counter()
    numbers: dict[str, set[int]] = {}
    for trial in trials:
        reasons = [
            s.reason or "no reason given" for s in store.scores(trial.trial_id).values() if s.score is None
        ]
        if trial.error and not reasons:
            examples[trial.error] += trial.n_missing
            numbers.setdefault(trial.error, set()).add(trial.number)
        for reason in reasons:
            examples[reason] += 1
            numbers.setdefault(reason, set()).add(trial.number)
    return tuple(
        FaultCount(reason=reason, n_examples=count, trials=tuple(sorted(numbers[reason])))
        for reason, count in examples.most_common()
    )


def _truncated(store: Store, run_id: str) -> tuple[Truncated, ...]:
    rows = store.sql(
        "SELECT stage, count(*) AS n_results, "
        "count(*) FILTER (stage_results.reason LIKE 'truncated: %') AS n_cut "
        "FROM stage_results JOIN trials USING (trial_id) WHERE run_id = ? AND stage_results.status = 'ok' "
        "GROUP BY stage ORDER BY min(stage_results.rowid)",
        [run_id],
    )
    told = zip(rows["stage"], rows["n_cut"], rows["n_results"], strict=True)
    return tuple(Truncated(stage=s, n_cut=int(cut), n_results=int(n)) for s, cut, n in told if cut)


def _tuned(store: Store, spec: Mapping[str, Any]) -> tuple[TunedRow, ...]:
    names = {
        model.get("revision"): name
        for name, model in (spec.get("models") or {}).items()
        if model.get("revision")
    }
    found = []
    for tuning in store.tunings():
        revision = tuning.model_key.rpartition("@")[2]
        if revision in names:
            told = json.loads(tuning.metrics)
            means = [estimate((told.get(when) or {}).values()) for when in ("before", "after")]
            before, after = (None if mean is None else mean.mean for mean in means)
            found.append(
                TunedRow(
                    model=names[revision],
                    tasks=tuple(json.loads(tuning.tasks)),
                    before=before,
                    after=after,
                    seconds=tuning.seconds,
                    curve=tuple(json.loads(tuning.curve)),
                )
            )
    return tuple(found)


def _solved(
    spec: PipelineSpec, store: Store, best: Allocation, seed: int, examples: Sequence[Example] | None
) -> tuple[list[ScoredAllocation], list[StageHeadroom]]:
    """What recorded samples tell around the best allocation; nothing where data or bank are gone."""
    from pipelines.dataset import load_examples

    try:
        attach_spec_bank(spec, store)
        examples = load_examples(spec, "search") if examples is None else examples
        around = solve_around(BankSolver(spec, store, examples), best)
        return around, headroom(spec, store, examples, best, seed)
    except (PipelineError, StoreError, OSError):
        return [], []


def attach_spec_bank(spec: PipelineSpec, store: Store) -> Path | None:
    """Attach the bank that the spec names, when it is there; its path."""
    path = spec.bank_path
    if path is None or not path.is_file():
        return None
    store.attach_bank(path)
    return path


def _spec(run: Run) -> PipelineSpec | None:
    """The run's spec; None when it can't be restored here, as when a function of it is gone."""
    try:
        return restore_spec(run.spec)
    except (PipelineError, ValueError, KeyError, TypeError):
        return None


def _metric_name(metric: Any) -> str:
    if isinstance(metric, Mapping):
        return str(metric.get("kind", metric.get("python", "score"))).replace("_", " ")
    return str(metric or "score")


def _options_tried(trials: Iterable[TrialRow]) -> dict[str, tuple[StageOption, ...]]:
    by_stage: dict[str, dict[StageOption, None]] = {}
    for row in trials:
        for stage, choice in row.allocation.items():
            by_stage.setdefault(stage, {})[choice.option] = None
    return {stage: tuple(options) for stage, options in by_stage.items()}


def _mean(row: TrialRow) -> float:
    return -math.inf if row.score is None else row.score.mean


def _replaced(row: TrialRow, *, on_frontier: bool) -> TrialRow:
    return TrialRow(**{f.name: getattr(row, f.name) for f in fields(row)} | {"on_frontier": on_frontier})


def _jsonable(value: Any) -> Any:
    if isinstance(value, Allocation | StageChoice):
        return value.to_dict()
    if isinstance(value, StageOption):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
