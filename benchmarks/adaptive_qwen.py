"""Adaptive compute on recorded reasoning models: chosen on one exam, applied to the next.

    AGENTTTS_DATA=… python benchmarks/adaptive_qwen.py [--spec pipeline.yaml]

The spec names a bank with many branches of every question and model (here Qwen3 0.6B to 8B on AIME 2024, the
search split, and AIME 2025, the test split; 128 branches each). A score is the expected one: the mean over
seeded resamplings of the branches. Two comparisons, both with everything chosen on the search split:

1. Accuracy at equal realised cost: the policy chosen within a budget against fixed allocations at the cost
   that the policy has on the test split. Where no fixed allocation has that cost, queries are split between
   the two neighbours on the search split's convex hull.
2. Cost at equal accuracy: for each fixed allocation of at least 4 samples that no cheaper one beats on the
   search split, the cheapest policy that scores as well there, and what both cost and score on the test
   split.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path as File

import numpy as np

from agenttts.policies.cascades import scored
from agenttts.policies.choices import Choices, replay_policy
from agenttts.policies.confidence import confidences
from agenttts.policies.family import Family, family, fixed_rungs
from agenttts.policies.fits import Fit, Fitter, Limits
from agenttts.policies.nodes import Bools, Floats, Ints
from agenttts.policies.paths import Path, Tables
from agenttts.policies.rates import Rates
from agenttts.stats import Difference, paired_difference
from datastore import Store
from pipelines.dataset.splits import load_examples
from pipelines.policy import Policy, Rung
from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec

BUDGETS = (2, 4, 8, 16, 32, 64, 128, 256)
RESAMPLINGS = range(1, 33)


@dataclass(frozen=True, kw_only=True)
class Exam:
    """The paths of all rungs on a split, and every sketch's score and cost by question."""

    paths: dict[Rung, Path]
    scores: Floats
    costs: Floats


async def read(
    spec: PipelineSpec, store: Store, split: str, of: Family | None, fit: Fit | None
) -> tuple[Family, Exam, Fit]:
    """Read a split; the family and the confidences come from the search split, where they are None."""
    examples = load_examples(spec, split)  # type: ignore[arg-type]
    tables = Tables(spec, store, examples, rates=Rates.units(spec), orders=RESAMPLINGS)
    await tables.add(fixed_rungs(spec))
    of = of or family(spec, tables.weighable())
    await tables.add(of.rungs)
    paths = {rung: tables.path(rung) for rung in of.rungs}
    if fit is None:
        fit = Fitter(of, paths, tables.rates.per_query).fit(np.arange(len(examples)))
        return of, Exam(paths=paths, scores=fit.scored.scores, costs=fit.scored.costs), fit
    sure = {rung: confidences(model, paths[rung].features) for rung, model in fit.confidences.items()}
    result = scored(of.sketches, paths, sure, tables.rates.per_query)
    return of, Exam(paths=paths, scores=result.scores, costs=result.costs), fit


def hull(costs: Floats, scores: Floats, among: Ints) -> list[int]:
    """Return the sketches on the upper convex hull of score against cost, from the cheapest on."""
    vertices: list[int] = []
    for i in among[np.argsort(costs[among], kind="stable")].tolist():
        if vertices and scores[i] <= scores[vertices[-1]] + 1e-9:
            continue
        while len(vertices) > 1:
            a, b = vertices[-2:]
            if (scores[b] - scores[a]) * (costs[i] - costs[a]) > (scores[i] - scores[a]) * (
                costs[b] - costs[a]
            ):
                break
            vertices.pop()
        vertices.append(i)
    return vertices


def at_cost(exam: Exam, vertices: list[int], cost: float) -> Floats:
    """Return the scores by question of the mix of two neighbours on a hull that costs so much here."""
    costs = exam.costs[vertices].mean(axis=1)
    if cost >= costs.max():
        return np.asarray(exam.scores[vertices[int(np.argmax(costs))]])
    if cost <= costs[0]:
        return np.asarray(exam.scores[vertices[0]] * cost / costs[0])
    k = int(np.argmax(costs > cost))
    share = (cost - costs[k - 1]) / (costs[k] - costs[k - 1])
    return np.asarray((1 - share) * exam.scores[vertices[k - 1]] + share * exam.scores[vertices[k]])


def difference(ours: Floats, theirs: Floats) -> Difference:
    """Return ours minus theirs, paired by question."""
    first, second = ({str(i): float(s) for i, s in enumerate(of)} for of in (ours, theirs))
    return paired_difference(first, second, np.random.default_rng(0))


def at_equal_cost(of: Family, search: Exam, test: Exam, rates: Rates) -> None:
    """Print accuracy at equal realised cost."""
    fixed = np.flatnonzero(of.up_to("fixed"))
    vertices = hull(search.costs.mean(axis=1), search.scores.mean(axis=1), fixed)
    choices = Choices(of, search.paths, rates)
    for budget in BUDGETS:
        for kind in (*of.kinds[1:], None):
            choice = choices.best(Limits(mean=budget), kind=kind)
            replayed = replay_policy(choice.policy, [test.paths[rung] for rung in choice.policy.rungs])
            scores = replayed.scores.mean(axis=0)
            cost = float(replayed.costs.mean() + rates.per_query)
            gain = difference(scores, at_cost(test, vertices, cost))
            print(
                f"{budget:4d} {kind or 'chosen':9s} search {choice.search_score:.3f} at "
                f"{choice.cost.mean:.1f}, cross-fitted {choice.cross_fitted_score.mean:.3f}; test "
                f"{scores.mean():.3f} at {cost:.1f}, to fixed at that cost {gain.mean:+.3f} "
                f"[{gain.low:+.3f}, {gain.high:+.3f}] {choice.policy}",
                flush=True,
            )


def at_equal_accuracy(of: Family, search: Exam, test: Exam) -> None:
    """Print the cost of the cheapest policy that is as good as each fixed allocation."""
    score, cost = search.scores.mean(axis=1), search.costs.mean(axis=1)
    fixed = np.flatnonzero(of.up_to("fixed"))
    ratios: dict[str, list[float]] = {}
    for number in fixed:
        (rung,) = of.sketches[number].rungs
        beaten = bool((score[fixed[cost[fixed] < cost[number] - 1e-9]] >= score[number]).any())
        if beaten or min(plan.choice.n_samples for plan in rung.values()) < 4:
            continue
        for kind in of.kinds[1:]:
            as_good: Bools = of.up_to(kind) & (score >= score[number] - 1e-9)
            best = np.flatnonzero(as_good)[np.argmin(cost[as_good])]
            ratio = float(test.costs[best].mean() / test.costs[number].mean())
            gain = difference(test.scores[best], test.scores[number])
            ratios.setdefault(kind, []).append(ratio)
            policy = Policy(rungs=of.sketches[best].rungs[:1])
            print(
                f"{rung} ({score[number]:.3f}; test {test.scores[number].mean():.3f} at "
                f"{test.costs[number].mean():.1f}) {kind}: test {test.scores[best].mean():.3f}, "
                f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], {ratio:.2f} of the cost; {policy}"
                + (" → …" if of.sketches[best].thresholds else ""),
                flush=True,
            )
    for kind, of_kind in ratios.items():
        print(f"{kind}: {np.mean(of_kind):.2f} of the cost on average, at most {max(of_kind):.2f}")


async def main() -> None:
    """Run the command line."""
    data = File(os.environ.get("AGENTTTS_DATA", "."))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=File, default=data / "real_llm" / "qwen3_aime" / "pipeline.yaml")
    spec = load_spec(parser.parse_args().spec)
    with tempfile.TemporaryDirectory() as folder, Store.open(File(folder) / "exam.duckdb") as store:
        store.attach_bank(spec.root / str(spec.bank))
        of, search, fit = await read(spec, store, "search", None, None)
        _, test, _ = await read(spec, store, "test", of, fit)
    print(f"{len(of.sketches)} policies of the kinds {', '.join(of.kinds)}", flush=True)
    at_equal_cost(of, search, test, Rates.units(spec))
    at_equal_accuracy(of, search, test)


if __name__ == "__main__":
    asyncio.run(main())
