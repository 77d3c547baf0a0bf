"""Which trial is best: the order of trials, the winner, the best default, and the Pareto front.

These functions look at finished trials only. Which trials are run is decided by the search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from agenttts.results.retest import pooled
from agenttts.results.trials import TrialResult, merit
from agenttts.space.objective import BEST, Goal
from pipelines.allocation import Allocation
from pipelines.spec.pipeline import PipelineSpec

SEARCHING = ("search", "baseline")
"""Purposes of the trials that the search itself ran."""


def by_phase(trials: Iterable[TrialResult]) -> tuple[list[TrialResult], list[TrialResult]]:
    """The trials of the search itself, and those that came after it to confirm its choice."""
    searched, extra = list[TrialResult](), list[TrialResult]()
    for trial in trials:
        (searched if trial.purpose in SEARCHING else extra).append(trial)
    return searched, extra


def ranked(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Trials with a score on the search split, best first; of equal scores the cheaper, then the earlier."""
    return sorted((t for t in trials if _is_scored(t)), key=merit, reverse=True)


def latest(trials: Sequence[TrialResult], extra: Sequence[TrialResult]) -> list[TrialResult]:
    """For each allocation its last complete trial on the search split.

    Args:
        trials: The trials of the search itself.
        extra: Trials of the confirmation; they count as later than `trials`.

    Returns:
        One trial for each allocation, with the purpose that the allocation had in `trials`: a default that
        was run again for missing examples is still a default.
    """
    purposes = {t.allocation: t.purpose for t in trials}
    by_allocation: dict[Allocation, TrialResult] = {}
    for trial in [*trials, *extra]:
        if _is_scored(trial):
            by_allocation[trial.allocation] = replace(trial, purpose=purposes.get(trial.allocation, "search"))
    return list(by_allocation.values())


def winner_of(
    trials: Sequence[TrialResult], extra: Sequence[TrialResult], spec: PipelineSpec, goal: Goal = BEST
) -> TrialResult | None:
    """The trial of the allocation that is claimed, as it was scored on the search split.

    Without a least quality this is the best mean, the re-test's examples included. With one it is the
    cheapest (or fastest) allocation whose mean reaches it, and the best mean where none does. None without
    any score.
    """
    candidates = latest(trials, extra)
    ranking = ranked(pooled(candidates, extra))
    if goal.min_quality is not None:
        reaching = [t for t in ranking if (t.score or 0.0) >= goal.min_quality]
        reaching.sort(key=lambda t: (goal.burden(spec, t.allocation), t.budget_units, -(t.score or 0.0)))
        ranking = reaching or ranking
    return next((t for t in candidates if ranking and t.allocation == ranking[0].allocation), None)


def baseline_of(trials: Sequence[TrialResult], extra: Sequence[TrialResult]) -> TrialResult | None:
    """The best of the single-model defaults; None when none of them has a score."""
    defaults = [t for t in latest(trials, extra) if t.purpose == "baseline"]
    return next(iter(ranked(defaults)), None)


def frontier(trials: Sequence[TrialResult], extra: Sequence[TrialResult]) -> list[TrialResult]:
    """Trials that no other beats in score for as few units (the Pareto front), cheapest first."""
    front: list[TrialResult] = []
    for trial in sorted(latest(trials, extra), key=lambda t: (t.budget_units, -(t.score or 0.0))):
        if not front or (trial.score or 0.0) > (front[-1].score or 0.0):
            front.append(trial)
    return front


def hypervolume(front: Sequence[TrialResult], budget_units: float) -> float:
    """The area below the frontier, over units from 0 to the budget: 1 for a score of 1 at no cost.

    Where nothing is affordable yet, the score counts as 0.
    """
    ends = [max(t.budget_units, 0.0) for t in front[1:]] + [budget_units]
    widths = [end - max(t.budget_units, 0.0) for t, end in zip(front, ends, strict=True)] if front else []
    return sum((t.score or 0.0) * width for t, width in zip(front, widths, strict=True)) / budget_units


def _is_scored(trial: TrialResult) -> bool:
    return trial.split == "search" and trial.status == "complete" and trial.score is not None
