"""How a search went, as a report shows it: best scores so far, faults, cut prompts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from agenttts.results.ranking import SEARCHING
from agenttts.results.trials import TrialResult
from datastore import Store, Trial
from pipelines.allocation import Allocation


@dataclass(frozen=True, kw_only=True)
class Step:
    """The best allocation after a trial has ended; one that grew has ended when it grew last.

    Attributes:
        trial: Number of the trial.
        n_trials: How many trials have ended, this one included; one on a part of the examples is that part.
        allocation: The allocation with the best score so far.
        score: Its plain mean on the search split.
        flops: FLOPs of all trials so far, whether their samples were drawn or came from the bank.
        flops_drawn: The part of them that the trials paid for, by their share of the samples. Both are None
            where active parameters of a model are not known.
    """

    trial: int
    n_trials: float
    allocation: Allocation
    score: float
    flops: float | None
    flops_drawn: float | None


@dataclass(frozen=True, kw_only=True)
class FaultCount:
    """A fault that left examples without a score.

    Attributes:
        reason: The fault, in words.
        n_examples: How many examples it left without a score, over all trials.
        trials: The numbers of the trials that it occurred in.
    """

    reason: str
    n_examples: int
    trials: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Truncated:
    """How many of a stage's prompts were cut as planned.

    Attributes:
        stage: The name of the stage.
        n_cut: The number of results that rest on a prompt that was cut.
        n_results: The number of all results of the stage.
    """

    stage: str
    n_cut: int
    n_results: int


def best_steps(trials: Iterable[TrialResult], rows: Iterable[Trial]) -> Iterable[Step]:
    """Generate the best score after each trial of the search, in the order in which they ended.

    Args:
        trials: The trials.
        rows: Their rows in the store.
    """
    best: TrialResult | None = None
    flops = flops_drawn = n_trials = 0.0
    known = True
    ended_at = {row.number: row.finished_at or math.inf for row in rows}
    searched = [trial for trial in trials if trial.split == "search" and trial.purpose in SEARCHING]
    n_examples = max((trial.n_run for trial in searched), default=0)
    for trial in sorted(searched, key=lambda trial: (ended_at[trial.number], trial.number)):
        n_trials += trial.n_run / n_examples if n_examples else 0.0
        known = known and (trial.flops_per_query is not None or not trial.n_scored)
        trial_flops = (trial.flops_per_query or 0.0) * trial.n_scored
        n_samples = trial.samples_drawn + trial.samples_reused
        flops += trial_flops
        flops_drawn += trial_flops * trial.samples_drawn / n_samples if n_samples else 0.0
        is_scored = trial.status == "complete" and trial.score is not None
        if is_scored and (best is None or (trial.score or 0.0) > (best.score or 0.0)):
            best = trial
        if best is not None and best.score is not None:
            yield Step(
                trial=trial.number,
                n_trials=n_trials,
                allocation=best.allocation,
                score=best.score,
                flops=flops if known else None,
                flops_drawn=flops_drawn if known else None,
            )


def count_faults(store: Store, trials: Iterable[Trial]) -> tuple[FaultCount, ...]:
    """Count the examples without a score by their faults, the most frequent first.

    Args:
        store: The database.
        trials: The trials' rows in it.
    """
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


def count_truncated(store: Store, run_id: str) -> tuple[Truncated, ...]:
    """Count the prompts of a run that were cut as planned, by stage."""
    rows = store.sql(
        "SELECT stage, count(*) AS n_results, "
        "count(*) FILTER (stage_results.reason LIKE 'truncated: %') AS n_cut "
        "FROM stage_results JOIN trials USING (trial_id) WHERE run_id = ? AND stage_results.status = 'ok' "
        "GROUP BY stage ORDER BY min(stage_results.rowid)",
        [run_id],
    )
    counts = zip(rows["stage"], rows["n_cut"], rows["n_results"], strict=True)
    return tuple(Truncated(stage=s, n_cut=int(cut), n_results=int(n)) for s, cut, n in counts if cut)
