"""Curves of the score against each stage's number of samples, and the marginal value of compute.

The points are a run's trials and, where recorded samples allow it, trials replayed around the best
allocation: samples are nested, so that those drawn for n also answer for fewer. No model is called.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agenttts.blocking import run_blocking
from agenttts.replay.bank import BankOutcomes
from agenttts.results.trials import INTERVAL_SEED, REPLAYED, TrialResult
from agenttts.stats import Interval, paired_difference
from pipelines.allocation import Allocation, StageChoice, StageOption


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One trial on a curve.

    Attributes:
        n_samples: The stage's number of samples.
        score: The score of the whole pipeline.
        stage_score: The mean of the stage's own metric; None when it has none.
        budget_units: Planned compute per query, in units.
        trial: The number of the trial; None when it was replayed on recorded samples.
    """

    n_samples: int
    score: Interval
    stage_score: float | None
    budget_units: float
    trial: int | None


@dataclass(frozen=True, kw_only=True)
class StageCurve:
    """The pipeline's score against one stage's number of samples, for one option of the stage.

    Attributes:
        stage: The name of the stage.
        option: The stage's option, the same along the curve.
        others: The choices of the other stages, the same along the curve.
        points: The points, by ascending number of samples.
    """

    stage: str
    option: StageOption
    others: Mapping[str, StageChoice]
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, kw_only=True)
class Marginal:
    """The gain of a dearer choice at one stage, with the other stages unchanged.

    Attributes:
        stage: The name of the stage.
        before: The stage's choice in `base`.
        after: The dearer choice.
        base: The allocation that the step starts from.
        extra_units: What the step adds to the planned units per query; above 0.
        gain: The difference of the scores, paired by example.
        from_best: Whether `base` is the best allocation.
    """

    stage: str
    before: StageChoice
    after: StageChoice
    base: Allocation
    extra_units: float
    gain: Interval
    from_best: bool

    @property
    def gain_per_unit(self) -> float:
        """The mean gain in score for each unit added."""
        return self.gain.mean / self.extra_units


def difference(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> Interval | None:
    """Return the mean difference of two allocations' scores, paired over the examples that both have.

    Args:
        a: The scores of the first, by example id; None where an example is missing.
        b: The scores of the second, which are subtracted.

    Returns:
        The difference with its 95 % interval; None when they share no scored example.
    """
    paired = paired_difference(a, b, np.random.default_rng(INTERVAL_SEED))
    return paired if paired.n else None


def solve_around(bank: BankOutcomes, centre: Allocation) -> list[TrialResult]:
    """Replay allocations that differ from a centre in one stage, on recorded samples alone.

    At each stage every option is replayed at n = 1, 2, 4, …, its largest, the centre's n and one more.

    Args:
        bank: The recorded samples.
        centre: The allocation to vary.

    Returns:
        A trial for each allocation that the recorded samples answer.
    """
    return run_blocking(_solve_around(bank, centre))


async def _solve_around(bank: BankOutcomes, centre: Allocation) -> list[TrialResult]:
    replayed = []
    for stage in bank.spec.stages:
        n_at_centre = centre[stage.name].n_samples
        counts = sorted(
            _doublings(stage.max_samples) | {n_at_centre, min(n_at_centre + 1, stage.max_samples)}
        )
        for option in stage.options:
            # the largest first: reading it parses all samples once, for every smaller number too
            choices = [option.with_samples(n) for n in reversed(counts)]
            trials = [await bank.replay(centre.replace(stage.name, choice)) for choice in choices]
            replayed += [trial for trial in reversed(trials) if trial is not None]
    return replayed


def merged(trials: Sequence[TrialResult], replayed: Sequence[TrialResult]) -> list[TrialResult]:
    """Merge the trials of a run with replayed ones.

    Args:
        trials: The trials of the run.
        replayed: The replayed trials.

    Returns:
        One trial for each allocation; that of the run when there are both.
    """
    by_allocation = {trial.allocation: trial for trial in [*replayed, *trials]}
    return list(by_allocation.values())


def stage_curve(
    trials: Sequence[TrialResult], stage: str, option: StageOption, around: Allocation | None = None
) -> StageCurve | None:
    """Collect the curve of the score against n for one option at one stage.

    The other stages' choices are the same along the curve: those with the most points, and among equals those
    of `around`.

    Args:
        trials: The trials to take points from.
        stage: The name of the stage.
        option: The option at the stage.
        around: The allocation to prefer for the other stages; None: no preference.

    Returns:
        The curve; None when no trial with the option has a score.
    """
    by_others: dict[frozenset[tuple[str, StageChoice]], list[TrialResult]] = {}
    for trial in trials:
        if trial.allocation[stage].option == option:
            by_others.setdefault(_others(trial.allocation, stage), []).append(trial)
    if not by_others:
        return None
    near = _others(around, stage) if around is not None else frozenset()
    others = max(by_others, key=lambda key: (len(by_others[key]), key == near, _best_mean(by_others[key])))
    points = []
    for trial in sorted(by_others[others], key=lambda trial: trial.allocation[stage].n_samples):
        if trial.interval is not None:
            points.append(
                CurvePoint(
                    n_samples=trial.allocation[stage].n_samples,
                    score=trial.interval,
                    stage_score=trial.stage_scores.get(stage),
                    budget_units=trial.budget_units,
                    trial=None if trial.number == REPLAYED else trial.number,
                )
            )
    rest = {name: choice for name, choice in by_others[others][0].allocation.items() if name != stage}
    return StageCurve(stage=stage, option=option, others=rest, points=tuple(points)) if points else None


def stage_curves(
    trials: Sequence[TrialResult], around: Allocation, options: Mapping[str, Sequence[StageOption]]
) -> list[StageCurve]:
    """Collect the curves of all stages.

    Args:
        trials: The trials to take points from.
        around: The allocation to prefer for the other stages.
        options: The options of each stage.

    Returns:
        One curve for each stage and option that has points.
    """
    curves = [
        stage_curve(trials, stage, option, around)
        for stage, stage_options in options.items()
        for option in stage_options
    ]
    return [curve for curve in curves if curve is not None]


def marginal_values(trials: Sequence[TrialResult], best: Allocation) -> list[Marginal]:
    """Compare, at each stage, dearer choices with all else equal.

    The steps at a stage start from the best allocation when it has any, else from the best other trial that
    has one.

    Args:
        trials: The trials to compare.
        best: The best allocation.

    Returns:
        The steps, those with the largest gain per unit first.
    """
    marginals: list[Marginal] = []
    for stage in best:
        bases = sorted(trials, key=lambda base: (base.allocation == best, _best_mean([base])), reverse=True)
        for base in bases:
            steps = _steps(base, stage, trials, from_best=base.allocation == best)
            if steps:
                marginals += steps
                break
    return sorted(marginals, key=lambda m: m.gain_per_unit, reverse=True)


def _steps(
    base: TrialResult, stage: str, trials: Iterable[TrialResult], *, from_best: bool
) -> list[Marginal]:
    """Return the steps from one base: for each option the smallest dearer choice at the stage."""
    nearest: dict[StageOption, TrialResult] = {}
    for trial in trials:
        if _others(trial.allocation, stage) != _others(base.allocation, stage):
            continue
        option = trial.allocation[stage].option
        if trial.budget_units <= base.budget_units + 1e-9 * min(1.0, abs(base.budget_units)):
            continue
        if option not in nearest or trial.budget_units < nearest[option].budget_units:
            nearest[option] = trial
    steps = []
    for trial in nearest.values():
        gain = difference(trial.scores, base.scores)
        if gain is not None:
            steps.append(
                Marginal(
                    stage=stage,
                    before=base.allocation[stage],
                    after=trial.allocation[stage],
                    base=base.allocation,
                    extra_units=trial.budget_units - base.budget_units,
                    gain=gain,
                    from_best=from_best,
                )
            )
    return steps


def _doublings(largest: int) -> set[int]:
    return {2**i for i in range(largest.bit_length()) if 2**i <= largest} | {largest}


def _others(allocation: Allocation, stage: str) -> frozenset[tuple[str, StageChoice]]:
    return frozenset((name, choice) for name, choice in allocation.items() if name != stage)


def _best_mean(trials: Sequence[TrialResult]) -> float:
    """Return the best mean score among the trials; -inf when none has a score."""
    return max((trial.score for trial in trials if trial.score is not None), default=-math.inf)
