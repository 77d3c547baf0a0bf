"""The ranking of trials: their order, those within the budget, and the Pareto front.

These functions look at finished trials only. The search decides which trials are run, and
`choosing` which of them wins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from agenttts.results.trials import TrialResult, merit
from agenttts.space.measure import Measure
from agenttts.stats import Interval
from pipelines.allocation import Allocation

SEARCHING = ("search", "baseline")
"""Purposes of the trials that the search itself ran."""


def by_phase(trials: Iterable[TrialResult]) -> tuple[list[TrialResult], list[TrialResult]]:
    """Split trials into those of the search itself and those that came after it to confirm its choice.

    Args:
        trials: The trials of a run.

    Returns:
        The trials of the search, and the others, both in their order.
    """
    searched, extra = list[TrialResult](), list[TrialResult]()
    for trial in trials:
        (searched if trial.purpose in SEARCHING else extra).append(trial)
    return searched, extra


def ranked(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials with a score on the search split, best first.

    Of trials with equal scores the cheaper comes first, then the earlier.

    Args:
        trials: The trials.
    """
    return sorted((t for t in trials if _is_scored(t)), key=merit, reverse=True)


def latest(trials: Sequence[TrialResult], extra: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the last complete trial of each allocation on the search split.

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


def unfinished(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the partial trials that look better than the complete ones: of the defaults, and of all trials.

    Args:
        trials: The trials of the search itself.

    Returns:
        At most two trials, that of a default first.
    """
    defaults = [trial for trial in trials if trial.purpose == "baseline"]
    leaders = [leader(defaults), leader(trials)]
    partial = {t.number: t for t in leaders if t is not None and t.status == "partial"}
    return list(partial.values())


def to_complete(trials: Sequence[TrialResult], named: Allocation | None) -> list[TrialResult]:
    """Return the partial trials that a confirmation completes, so that they can win.

    Args:
        trials: The trials of the search itself.
        named: The allocation that the proposer holds for the best; None: what looks best, as `unfinished`.

    Returns:
        At most two trials: the best-looking default, where an allocation is named only if no default is
        complete, and the named or best-looking one.
    """
    looking_best = unfinished(trials)
    if named is None:
        return looking_best
    of_named = [trial for trial in trials if trial.allocation == named and trial.status == "partial"]
    if ranked([trial for trial in trials if trial.purpose == "baseline"]):
        return of_named
    return [trial for trial in looking_best if trial.purpose == "baseline"][:1] + of_named


def leader(trials: Sequence[TrialResult]) -> TrialResult | None:
    """Return the trial that looks best, complete or partial, by paired differences on shared examples.

    Every trial is compared with the best complete one, or with the one on the most examples where none is
    complete. Equals lose against it.

    Args:
        trials: The trials.

    Returns:
        The trial; None when none has a score.
    """
    scored = [t for t in trials if t.status in ("complete", "partial") and t.score is not None]
    if not scored:
        return None
    complete = ranked(trials)
    reference = complete[0] if complete else max(scored, key=lambda trial: (trial.n_run, merit(trial)))

    def lead(trial: TrialResult) -> float:
        pairs = ((score, reference.scores.get(i)) for i, score in trial.scores.items())
        gains = [a - b for a, b in pairs if a is not None and b is not None]
        return math.fsum(gains) / len(gains) if gains else -math.inf

    return max(scored, key=lambda trial: (lead(trial), trial is reference, merit(trial)))


def is_over(cost: Interval | None, budget_units: float | None) -> bool:
    """Return whether a mean cost per query is shown to be above the budget: its whole 95 % interval is.

    Args:
        cost: The cost, in the budget's measure; None where it is not known.
        budget_units: The budget; None where it is not known.
    """
    return cost is not None and budget_units is not None and cost.low > budget_units


def within_budget(trials: Sequence[TrialResult], measure: Measure, budget_units: float) -> list[TrialResult]:
    """Leave out trials whose cost `is_over` the budget; where all are, leave out none.

    Args:
        trials: The trials.
        measure: The measure of the budget.
        budget_units: The budget per query, in its measure.
    """
    within = [trial for trial in trials if not is_over(trial.realised(measure), budget_units)]
    return within or list(trials)


def frontier(trials: Sequence[TrialResult], extra: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials that no other beats in score for as few units (the Pareto front), cheapest first.

    Args:
        trials: The trials of the search itself.
        extra: Trials of the confirmation.
    """
    front: list[TrialResult] = []
    for trial in sorted(latest(trials, extra), key=lambda t: (t.budget_units, -(t.score or 0.0))):
        if not front or (trial.score or 0.0) > (front[-1].score or 0.0):
            front.append(trial)
    return front


def hypervolume(front: Sequence[TrialResult], budget_units: float) -> float:
    """Compute the area below the frontier, over units from 0 to the budget: 1 for a score of 1 at no cost.

    Units are amounts of the budget's measure. Below those of the cheapest trial the score counts as 0, and
    what trials take beyond the budget counts for nothing.

    Args:
        front: The trials on the frontier, cheapest first.
        budget_units: The budget per query, in its measure.
    """
    starts = [min(max(t.budget_units, 0.0), budget_units) for t in front]
    widths = [end - start for start, end in zip(starts, [*starts[1:], budget_units], strict=False)]
    return sum((t.score or 0.0) * width for t, width in zip(front, widths, strict=True)) / budget_units


def _is_scored(trial: TrialResult) -> bool:
    if trial.policy is not None or trial.split != "search":
        return False
    return trial.status == "complete" and trial.score is not None
