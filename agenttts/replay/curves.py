"""What each stage's samples buy: scores against n, and where the next unit of compute would help most.

Points are a run's trials and, where recorded samples allow it, trials replayed around the best allocation:
samples are nested, so whatever was drawn for n samples also answers for fewer. No call is ever made here.
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
    """A trial on a curve.

    Attributes:
        n_samples: The stage's number of samples.
        score: Score of the whole pipeline.
        stage_score: Mean of the stage's own metric; None where it has none.
        budget_units: Planned compute per query, in units.
        trial: Number of the trial; None when it was replayed on recorded samples.
    """

    n_samples: int
    score: Interval
    stage_score: float | None
    budget_units: float
    trial: int | None


@dataclass(frozen=True, kw_only=True)
class StageCurve:
    """The pipeline's score against one stage's number of samples, for one option there.

    Attributes:
        stage: The stage.
        model: What serves it along the curve.
        others: The choices of the other stages, the same along the curve.
        points: By ascending number of samples.
    """

    stage: str
    option: StageOption
    others: Mapping[str, StageChoice]
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, kw_only=True)
class Marginal:
    """What a dearer choice at one stage changes, the other stages as they were.

    Attributes:
        stage: The stage.
        before: Its choice in `base`.
        after: The dearer choice.
        base: The allocation that the step starts from.
        extra_units: What the step adds to the planned units per query; above 0.
        gain: Difference of the scores, paired by example.
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
        """The gain in score for each further unit."""
        return self.gain.mean / self.extra_units


def difference(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> Interval | None:
    """a minus b, paired over the examples that both have; None when they share none."""
    paired = paired_difference(a, b, np.random.default_rng(INTERVAL_SEED))
    return paired if paired.n else None


def solve_around(bank: BankOutcomes, centre: Allocation) -> list[TrialResult]:
    """Replay allocations that differ from the centre in one stage, on recorded samples alone.

    Every stage's models at n = 1, 2, 4, …, its largest, the centre's n and one more, all else as there.
    Allocations that the recorded samples do not answer are left out.
    """
    return run_blocking(_solve_around(bank, centre))


async def _solve_around(bank: BankOutcomes, centre: Allocation) -> list[TrialResult]:
    replayed = []
    for stage in bank.spec.stages:
        own = centre[stage.name].n_samples
        counts = sorted(_doublings(stage.max_samples) | {own, min(own + 1, stage.max_samples)})
        for option in stage.options:
            # the largest first: reading it parses all samples once, for every smaller number too
            choices = [option.with_samples(n) for n in reversed(counts)]
            trials = [await bank.replay(centre.replace(stage.name, choice)) for choice in choices]
            replayed += [trial for trial in reversed(trials) if trial is not None]
    return replayed


def merged(trials: Sequence[TrialResult], replayed: Sequence[TrialResult]) -> list[TrialResult]:
    """Both, one for each allocation; trials of the run count before replayed ones."""
    by_allocation = {trial.allocation: trial for trial in [*replayed, *trials]}
    return list(by_allocation.values())


def stage_curve(
    trials: Sequence[TrialResult], stage: str, option: StageOption, around: Allocation | None = None
) -> StageCurve | None:
    """Score against n for one option at one stage, the choices of the other stages the same.

    Of all choices of the other stages those with the most points are taken, those of `around` first among
    equals. None when the option was never tried there.
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
    """One curve for each stage and option (`options` by stage) that has points."""
    curves = [stage_curve(trials, stage, option, around) for stage, own in options.items() for option in own]
    return [curve for curve in curves if curve is not None]


def marginal_values(trials: Sequence[TrialResult], best: Allocation) -> list[Marginal]:
    """For each stage the dearer choices that were scored with all else equal, the most gain per unit first.

    Steps from the best allocation where there are any at that stage, else from the best base that has one.
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
    """From one base: for each option the smallest dearer choice at the stage."""
    nearest: dict[StageOption, TrialResult] = {}
    for trial in trials:
        if _others(trial.allocation, stage) != _others(base.allocation, stage):
            continue
        option = trial.allocation[stage].option
        if trial.budget_units <= base.budget_units + 1e-9:
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
    """The best mean score among some; -inf when none has any."""
    return max((trial.score for trial in trials if trial.score is not None), default=-math.inf)
