"""Policies on simulated queries whose difficulty is known: where adaptation can't help, it must not cost.

    python benchmarks/adaptive_landscapes.py --out adaptive-landscapes.json [--seeds 21] [--kind NAME …]

For each class of `agenttts.compare.difficulty`, each seed and two budgets (two and eight samples of the
largest model at every stage) a policy is chosen on 50 examples as a run chooses it, and scored on 2,000 fresh
queries. So are two fixed allocations with plain votes, the best on the same examples within the budget and
within the cost that the policy has there. Differences are paired by seed.

Measured 2026-11-26, differences to the best fixed allocation at the smaller and the larger budget: mixed
+0.060 and +0.031, silent +0.013 and +0.009, misled 0.000 and 0.000, alike +0.063 and +0.006, blind -0.002 and
+0.002, free +0.003 and 0.000.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path as File

import numpy as np

from agenttts.compare.difficulty import DIFFICULTIES, Difficulty, SimulatedQueries
from agenttts.policies.choices import Choices, replay_policy
from agenttts.policies.family import family, fixed_rungs
from agenttts.policies.fits import Limits
from agenttts.policies.paths import Tables
from agenttts.policies.rates import Rates
from agenttts.stats import Difference, paired_difference
from pipelines.policy import Policy
from pipelines.spec.pipeline import PipelineSpec

BUDGETS = (2, 8)
"""Samples of the largest model at every stage."""
N_FRESH, FIRST_SEED = 2000, 3


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the choice at one budget comes to. Scores and costs are true ones, on fresh queries.

    Attributes:
        seed: The seed.
        examples: The number of examples of the choice.
        samples: One of `BUDGETS`.
        budget: In mean units per query.
        kind: The kind that was chosen.
        policy: The policy.
        score: Its score.
        cost: Its mean cost per query.
        fixed: The score of the best fixed allocation within the budget.
        fixed_at_cost: The score of the best fixed allocation within the policy's cost on the examples.
        search: The policy's score on the examples of the choice.
        cross_fitted: Its cross-fitted score there.
    """

    seed: int
    examples: int
    samples: int
    budget: float
    kind: str
    policy: str
    score: float
    cost: float
    fixed: float
    fixed_at_cost: float
    search: float
    cross_fitted: float


def budget_units(spec: PipelineSpec, n: int) -> float:
    """Return what n samples of the largest model at every stage cost."""
    rates = Rates.units(spec)
    total = rates.per_query
    for stage in spec.stages:
        total += rates.prompt[stage.models[-1]] * (stage.prompt_tokens + n * stage.generated_tokens)
    return total


async def measure(kind: Difficulty, seed: int, *, n_examples: int, n_fresh: int) -> list[Result]:
    """Choose policies on a landscape, and score them on fresh queries.

    Args:
        kind: The class.
        seed: The seed of the landscape and of the choice.
        n_examples: The number of examples to choose on.
        n_fresh: The number of fresh queries.

    Returns:
        A result for each budget.
    """
    queries = SimulatedQueries(kind, seed, n_examples=n_examples, n_fresh=n_fresh)
    rates = Rates.units(queries.spec)
    tables = Tables(queries.spec, queries, queries.examples, rates=rates)
    await tables.add(fixed_rungs(queries.spec))
    of = family(queries.spec, tables.weighable())
    await tables.add(of.rungs)
    choices = Choices(of, {rung: tables.path(rung) for rung in of.rungs}, rates, seed=seed)
    fresh = Tables(queries.spec, queries, queries.fresh, rates=rates, orders=(0,))

    async def truth(policy: Policy) -> tuple[float, float]:
        await fresh.add(policy.rungs)
        replayed = replay_policy(policy, [fresh.path(rung) for rung in policy.rungs])
        return float(replayed.scores.mean()), float(replayed.costs.mean()) + rates.per_query

    results = []
    for n in BUDGETS:
        limits = Limits(mean=budget_units(queries.spec, n) + 1e-9)
        choice, fixed = choices.best(limits), choices.best(limits, kind="fixed")
        score, cost = await truth(choice.policy)
        assert choice.fixed is not None
        results.append(
            Result(
                seed=seed,
                examples=n_examples,
                samples=n,
                budget=limits.mean,
                kind=choice.kind,
                policy=str(choice.policy),
                score=score,
                cost=cost,
                fixed=(await truth(fixed.policy))[0],
                fixed_at_cost=(await truth(Policy.fixed(choice.fixed)))[0],
                search=choice.search_score,
                cross_fitted=choice.cross_fitted_score.mean,
            )
        )
    return results


def over_seeds(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return the mean of ours minus theirs, paired by seed."""
    first, second = ({str(i): s for i, s in enumerate(of)} for of in (ours, theirs))
    return paired_difference(first, second, np.random.default_rng(0))


def show(name: str, rows: Sequence[Result]) -> None:
    """Print the figures of a class at one number of examples and one budget."""
    scores = [row.score for row in rows]
    gains = [
        over_seeds(scores, [row.fixed for row in rows]),
        over_seeds(scores, [row.fixed_at_cost for row in rows]),
    ]
    relative = [row.cost / row.budget for row in rows]
    print(
        f"{name:6s} {rows[0].examples:3d} examples, {rows[0].samples} samples | fixed "
        f"{np.mean([row.fixed for row in rows]):.3f}, policy {np.mean(scores):.3f} | at the budget, the cost "
        + ", ".join(f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" for gain in gains)
        + f", at worst {min(row.score - row.fixed for row in rows):+.3f} | cost/budget "
        f"{np.mean(relative):.2f}, at most {max(relative):.2f} | cross-fitted - true "
        f"{np.mean([row.cross_fitted - row.score for row in rows]):+.3f}, search - true "
        f"{np.mean([row.search - row.score for row in rows]):+.3f} | "
        + ", ".join(f"{kind} {n}" for kind, n in Counter(row.kind for row in rows).items()),
        flush=True,
    )


async def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=File, required=True, help="JSON file for all results")
    parser.add_argument("--seeds", type=int, default=21)
    parser.add_argument("--examples", type=int, nargs="+", default=[50], help="to choose on")
    parser.add_argument("--kind", choices=list(DIFFICULTIES), nargs="+", default=list(DIFFICULTIES))
    arguments = parser.parse_args()
    started, every = time.monotonic(), {}
    for name, n_examples in product(arguments.kind, arguments.examples):
        results = [
            row
            for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds)
            for row in await measure(DIFFICULTIES[name], seed, n_examples=n_examples, n_fresh=N_FRESH)
        ]
        for n in BUDGETS:
            show(name, [row for row in results if row.samples == n])
        every[f"{name}, {n_examples} examples"] = [asdict(row) for row in results]
    print(f"{time.monotonic() - started:.0f} s")
    arguments.out.write_text(json.dumps(every, indent=1), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
