"""Whether what a search claims of its winner holds, on simulated landscapes whose truth is known.

    python benchmarks/promises.py --seeds 6 --share 0.25

For each kind of landscape and each seed the default proposer searches twice: for quality, and for the least
cost at nine tenths of the best true score. It may take the cells of 20 trials on all search examples, those
on fresh examples included. Printed by kind, with 95 % intervals over the searches: the bias of the winner's
score and of its lead over the best default, how often their intervals hold the truth, how often the required
score is reached in truth (of all searches, and of those that claim it), how often a recommended allocation is
worse than the winner by more than the margin, and the regret. `--share 0` is a search without fresh examples;
`plain` is what the winner's uncorrected mean and interval would be worth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from agenttts.compare.landscapes import FAMILIES, Landscape, draw
from agenttts.compare.simulation import SimulatedSearch
from agenttts.proposers.base import finalists
from agenttts.proposers.registry import classical_proposer
from agenttts.replay.arrays import Outcomes
from agenttts.results.choosing import Choice, Rule, choose
from agenttts.results.fresh import SPLIT
from agenttts.results.trials import TrialResult, mean
from agenttts.search.fresh import next_purchase
from agenttts.space.objective import BEST, Goal
from agenttts.stats import mean_interval, normal_interval, paired_difference
from pipelines.allocation import Allocation
from pipelines.examples import Example

TRIALS = 20
REQUIRED = 0.9  # of the best true score
_RESERVED = 4  # rounds of all fresh examples that the trials leave cells for


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one search claimed, and what was true.

    Attributes:
        kind: The kind of the landscape.
        seed: Its seed.
        objective: What was sought.
        share: The share of the examples that was kept out.
        regret: The best true score in the space minus the winner's.
        score_error: The winner's claimed score minus its true one.
        score_held: Whether the interval of that score holds the true one.
        width: The width of that interval.
        lead_error: The claimed difference from the best default minus the true one.
        lead_held: Whether the interval of the difference holds the true one.
        plain_error: The winner's plain mean on the search's examples minus its true score.
        plain_held: Whether the plain bootstrap interval holds the true score.
        plain_lead_held: The same of the difference from the best default.
        shown: Whether the required score was claimed; None where none was required.
        reached: Whether the winner has it in truth; None where none was required.
        recommended: Whether a cheaper allocation was recommended.
        worse: Whether that is worse than the winner by more than the margin in truth.
        saved: The share of the winner's cost that the recommended one saves; 0 without one.
        n_fresh: Cells bought on fresh examples, in rounds of all of them.
    """

    kind: str
    seed: int
    objective: str
    share: float
    regret: float
    score_error: float
    score_held: bool
    width: float
    lead_error: float
    lead_held: bool
    plain_error: float
    plain_held: bool
    plain_lead_held: bool
    shown: bool | None
    reached: bool | None
    recommended: bool
    worse: bool
    saved: float
    n_fresh: float


def first(outcomes: Outcomes, count: int) -> Outcomes:
    """Return the outcomes on the first examples."""
    n_all = len(outcomes.example_ids)
    stages = []
    for stage in outcomes.stages:
        n_nodes = count * (len(stage.leads_to) // n_all)
        stages.append(replace(stage, leads_to=stage.leads_to[:n_nodes], flops=stage.flops[:n_nodes]))
    n_nodes = count * (len(outcomes.scores) // n_all)
    return replace(
        outcomes,
        example_ids=outcomes.example_ids[:count],
        stages=tuple(stages),
        scores=outcomes.scores[:n_nodes],
    )


def searched(land: Landscape, seed: int, goal: Goal, share: float) -> list[TrialResult]:
    """Run the default proposer on the examples that are not kept out, and score what the bank answers."""
    n_all = len(land.outcomes.example_ids)
    n_fresh = math.floor(share * n_all)
    part = replace(land, outcomes=first(land.outcomes, n_all - n_fresh))
    proposer = classical_proposer("solve")
    search = SimulatedSearch(part, proposer, seed, seeded=True)
    search.settings = replace(search.settings, objective=goal.objective, min_quality=goal.min_quality)
    n_trials = (TRIALS * n_all - _RESERVED * n_fresh) // (n_all - n_fresh)
    asyncio.run(search.run(trials=n_trials))
    search.complete()
    trials = list(search.trials)
    complete = {t.allocation for t in trials if t.status == "complete"}
    for allocation in finalists(proposer, search.view(search.step, 0)):
        if allocation in complete:
            continue
        scores = part.outcomes.walk([allocation]).scores[0]
        trials.append(_trial(trials[0], allocation, land, len(trials), part.outcomes.example_ids, scores))
    return trials


def _trial(
    like: TrialResult,
    allocation: Allocation,
    land: Landscape,
    number: int,
    ids: Sequence[str],
    scores: Sequence[float] | np.ndarray,
    split: str = "search",
) -> TrialResult:
    known = {i: None if np.isnan(s) else float(s) for i, s in zip(ids, scores, strict=True)}
    present = [s for s in known.values() if s is not None]
    return replace(
        like,
        status="complete",
        number=number,
        allocation=allocation,
        purpose="confirm",
        split=split,
        scores=known,
        score=mean(present),
        n_scored=len(present),
        budget_units=land.space.units(allocation),
    )


def concluded(
    land: Landscape, trials: Sequence[TrialResult], rule: Rule, share: float
) -> tuple[Choice, list[TrialResult]]:
    """Buy fresh examples as the search does, as far as the cells of the search reach."""
    ids = land.outcomes.example_ids
    start = len(ids) - math.floor(share * len(ids))
    fresh = [Example(id=i, fields={}) for i in ids[start:]]
    left = TRIALS * len(ids) - sum(t.n_scored for t in trials if t.purpose != "confirm")
    extra = [t for t in trials if t.purpose == "confirm"]
    of_search = [t for t in trials if t.purpose != "confirm"]
    choice = choose(of_search, extra, rule)
    while (purchase := next_purchase(choice, fresh, extra)) is not None and left > 0:
        at = ids.index(purchase.examples[0].id)
        part = slice(at, at + len(purchase.examples))
        allocation = purchase.trial.allocation
        scores = land.outcomes.walk([allocation], examples=part).scores[0]
        number = len(of_search) + len(extra)
        extra.append(_trial(trials[0], allocation, land, number, ids[part], scores, SPLIT))
        left -= len(purchase.examples)
        choice = choose(of_search, extra, rule)
    return choice, extra


def row_of(
    land: Landscape, kind: str, seed: int, trials: Sequence[TrialResult], goal: Goal, share: float
) -> Row:
    """Conclude a search, and compare what it claims with the truth."""
    rule = Rule(measure=land.space.measure, budget_units=land.space.budget_units, goal=goal, seed=seed)
    choice, extra = concluded(land, trials, rule, share)
    best, base, recommended = choice.best, choice.baseline, choice.recommended
    claim, lead = choice.claim(best), choice.difference
    assert best is not None and base is not None and claim is not None and lead is not None
    allocations = [
        best.allocation,
        base.allocation,
        best.allocation if recommended is None else recommended.trial.allocation,
    ]
    true, of_base, of_recommended = (float(score) for score in land.true_scores(allocations))
    rng = np.random.default_rng(seed)
    plain = mean_interval(best.scores.values(), rng)
    plain_lead = paired_difference(best.scores, base.scores, rng)
    assert plain is not None
    bought = sum(t.n_scored for t in extra if t.split == SPLIT)
    required = goal.min_quality
    return Row(
        kind=kind,
        seed=seed,
        objective=goal.objective,
        share=share,
        regret=land.best - true,
        score_error=claim.mean - true,
        score_held=claim.holds(true),
        width=claim.high - claim.low,
        lead_error=lead.mean - (true - of_base),
        lead_held=lead.holds(true - of_base),
        plain_error=plain.mean - true,
        plain_held=plain.holds(true),
        plain_lead_held=best is base or plain_lead.holds(true - of_base),
        shown=None if required is None else (choice.bound or 0.0) >= required,
        reached=None if required is None else true >= required,
        recommended=recommended is not None,
        worse=of_recommended < true - rule.margin,
        saved=0.0 if recommended is None else 1 - recommended.trial.budget_units / best.budget_units,
        n_fresh=bought / max(1, math.floor(share * len(land.outcomes.example_ids))),
    )


def rows(kinds: Sequence[str], seeds: Sequence[int], share: float) -> Iterator[Row]:
    """Search every landscape for quality and for the least cost."""
    for seed in seeds:
        for kind in kinds:
            land = draw(kind, seed)
            for goal in (BEST, Goal("cost", round(REQUIRED * land.best, 3))):
                yield row_of(land, kind, seed, searched(land, seed, goal, share), goal, share)


def _share(values: Sequence[bool]) -> str:
    """A share with its Wilson interval."""
    if not values:
        return "–"
    n, p, z = len(values), float(np.mean(values)), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return f"{p:.2f} [{max(0.0, middle - half):.2f}, {min(1.0, middle + half):.2f}]"


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "–"
    interval = normal_interval(values)
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def summary(name: str, rows: Sequence[Row]) -> Iterator[str]:
    """Write the figures of several searches, one a line."""
    quality = [r for r in rows if r.objective == "quality"]
    cost = [r for r in rows if r.objective == "cost"]
    figures = {
        "score: bias": _mean([r.score_error for r in quality]),
        "score: held": _share([r.score_held for r in quality]),
        "score: width": _mean([r.width for r in quality]),
        "plain score: bias": _mean([r.plain_error for r in quality]),
        "plain score: held": _share([r.plain_held for r in quality]),
        "lead: bias": _mean([r.lead_error for r in quality]),
        "lead: held": _share([r.lead_held for r in quality]),
        "plain lead: held": _share([r.plain_lead_held for r in quality]),
        "regret": _mean([r.regret for r in quality]),
        "rounds of fresh examples": _mean([r.n_fresh for r in quality]),
        "recommended": _share([r.recommended for r in quality]),
        "recommended wrongly": _share([r.worse for r in quality]),
        "cost saved": _mean([r.saved for r in quality]),
        "required: reached": _share([bool(r.reached) for r in cost]),
        "required: shown": _share([bool(r.shown) for r in cost]),
        "required: reached where shown": _share([bool(r.reached) for r in cost if r.shown]),
        "required: score held": _share([r.score_held for r in cost]),
    }
    yield f"{name}: {len(quality)} searches for quality, {len(cost)} for the least cost"
    for what, figure in figures.items():
        if figure != "–":
            yield f"  {what:30}{figure}"


def main() -> None:
    """Search, and print the figures by kind and over all."""
    parser = argparse.ArgumentParser(description="Whether what a search claims of its winner holds.")
    parser.add_argument("--kinds", default=",".join(FAMILIES))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--out", type=Path, help="a JSONL file of the rows")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    every = list(rows(kinds, range(options.first_seed, options.first_seed + options.seeds), options.share))
    if options.out is not None:
        options.out.write_text("".join(json.dumps(asdict(row)) + "\n" for row in every))
    for kind in kinds:
        print("\n".join(summary(kind, [r for r in every if r.kind == kind])))
    print("\n".join(summary("all", every)))


if __name__ == "__main__":
    main()
