"""Reasons and lessons in words: what the rules say of a move, and of what two trials teach when compared.

Every figure is a score between 0 and 1 with a 95 % interval where it is a difference, paired by example.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from agenttts.proposers.base import Lesson, SearchView
from agenttts.proposers.moves import Move
from agenttts.stats import Difference, paired_difference
from agenttts.trial import TrialResult
from pipelines.allocation import Allocation, StageChoice


@dataclass(frozen=True)
class Promise:
    """What the curves expect of a move: mean and standard deviation, against the best so far."""

    score: float
    spread: float
    best_score: float
    best_number: int

    def __str__(self) -> str:
        return (
            f"expected {self.score:.3f} ± {self.spread:.3f} "
            f"against {self.best_score:.3f} of trial {self.best_number}"
        )


def seed_reason(move: Move, base: TrialResult) -> str:
    """Why a model is tried at a stage."""
    assert move.stage is not None
    here, there = move.allocation[move.stage], base.allocation[move.stage]
    return (
        f"Which model at {move.stage}: {_choice(here)} for the same stage budget as {_choice(there)}, "
        f"the rest as in trial {base.number}."
    )


def move_reason(move: Move, best: TrialResult, promise: Promise, view: SearchView) -> str:
    """Why a move from the best trial is expected to help."""
    changes = _changes(best.allocation, move.allocation)
    units = view.space.units(move.allocation)
    end = f"; {promise}, {units:.4g} of {view.space.budget_units:g} units."
    if move.rule == "combine":
        return f"The model kept at each stage, together: {move.allocation}{end}"
    if move.rule == "explore" or move.stage is None:
        return (
            f"No small step from trial {best.number} is expected to help; further off, {move.allocation}{end}"
        )
    if move.rule == "shift":
        return f"Units move from {move.giver} to {move.stage}: {changes}{end}"
    if move.rule == "model":
        return f"Another model at {move.stage}: {changes}{end}"
    words = "More" if move.rule == "climb" else "Fewer"
    return f"{words} samples at {move.stage}: {changes}{end}"


def lessons(view: SearchView) -> Iterator[Lesson]:
    """What the trials not yet cited teach, each compared with the earlier trial nearest to it."""
    cited = max((n for insight in view.insights for n in insight.trials), default=-1)
    for trial in view.scored:
        earlier = [t for t in view.scored if t.number < trial.number]
        if trial.number <= cited or not earlier:
            continue
        near = min(earlier, key=lambda t: (_distance(t.allocation, trial.allocation), -_score(t), t.number))
        rng = np.random.default_rng([view.seed, trial.number, near.number])
        found = paired_difference(trial.scores, near.scores, rng)
        claim = None
        if found.low > 0 or found.high < 0:
            claim = (trial.number, near.number) if found.mean > 0 else (near.number, trial.number)
        yield Lesson(_lesson(view, near, trial, found), (near.number, trial.number), claim)


def _lesson(view: SearchView, before: TrialResult, after: TrialResult, found: Difference) -> str:
    stages = [s for s in after.allocation if after.allocation[s] != before.allocation[s]]
    figures = (
        f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] (trials {before.number}, {after.number})"
    )
    verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "not told apart"
    if len(stages) == 1:
        stage = stages[0]
        old, new = before.allocation[stage], after.allocation[stage]
        if old.model != new.model:
            return _model_lesson(view, stage, old, new, found, figures)
        more = new.n_samples > old.n_samples
        if verdict == "not told apart":
            said = "more samples do not clearly pay" if more else "fewer samples do not clearly cost"
        elif (verdict == "better") == more:
            said = "more samples pay" if more else "fewer samples cost"
        else:
            said = "more samples hurt" if more else "fewer samples are better"
        return f"At {stage}, {said}: {_choice(old)} → {new.n_samples} changes the score by {figures}."
    changes = _changes(before.allocation, after.allocation)
    return f"{changes}: {verdict}, {figures}."


def _model_lesson(
    view: SearchView, stage: str, old: StageChoice, new: StageChoice, found: Difference, figures: str
) -> str:
    if found.low > 0 or found.high < 0:
        winner, loser = (new, old) if found.low > 0 else (old, new)
        return f"At {stage}, {_choice(winner)} is clearly better than {_choice(loser)}: {figures}."
    smaller = min((old, new), key=lambda c: view.space.active_params(stage, c.model))
    return (
        f"At {stage}, {_choice(new)} and {_choice(old)} are not told apart: {figures}; "
        f"the smaller, {smaller.model}, is as good within noise."
    )


def _distance(left: Allocation, right: Allocation) -> tuple[int, int, float]:
    changed = [s for s in left if left[s] != right[s]]
    models = sum(left[s].model != right[s].model for s in changed)
    doublings = sum(abs(float(np.log2(left[s].n_samples / right[s].n_samples))) for s in changed)
    return len(changed), models, doublings


def _changes(before: Allocation, after: Allocation) -> str:
    return ", ".join(
        f"{stage} {_choice(before[stage])} → {_choice(after[stage])}"
        for stage in after
        if before[stage] != after[stage]
    )


def _choice(choice: StageChoice) -> str:
    return f"{choice.model}×{choice.n_samples}"


def _score(trial: TrialResult) -> float:
    return trial.score if trial.score is not None else 0.0
