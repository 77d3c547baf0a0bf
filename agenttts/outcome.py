"""A run's trials → its outcome: the winner, the best default, what can't be told apart, and what it all cost.

Pure figures, from trials that are there; which trials are run is decided in `nodes` and `confirm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agenttts.budget import rounds
from agenttts.certificate import certificate
from agenttts.goal import BEST, Goal
from agenttts.retest import SPLIT, pooled
from agenttts.stats import mean_interval, paired_difference
from agenttts.streams import Stream, stream_rng
from agenttts.trial import TrialResult, merit
from datastore.store import Store
from pipelines.allocation import Allocation, StageOption
from pipelines.spec import ModelSpec, PipelineSpec, StageSpec


def ranked(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Trials with a score on the search split, best first; of equal scores the cheaper, then the earlier."""
    scored = [t for t in trials if t.split == "search" and t.status == "complete" and t.score is not None]
    return sorted(scored, key=merit, reverse=True)


def latest(trials: Sequence[TrialResult], extra: Sequence[TrialResult]) -> list[TrialResult]:
    """For each allocation its last complete trial on the search split; the baseline's purpose is kept."""
    purposes = {t.allocation: t.purpose for t in trials}
    by_allocation: dict[Allocation, TrialResult] = {}
    for trial in [*trials, *extra]:
        if trial.split == "search" and trial.status == "complete" and trial.score is not None:
            by_allocation[trial.allocation] = replace(trial, purpose=purposes.get(trial.allocation, "search"))
    return list(by_allocation.values())


def winner_of(
    trials: Sequence[TrialResult], extra: Sequence[TrialResult], spec: PipelineSpec, goal: Goal = BEST
) -> TrialResult | None:
    """The allocation that is claimed: the best mean on the search split, the re-test's examples included.

    With a least quality, of those whose mean reaches it the one that costs least, where any does.
    """
    searched = latest(trials, extra)
    own = {t.allocation: t for t in searched}
    found = ranked(pooled(searched, extra))
    if goal.min_quality is not None:
        enough = [t for t in found if (t.score or 0.0) >= goal.min_quality]
        found = (
            sorted(enough, key=lambda t: (goal.burden(spec, t.allocation), t.budget_units, -(t.score or 0.0)))
            or found
        )
    return own[found[0].allocation] if found else None


def baseline_of(trials: Sequence[TrialResult], extra: Sequence[TrialResult]) -> TrialResult | None:
    """The best of the defaults; None when none of them has a score."""
    found = [t for t in latest(trials, extra) if t.purpose == "baseline"]
    return next(iter(ranked(found)), None)


def frontier(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Trials that no other beats in score for as few units (the Pareto front), cheapest first."""
    front: list[TrialResult] = []
    for trial in sorted(latest(trials, ()), key=lambda t: (t.budget_units, -(t.score or 0.0))):
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


def outcome(
    run_id: str,
    trials: Sequence[TrialResult],
    spec: PipelineSpec,
    *,
    budget_units: float,
    cost: Mapping[str, Any],
    seed: int,
    ended: str | None,
    goal: Goal = BEST,
    further: Mapping[Allocation, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The result as `search --json` prints it. Without test trials the test figures are None."""
    searched = [t for t in trials if t.purpose in ("search", "baseline")]
    extra = [t for t in trials if t.purpose not in ("search", "baseline")]
    tests = {t.allocation: t for t in extra if t.purpose == "test" and t.score is not None}
    best, baseline = winner_of(searched, extra, spec, goal), baseline_of(searched, extra)
    front = frontier([*searched, *extra])
    found: dict[str, Any] = {
        "run_id": run_id,
        "objective": goal.objective,
        "min_quality": goal.min_quality,
        "planned_seconds": goal.burden(spec, best.allocation)
        if best and goal.objective == "latency"
        else None,
        "best": _finalist(best, tests, seed, further or {}),
        "baseline": _finalist(baseline, tests, seed, further or {}),
        "difference": None,
        "difference_ci": None,
        "retest": _retest(latest(searched, extra), extra),
        "equivalent": _equivalent(best, latest(searched, extra), seed),
        "frontier": [_on_front(t) for t in front],
        "hypervolume": hypervolume(front, budget_units),
        "trials": [_trial(t) for t in searched],
        "confirmation": [_trial(t) for t in extra],
        "cost": dict(cost),
        "stopped_because": ended,
        "n_search": max((t.n_scored + t.n_missing for t in searched), default=0),
        "n_test": max((t.n_scored for t in tests.values()), default=0),
    }
    if best is not None and baseline is not None and {best.allocation, baseline.allocation} <= set(tests):
        first, second = tests[best.allocation], tests[baseline.allocation]
        difference = paired_difference(first.scores, second.scores, stream_rng(seed, Stream.TEST_DIFFERENCE))
        same = best.allocation == baseline.allocation
        found["difference"] = difference.mean
        found["difference_ci"] = [0.0, 0.0] if same else [difference.low, difference.high]
        found["n_test"] = difference.n
    found["certificate"] = certificate(found)
    return found


def cost_of(
    store: Store, run_id: str, spec: PipelineSpec, trials: Sequence[TrialResult]
) -> dict[str, float | int | None]:
    """What the run paid for. The agent's tokens come on top of the pipeline's, its calls are not among them.

    samples_reused: samples that trials took from the bank, each time they took them. usd: None without
    prices. flops_without_bank: of the same trials, each drawing its own samples. flops_spared_by_stops: of
    the rest of the trials that a race pruned. flops_spared_by_shared_prompts: had each sample read its prompt
    anew.
    """
    calls = drawn = prompt_tokens = generated_tokens = 0
    flops, usd, priced = 0.0, 0.0, True
    keys = {spec.model_key(name): model for name, model in spec.models.items()}
    for key, model in keys.items():
        paid = store.run_cost(run_id, models=[key])
        calls, drawn = calls + paid.calls, drawn + paid.samples_drawn
        prompt_tokens += paid.prompt_tokens
        generated_tokens += paid.generated_tokens
        flops += 2.0 * model.active_params * (paid.prompt_tokens + paid.generated_tokens)
        priced = priced and model.price is not None
        if model.price is not None:
            usd += paid.prompt_tokens * model.price.prompt_usd_per_million / 1e6
            usd += paid.generated_tokens * model.price.generated_usd_per_million / 1e6
    total = store.run_cost(run_id)
    n_search = max((t.n_scored + t.n_missing for t in trials if t.split == "search"), default=0)
    return {
        "calls": calls,
        "samples_drawn": drawn,
        "samples_reused": sum(t.samples_reused for t in trials),
        "prompt_tokens": prompt_tokens,
        "generated_tokens": generated_tokens,
        "flops": flops,
        "agent_tokens": total.prompt_tokens + total.generated_tokens - prompt_tokens - generated_tokens,
        "agent_calls": total.calls - calls,
        "flops_without_bank": sum((t.flops_per_query or 0.0) * t.n_scored for t in trials),
        "flops_spared_by_stops": sum(
            (t.flops_per_query or 0.0) * (n_search - t.n_scored - t.n_missing)
            for t in trials
            if t.status == "pruned"
        ),
        "flops_spared_by_shared_prompts": _read_again(store, run_id, spec, keys),
        "usd": usd if priced else None,
    }


def _read_again(store: Store, run_id: str, spec: PipelineSpec, models: Mapping[str, ModelSpec]) -> float:
    """FLOPs of reading every prompt once more for each sample after the first; a refined one shares none.

    What a further model read (a fuser, a verifier) is in the tokens too: such results are left out.
    """
    sharing = [f"{s.name} {o}" for s in spec.stages if rounds(s, 2) == 1 for o in s.options if _alone(s, o)]
    rows = store.sql(
        "SELECT model_key, sum((n_samples - 1) * stage_results.prompt_tokens)::DOUBLE AS tokens "
        "FROM stage_results JOIN trials USING (trial_id) "
        "WHERE run_id = ? AND list_contains(?, concat(stage, ' ', "
        "json_extract_string(allocation, concat('$.', stage, '.model')), "
        "coalesce('@' || json_extract_string(allocation, concat('$.', stage, '.verifier')), ''))) "
        "GROUP BY model_key",
        [run_id, sharing],
    )
    told = zip(rows["model_key"], rows["tokens"], strict=True)
    return sum(2.0 * models[key].active_params * float(tokens) for key, tokens in told if key in models)


def _alone(stage: StageSpec, option: StageOption) -> bool:
    return stage.aggregator_for(option).own_model is None


def _finalist(
    trial: TrialResult | None,
    tests: Mapping[Allocation, TrialResult],
    seed: int,
    further: Mapping[Allocation, Mapping[str, Any]],
) -> dict[str, Any] | None:
    if trial is None:
        return None
    test = tests.get(trial.allocation)
    searched = mean_interval(trial.scores.values(), stream_rng(seed, Stream.SEARCH_SCORE))
    tested = (
        None if test is None else mean_interval(test.scores.values(), stream_rng(seed, Stream.TEST_SCORE))
    )
    return {
        "allocation": trial.allocation.to_dict(),
        "budget_units": trial.budget_units,
        "search_score": trial.score,
        "search_ci": None if searched is None else [searched.low, searched.high],
        "test_score": None if test is None else test.score,
        "test_ci": None if tested is None else [tested.low, tested.high],
        "test_metrics": dict(further.get(trial.allocation, {})),
        "trial": trial.number,
    }


def _equivalent(best: TrialResult | None, trials: Sequence[TrialResult], seed: int) -> list[dict[str, Any]]:
    """The winner and all that can't be told apart from it on the search split, cheapest first."""
    if best is None:
        return []
    found: list[dict[str, Any]] = []
    for trial in trials:
        difference = paired_difference(
            trial.scores, best.scores, stream_rng(seed, Stream.EQUIVALENCE, trial.number)
        )
        same = trial.allocation == best.allocation
        if same or difference.low <= 0 <= difference.high:
            found.append(
                {
                    "allocation": trial.allocation.to_dict(),
                    "budget_units": trial.budget_units,
                    "search_score": trial.score,
                    "difference": 0.0 if same else difference.mean,
                    "difference_ci": [0.0, 0.0] if same else [difference.low, difference.high],
                    "trial": trial.number,
                }
            )
    found.sort(key=lambda entry: (entry["budget_units"], -(entry["search_score"] or 0.0), entry["trial"]))
    return [{**entry, "cheapest": i == 0} for i, entry in enumerate(found)]


def _retest(searched: Sequence[TrialResult], extra: Sequence[TrialResult]) -> dict[str, Any] | None:
    """What the examples held back said; None without a re-test."""
    again = {t.allocation: t for t in extra if t.split == SPLIT and t.score is not None}
    if not again:
        return None
    first = {t.allocation: t for t in searched}
    return {
        "n": max(t.n_scored for t in again.values()),
        "rivals": [
            {
                "allocation": t.allocation.to_dict(),
                "search_score": first[t.allocation].score,
                "retest_score": t.score,
                "trial": t.number,
            }
            for t in again.values()
        ],
    }


def _on_front(trial: TrialResult) -> dict[str, Any]:
    return {
        "allocation": trial.allocation.to_dict(),
        "budget_units": trial.budget_units,
        "search_score": trial.score,
        "trial": trial.number,
    }


def _trial(trial: TrialResult) -> dict[str, Any]:
    return {
        "number": trial.number,
        "purpose": trial.purpose,
        "allocation": trial.allocation.to_dict(),
        "status": trial.status,
        "score": trial.score,
        "n_scored": trial.n_scored,
        "n_missing": trial.n_missing,
        "budget_units": trial.budget_units,
        "proposer": trial.proposer,
        "reason": trial.reason,
        "samples_drawn": trial.samples_drawn,
        "samples_reused": trial.samples_reused,
        "error": trial.error,
    }
