"""From the trials of a run to its outcome: winner, best default and equivalents, with their intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agenttts.results.adaptive import AdaptivePolicy
from agenttts.results.certificate import certificate
from agenttts.results.choosing import Choice, Rule, choose
from agenttts.results.cost import SearchCost
from agenttts.results.fresh import SPLIT
from agenttts.results.health import SampleHealth
from agenttts.results.outcome import (
    Equivalent,
    Finalist,
    FreshExamples,
    MetricSummary,
    Outcome,
    Recommended,
    Requirement,
)
from agenttts.results.ranking import by_phase, frontier, hypervolume, latest
from agenttts.results.trials import TrialResult, trial_id
from agenttts.settings import MARGIN
from agenttts.space.measure import Measure
from agenttts.space.objective import BEST, Goal
from agenttts.stats import Stream, mean_interval, paired_difference, stream_rng
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.errors import CustomCodeFailed
from pipelines.examples import Example
from pipelines.servers.wire import Negotiated
from pipelines.spec.pipeline import PipelineSpec
from pipelines.stages import metrics

Summaries = Mapping[str, MetricSummary]


def conclude(
    run_id: str,
    trials: Sequence[TrialResult],
    measure: Measure,
    *,
    budget_units: float,
    cost: SearchCost,
    seed: int,
    ended: str | None,
    goal: Goal = BEST,
    margin: float = MARGIN,
    n_test_split: int | None = None,
    test_metrics: Mapping[Allocation, Summaries] | None = None,
    health: Sequence[SampleHealth] = (),
    negotiated: Sequence[Negotiated] = (),
    adaptive: AdaptivePolicy | None = None,
) -> Outcome:
    """Compute the outcome of a run, finished or not.

    Args:
        run_id: The run.
        trials: All of its trials, those on the test split included; without these the test figures are None.
        measure: The measure of the budget of the run's pipeline.
        budget_units: The most that an allocation may cost per query, in that measure.
        cost: What the run paid.
        seed: The run's seed, which the bootstraps draw from.
        ended: Why the search went no further; None when that is not known.
        goal: What was sought.
        margin: By how much a recommended allocation may be worse than the winner.
        n_test_split: The number of all examples of the test split; None when it is not known.
        test_metrics: Further metrics of the allocations that were scored on the test split; None without any.
        health: Shares of empty, cut, unparsed and equal samples, by stage and model.
        negotiated: What was found out about the servers.
        adaptive: The policy that the run chose; None without one.
    """
    searched, extra = by_phase(trials)
    candidates = latest(searched, extra)
    tests = {t.allocation: t for t in extra if t.purpose == "test" and t.score is not None}
    rule = Rule(measure=measure, budget_units=budget_units, goal=goal, margin=margin, seed=seed)
    choice = choose(searched, extra, rule)
    best, baseline, in_search = choice.best, choice.baseline, choice.difference
    front = frontier(searched, extra)
    difference, difference_ci = None, None
    n_test = max((t.n_scored for t in tests.values()), default=0)
    if best is not None and baseline is not None and {best.allocation, baseline.allocation} <= set(tests):
        first, second = tests[best.allocation], tests[baseline.allocation]
        paired = paired_difference(first.scores, second.scores, stream_rng(seed, Stream.TEST_DIFFERENCE))
        same = best.allocation == baseline.allocation
        difference, n_test = paired.mean, paired.n
        difference_ci = (0.0, 0.0) if same else (paired.low, paired.high)
    outcome = Outcome(
        run_id=run_id,
        measure=measure.name,
        objective=goal.objective,
        min_quality=goal.min_quality,
        planned_seconds=goal.burden(measure, best.allocation)
        if best and goal.objective == "latency"
        else None,
        best=_finalist(best, choice, tests, test_metrics or {}),
        baseline=_finalist(baseline, choice, tests, test_metrics or {}),
        difference=difference,
        difference_ci=difference_ci,
        search_difference=None if in_search is None else in_search.mean,
        search_difference_ci=None if in_search is None else (in_search.low, in_search.high),
        fresh=_fresh(extra),
        requirement=_requirement(choice, tests),
        recommended=_recommended(choice, tests),
        equivalent=_equivalent(best, candidates, seed),
        frontier=tuple(front),
        hypervolume=hypervolume(front, budget_units),
        trials=tuple(searched),
        confirmation=tuple(extra),
        cost=cost,
        stopped_because=ended,
        n_search=max((t.n_scored + t.n_missing for t in searched), default=0),
        n_test=n_test,
        n_test_split=n_test_split,
        budget_units=budget_units,
        health=tuple(health),
        negotiated=tuple(negotiated),
        adaptive=adaptive,
    )
    return replace(outcome, certificate=certificate(outcome))


def summarise_metrics(
    spec: PipelineSpec, store: Store, run_id: str, trial: TrialResult, examples: Sequence[Example], seed: int
) -> Summaries:
    """Compute the spec's further metrics from the stored outputs of a test trial.

    Args:
        spec: The pipeline.
        store: The database, open for reading.
        run_id: The run.
        trial: The test trial.
        examples: The examples of the test split.
        seed: The run's seed, which the bootstraps draw from.

    Returns:
        A summary for each metric, by name: a mean over the examples that it can score. An example without a
        gold value, or on which the metric raises, is missing. A metric that can score no example is left out.
    """
    by_id = {example.id: example for example in examples}
    outputs = {
        result.example_id: None if result.output is None else json.loads(result.output)
        for result in store.stage_results(trial_id(run_id, trial.number))
        if result.stage == spec.output_stage.name and result.status == "ok" and result.example_id in by_id
    }
    summaries: dict[str, MetricSummary] = {}
    for position, (name, metric) in enumerate(spec.metrics.items()):
        scores: list[float | None] = []
        for example_id, output in outputs.items():
            try:
                scores.append(metrics.score(metric, output, by_id[example_id]))
            except CustomCodeFailed:
                scores.append(None)
        interval = mean_interval(scores, stream_rng(seed, Stream.FURTHER_METRIC, position))
        if interval is not None:
            ci = (interval.low, interval.high)
            summaries[name] = MetricSummary(mean=interval.mean, ci=ci, n=interval.n)
    return summaries


def _finalist(
    trial: TrialResult | None,
    choice: Choice,
    tests: Mapping[Allocation, TrialResult],
    test_metrics: Mapping[Allocation, Summaries],
) -> Finalist | None:
    if trial is None or trial.score is None:
        return None
    test, measure = tests.get(trial.allocation), choice.rule.measure
    claim = choice.claim(trial)
    return Finalist(
        allocation=trial.allocation,
        budget_units=trial.budget_units,
        search_score=trial.score if claim is None else claim.mean,
        search_ci=None if claim is None else (claim.low, claim.high),
        n_search=trial.n_scored if claim is None else claim.n,
        test_score=None if test is None else test.score,
        test_ci=_test_ci(test, choice.rule.seed),
        test_metrics=test_metrics.get(trial.allocation, {}),
        search_cost=trial.realised(measure),
        test_cost=None if test is None else test.realised(measure),
        trial=trial.number,
    )


def _test_ci(test: TrialResult | None, seed: int) -> tuple[float, float] | None:
    interval = (
        None if test is None else mean_interval(test.scores.values(), stream_rng(seed, Stream.TEST_SCORE))
    )
    return None if interval is None else (interval.low, interval.high)


def _requirement(choice: Choice, tests: Mapping[Allocation, TrialResult]) -> Requirement | None:
    """Whether the required score is reached; None where none is required, or nothing has a score."""
    required, bound, best = choice.rule.goal.min_quality, choice.bound, choice.best
    if required is None or bound is None or best is None:
        return None
    test = tests.get(best.allocation)
    return Requirement(
        min_quality=required,
        bound=bound,
        shown=bound >= required,
        met=None if test is None or test.score is None else test.score >= required,
    )


def _recommended(choice: Choice, tests: Mapping[Allocation, TrialResult]) -> Recommended | None:
    chosen = choice.recommended
    if chosen is None:
        return None
    test = tests.get(chosen.trial.allocation)
    return Recommended(
        allocation=chosen.trial.allocation,
        budget_units=chosen.trial.budget_units,
        margin=choice.rule.margin,
        difference=chosen.difference,
        bound=chosen.bound,
        n=chosen.n,
        trial=chosen.trial.number,
        test_score=None if test is None else test.score,
        test_ci=_test_ci(test, choice.rule.seed),
    )


def _equivalent(
    best: TrialResult | None, candidates: Sequence[TrialResult], seed: int
) -> tuple[Equivalent, ...]:
    """The winner and all allocations that differ from it by no more than noise, cheapest first."""
    if best is None:
        return ()
    equivalents: list[Equivalent] = []
    for trial in candidates:
        paired = paired_difference(
            trial.scores, best.scores, stream_rng(seed, Stream.EQUIVALENCE, trial.number)
        )
        same = trial.allocation == best.allocation
        if same or paired.holds(0.0):
            equivalents.append(
                Equivalent(
                    allocation=trial.allocation,
                    budget_units=trial.budget_units,
                    search_score=trial.score or 0.0,
                    difference=0.0 if same else paired.mean,
                    difference_ci=(0.0, 0.0) if same else (paired.low, paired.high),
                    trial=trial.number,
                    cheapest=False,
                )
            )
    first, *others = sorted(equivalents, key=lambda e: (e.budget_units, -e.search_score, e.trial))
    return replace(first, cheapest=True), *others


def _fresh(extra: Sequence[TrialResult]) -> FreshExamples | None:
    """What was scored on fresh examples; None where nothing was."""
    bought = [t for t in extra if t.split == SPLIT and t.n_scored]
    if not bought:
        return None
    ids = {example_id for t in bought for example_id, score in t.scores.items() if score is not None}
    return FreshExamples(
        n=len(ids),
        n_trials=len({t.allocation for t in bought}),
        n_scores=sum(t.n_scored for t in bought),
    )
