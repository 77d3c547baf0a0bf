"""The reasons for moves and the lessons from pairs of trials, in words.

Every figure is a score between 0 and 1, or a difference of scores, paired by example, with its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from agenttts.proposers.base import Lesson, SearchView
from agenttts.proposers.moves import Move
from agenttts.results.trials import TrialResult
from agenttts.stats import Difference, paired_difference
from pipelines.allocation import Allocation, StageChoice


@dataclass(frozen=True)
class Promise:
    """The expected score of a move, against the best score so far.

    Attributes:
        score: The expected score.
        std: Its standard deviation.
        best_score: The score of the best trial.
        best_number: The number of that trial.
    """

    score: float
    std: float
    best_score: float
    best_number: int

    def __str__(self) -> str:
        return (
            f"expected {self.score:.3f} ± {self.std:.3f} "
            f"against {self.best_score:.3f} of trial {self.best_number}"
        )


def seed_reason(move: Move, base: TrialResult) -> str:
    """Say why another model is tried at a stage at equal stage budget.

    Args:
        move: The move, which changes one stage.
        base: The trial that the move starts from.

    Returns:
        The reason.
    """
    assert move.stage is not None
    here, there = move.allocation[move.stage], base.allocation[move.stage]
    return (
        f"Which model at {move.stage}: {here} for the same stage budget as {there}, "
        f"the rest as in trial {base.number}."
    )


def move_reason(move: Move, best: TrialResult, promise: Promise, view: SearchView) -> str:
    """Say why a move is expected to help.

    Args:
        move: The move.
        best: The trial that the move starts from, or the best one.
        promise: The expected score of the move.
        view: What the proposer may know.

    Returns:
        The reason.
    """
    changes = _changes(best.allocation, move.allocation)
    end = f"; {promise}, {view.space.share_text(move.allocation)}."
    if move.rule == "combine":
        return f"The model kept at each stage, together: {move.allocation}{end}"
    if move.rule == "explore" or move.stage is None:
        return (
            f"No small step from trial {best.number} is expected to help; further off, {move.allocation}{end}"
        )
    if move.rule == "shift":
        what = "Units" if view.space.measure.name == "units" else "Dollars"
        return f"{what} move from {move.giver} to {move.stage}: {changes}{end}"
    if move.rule == "model":
        return f"Another model at {move.stage}: {changes}{end}"
    words = "More" if move.rule == "climb" else "Fewer"
    return f"{words} samples at {move.stage}: {changes}{end}"


def lessons(view: SearchView) -> Iterator[Lesson]:
    """Generate the lessons of the trials that no insight cites yet.

    Args:
        view: What the proposer may know.

    Yields:
        A lesson for each such trial, from its paired difference to the earlier trial nearest to it.
    """
    cited = max((n for insight in view.insights for n in insight.trials), default=-1)
    for trial in view.scored:
        earlier = [t for t in view.scored if t.number < trial.number]
        if trial.number <= cited or not earlier:
            continue
        near = min(earlier, key=lambda t: (_distance(t.allocation, trial.allocation), -_score(t), t.number))
        rng = np.random.default_rng([view.seed, trial.number, near.number])
        change = paired_difference(trial.scores, near.scores, rng)
        claim = None
        if change.low > 0 or change.high < 0:
            claim = (trial.number, near.number) if change.mean > 0 else (near.number, trial.number)
        yield Lesson(_lesson(view, near, trial, change), (near.number, trial.number), claim)


def _lesson(view: SearchView, before: TrialResult, after: TrialResult, change: Difference) -> str:
    """Say what the later trial shows; the trials themselves are cited beside the text, not in it."""
    stages = [s for s in after.allocation if after.allocation[s] != before.allocation[s]]
    figures = _signed(change)
    verdict = "better" if change.low > 0 else "worse" if change.high < 0 else "not told apart"
    if len(stages) == 1:
        stage = stages[0]
        old, new = before.allocation[stage], after.allocation[stage]
        if old.option != new.option:
            return _option_lesson(view, stage, old, new, change)
        more = new.n_samples > old.n_samples
        if verdict == "not told apart":
            effect = "more samples do not clearly pay" if more else "fewer samples do not clearly cost"
        elif (verdict == "better") == more:
            effect = "more samples pay" if more else "fewer samples cost"
        else:
            effect = "more samples hurt" if more else "fewer samples are better"
        return f"At {stage}, {effect}: {old} → {new.n_samples} changes the score by {figures}."
    changes = _changes(before.allocation, after.allocation)
    if verdict == "not told apart":
        return f"{changes}: not told apart, {figures}."
    return f"{changes} is clearly {verdict}: {figures}."


def _option_lesson(
    view: SearchView, stage: str, old: StageChoice, new: StageChoice, change: Difference
) -> str:
    """Compare two options; the figures are those of the first that the text names, less the other's."""
    if change.low > 0:
        return f"At {stage}, {new} is clearly better than {old}: {_signed(change)}."
    if change.high < 0:
        return f"At {stage}, {old} is clearly better than {new}: {_signed(change, turned=True)}."
    tie = f"At {stage}, {new} and {old} are not told apart: {_signed(change)}"
    old_size, new_size = view.space.active_params(old.option), view.space.active_params(new.option)
    if old_size is not None and new_size is not None and old_size != new_size:
        smaller = old.option if old_size < new_size else new.option
        return f"{tie}; the smaller, {smaller}, is as good within noise."
    cheaper, dearer = sorted((old, new), key=partial(view.space.stage_units, stage))
    if view.space.stage_units(stage, cheaper) == view.space.stage_units(stage, dearer):
        return f"{tie}."
    return f"{tie}; the cheaper, {cheaper}, is as good within noise."


def _signed(change: Difference, *, turned: bool = False) -> str:
    """A difference with its interval; turned: of second minus first."""
    mean, low, high = (
        (-change.mean, -change.high, -change.low) if turned else (change.mean, change.low, change.high)
    )
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _distance(left: Allocation, right: Allocation) -> tuple[int, int, float]:
    changed = [s for s in left if left[s] != right[s]]
    options = sum(left[s].option != right[s].option for s in changed)
    log2_ratios = sum(abs(float(np.log2(left[s].n_samples / right[s].n_samples))) for s in changed)
    return len(changed), options, log2_ratios


def _changes(before: Allocation, after: Allocation) -> str:
    return ", ".join(
        f"{stage} {before[stage]} → {after[stage]}" for stage in after if before[stage] != after[stage]
    )


def _score(trial: TrialResult) -> float:
    return trial.score if trial.score is not None else 0.0
