"""What each stage's samples buy: scores against n, and where the next unit of compute would help most.

Points come from a run's trials and, where recorded samples allow it, from scoring further allocations on the
store and its banks alone: samples are nested, so whatever was drawn for n samples also answers for fewer. No
call is ever made here. Drawing the curves is left to `plots`, telling about them to `report`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agenttts.blocking import run_blocking
from agenttts.budget import planned_units
from agenttts.stats import Interval, mean_interval, paired_difference
from datastore import Store
from pipelines import metrics
from pipelines.allocation import Allocation, StageChoice, StageOption
from pipelines.errors import CustomCodeFailed, ReplayMiss
from pipelines.examples import Example
from pipelines.runtime import Runtime, StageOutcome
from pipelines.spec import PipelineSpec

_SEED = 20_250_801


@dataclass(frozen=True, kw_only=True)
class ScoredAllocation:
    """An allocation with its score by example. `trial`: its number, None when solved on the bank.

    `stage_scores`: by stage, the mean of the stage's own metric; stages without one are absent.
    """

    allocation: Allocation
    budget_units: float
    scores: Mapping[str, float | None]
    stage_scores: Mapping[str, float]
    trial: int | None

    @property
    def estimate(self) -> Interval | None:
        """The mean score with its interval; None when nothing was scored."""
        return estimate(self.scores.values())


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    n_samples: int
    score: Interval  # of the whole pipeline
    stage_score: float | None  # of the stage's own metric, where it has one
    budget_units: float
    trial: int | None


@dataclass(frozen=True, kw_only=True)
class StageCurve:
    """The pipeline's score against one stage's number of samples, for one option there.

    `others`: what the other stages were given along the curve.
    """

    stage: str
    option: StageOption
    others: Mapping[str, StageChoice]
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, kw_only=True)
class Marginal:
    """What a dearer choice at one stage changes, the other stages held: the gain, paired by example."""

    stage: str
    before: StageChoice
    after: StageChoice
    base: Allocation
    extra_units: float
    gain: Interval
    from_best: bool  # the step starts from the best allocation

    @property
    def gain_per_unit(self) -> float:
        return self.gain.mean / self.extra_units


def estimate(scores: Iterable[float | None]) -> Interval | None:
    """Mean and interval of the scores that are there, None without any. Same scores, same interval."""
    return mean_interval(scores, np.random.default_rng(_SEED))


def difference(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> Interval | None:
    """a minus b, paired over the examples that both have; None when they share none."""
    found = paired_difference(a, b, np.random.default_rng(_SEED))
    return found if found.n else None


def trial_scores(store: Store, run_id: str | None = None) -> list[ScoredAllocation]:
    """A run's complete trials on the search split, one for each allocation: that with the most examples."""
    best: dict[Allocation, ScoredAllocation] = {}
    for trial in store.trials(store.run(run_id).run_id):
        if trial.status != "complete" or trial.split != "search" or trial.score is None:
            continue
        allocation = Allocation.from_json(trial.allocation)
        scores = {example: score.score for example, score in store.scores(trial.trial_id).items()}
        if allocation in best and _n_scored(best[allocation].scores) >= _n_scored(scores):
            continue
        best[allocation] = ScoredAllocation(
            allocation=allocation,
            budget_units=trial.budget_units,
            scores=scores,
            stage_scores=_stage_means(store, trial.trial_id),
            trial=trial.number,
        )
    return list(best.values())


class BankSolver:
    """Scores allocations on recorded samples alone: the store's own and those of attached banks."""

    def __init__(self, spec: PipelineSpec, store: Store, examples: Sequence[Example]) -> None:
        self.spec = spec
        self.examples = tuple(examples)
        self._runtime = Runtime(spec, store, None, run_id=None, replay=True)
        self._solved: dict[Allocation, ScoredAllocation | None] = {}
        self._outcomes: dict[tuple[Any, ...], StageOutcome] = {}

    def score_allocation(self, allocation: Allocation) -> ScoredAllocation | None:
        """The allocation's scores, without a call; None when a sample that it needs was never drawn."""
        if allocation not in self._solved:
            self._solved[allocation] = run_blocking(self._solve(allocation))
        return self._solved[allocation]

    async def _solve(self, allocation: Allocation) -> ScoredAllocation | None:
        tasks = [asyncio.ensure_future(self._solve_example(allocation, e)) for e in self.examples]
        try:
            solved = await asyncio.gather(*tasks)
        except ReplayMiss:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return None
        by_stage: dict[str, list[float]] = {}
        for _, outcomes in solved:
            for outcome in outcomes:
                if outcome.score is not None:
                    by_stage.setdefault(outcome.stage, []).append(outcome.score)
        return ScoredAllocation(
            allocation=allocation,
            budget_units=planned_units(self.spec, allocation),
            scores={e.id: score for e, (score, _) in zip(self.examples, solved, strict=True)},
            stage_scores={stage: math.fsum(found) / len(found) for stage, found in by_stage.items()},
            trial=None,
        )

    async def _solve_example(
        self, allocation: Allocation, example: Example
    ) -> tuple[float | None, list[StageOutcome]]:
        outputs: dict[str, Any] = {}
        outcomes: list[StageOutcome] = []
        for stage in self.spec.stages:
            choice = allocation[stage.name]
            # dicts keep an order and values are JSON-able: repr tells any two sets of outputs apart
            key = (stage.name, choice, example.id, repr(outputs))
            if key not in self._outcomes:
                self._outcomes[key] = await self._runtime.stage_outcome(stage, choice, example, outputs)
            outcome = self._outcomes[key]
            outcomes.append(outcome)
            if outcome.status == "error":
                return None, outcomes
            outputs[stage.name] = outcome.value
        try:
            return metrics.score(self.spec.metric, outputs[self.spec.stages[-1].name], example), outcomes
        except CustomCodeFailed:
            return None, outcomes


def solve_around(solver: BankSolver, centre: Allocation) -> list[ScoredAllocation]:
    """Every stage's models at n = 1, 2, 4, …, its largest, and one up from the centre, all else as there.

    Allocations that the recorded samples do not answer are left out.
    """
    found = []
    for stage in solver.spec.stages:
        own = centre[stage.name].n_samples
        counts = _doublings(stage.max_samples) | {own, min(own + 1, stage.max_samples)}
        for option in stage.options:
            for n in sorted(counts):
                scored = solver.score_allocation(centre.replace(stage.name, option.with_samples(n)))
                if scored is not None:
                    found.append(scored)
    return found


def merged(trials: Sequence[ScoredAllocation], solved: Sequence[ScoredAllocation]) -> list[ScoredAllocation]:
    """Both, one for each allocation; trials count first."""
    by_allocation = {scored.allocation: scored for scored in [*solved, *trials]}
    return list(by_allocation.values())


def stage_curve(
    scored: Sequence[ScoredAllocation], stage: str, option: StageOption, around: Allocation | None = None
) -> StageCurve | None:
    """Score against n for one option at one stage, the other stages held.

    Of all settings of the other stages the one with the most points is taken, that of `around` first among
    equals.
    None when the option was never tried there.
    """
    by_others: dict[frozenset[tuple[str, StageChoice]], list[ScoredAllocation]] = {}
    for one in scored:
        if one.allocation[stage].option == option:
            by_others.setdefault(_others(one.allocation, stage), []).append(one)
    if not by_others:
        return None
    near = _others(around, stage) if around is not None else frozenset()
    others = max(by_others, key=lambda key: (len(by_others[key]), key == near, _mean(by_others[key])))
    points = []
    for one in sorted(by_others[others], key=lambda one: one.allocation[stage].n_samples):
        score = one.estimate
        if score is not None:
            points.append(
                CurvePoint(
                    n_samples=one.allocation[stage].n_samples,
                    score=score,
                    stage_score=one.stage_scores.get(stage),
                    budget_units=one.budget_units,
                    trial=one.trial,
                )
            )
    rest = {name: choice for name, choice in by_others[others][0].allocation.items() if name != stage}
    return StageCurve(stage=stage, option=option, others=rest, points=tuple(points)) if points else None


def stage_curves(
    scored: Sequence[ScoredAllocation], around: Allocation, options: Mapping[str, Sequence[StageOption]]
) -> list[StageCurve]:
    """One curve for each stage and option (`options` by stage) that has points."""
    found = [stage_curve(scored, stage, option, around) for stage, own in options.items() for option in own]
    return [curve for curve in found if curve is not None]


def marginal_values(scored: Sequence[ScoredAllocation], best: Allocation) -> list[Marginal]:
    """For each stage the dearer choices that were scored with all else equal, the most gain per unit first.

    Steps from the best allocation where there are any at that stage, else from the best base that has one.
    """
    by_allocation = {one.allocation: one for one in scored}
    found: list[Marginal] = []
    for stage in best:
        bases = sorted(scored, key=lambda one: (one.allocation == best, _mean([one])), reverse=True)
        for base in bases:
            steps = _steps(base, stage, by_allocation.values(), from_best=base.allocation == best)
            if steps:
                found += steps
                break
    return sorted(found, key=lambda m: m.gain_per_unit, reverse=True)


def _steps(
    base: ScoredAllocation, stage: str, scored: Iterable[ScoredAllocation], *, from_best: bool
) -> list[Marginal]:
    """From one base: for each option the smallest dearer choice at the stage."""
    nearest: dict[StageOption, ScoredAllocation] = {}
    for one in scored:
        if _others(one.allocation, stage) != _others(base.allocation, stage):
            continue
        option = one.allocation[stage].option
        if one.budget_units <= base.budget_units + 1e-9:
            continue
        if option not in nearest or one.budget_units < nearest[option].budget_units:
            nearest[option] = one
    steps = []
    for one in nearest.values():
        gain = difference(one.scores, base.scores)
        if gain is not None:
            steps.append(
                Marginal(
                    stage=stage,
                    before=base.allocation[stage],
                    after=one.allocation[stage],
                    base=base.allocation,
                    extra_units=one.budget_units - base.budget_units,
                    gain=gain,
                    from_best=from_best,
                )
            )
    return steps


def _stage_means(store: Store, trial_id: str) -> dict[str, float]:
    by_stage: dict[str, list[float]] = {}
    for result in store.stage_results(trial_id):
        if result.score is not None:
            by_stage.setdefault(result.stage, []).append(result.score)
    return {stage: math.fsum(found) / len(found) for stage, found in by_stage.items()}


def _doublings(largest: int) -> set[int]:
    return {2**i for i in range(largest.bit_length()) if 2**i <= largest} | {largest}


def _others(allocation: Allocation, stage: str) -> frozenset[tuple[str, StageChoice]]:
    return frozenset((name, choice) for name, choice in allocation.items() if name != stage)


def _n_scored(scores: Mapping[str, float | None]) -> int:
    return sum(score is not None for score in scores.values())


def _mean(scored: Sequence[ScoredAllocation]) -> float:
    """The best mean score among some; -inf when none has any."""
    means = []
    for one in scored:
        present = [score for score in one.scores.values() if score is not None]
        means += [math.fsum(present) / len(present)] if present else []
    return max(means, default=-math.inf)
