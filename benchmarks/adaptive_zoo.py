"""Adaptive compute on the zoo: policies chosen on the search split, scored on the test split.

    python benchmarks/adaptive_zoo.py --out adaptive-zoo.json

For each budget in mean units per query and each of five seeds, which are orders of the recorded samples, the
best policy of each kind is chosen on the search split: fixed allocations with plain votes (what a search
finds without policies), fixed with weighted votes, allocations that stop early, and all of these with
cascades. Each is scored on the test split, once and after everything is decided; no constant of the choice
was tuned there. Scores and costs are means over the seeds; the paired intervals are over the test questions,
each question's score averaged over the seeds. Then the same with 50 search questions, other ones for each seed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path as File

import numpy as np

from agenttts.policies.choices import Choices, replay_policy
from agenttts.policies.family import Family, family, fixed_rungs
from agenttts.policies.fits import Limits
from agenttts.policies.paths import Path, Tables
from agenttts.policies.rates import Rates
from agenttts.policies.readings import Floats
from agenttts.results.adaptive import PolicyChoice
from agenttts.stats import Difference, paired_difference
from datastore import Store
from pipelines.dataset.splits import load_examples
from pipelines.policy import Rung
from pipelines.spec.files import load_spec
from pipelines.zoo import SPEC

BUDGETS = (25, 40, 60, 85, 120, 250)
ORDERS = range(5)
ROWS = ("fixed", "weighted", "stopping", "cascade", "chosen")
"""The best of a kind and all simpler ones; the last by the rule that decides whether more than fixed pays."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the choices of one kind at one budget come to, on average over the seeds.

    Attributes:
        budget: Mean units per query that the choices were held to on the search split.
        kind: One of `ROWS`.
        search: Score on the examples of the choice.
        cross_fitted: Cross-fitted score there.
        test: Score on the test split.
        units: Mean realised units on the test split.
        difference: Test score minus that of the best fixed vote at the same budget, paired.
        policies: What each seed chose.
    """

    budget: float
    kind: str
    search: float
    cross_fitted: float
    test: float
    units: float
    difference: Difference
    policies: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Split:
    """The tables of a split, and the paths of rungs in all orders."""

    tables: Tables
    paths: dict[Rung, Path]

    async def add(self, rungs: Iterable[Rung]) -> None:
        """Read rungs that were not read before."""
        new = [rung for rung in rungs if rung not in self.paths]
        if new:
            await self.tables.add(new)
            self.paths.update((rung, self.tables.path(rung)) for rung in new)

    def in_orders(self, rows: Sequence[int]) -> dict[Rung, Path]:
        """Return the paths in some orders."""
        return {rung: path.in_orders(rows) for rung, path in self.paths.items()}


async def table(search: Split, test: Split, of: Family, n_search: int | None) -> list[Row]:
    """Choose and score; `n_search` is how many search examples each seed draws, None for all."""
    made: dict[tuple[int, str], list[tuple[PolicyChoice, Floats, Floats]]] = {}
    rates = search.tables.rates
    for seed in ORDERS:
        rows = [(seed + k) % len(ORDERS) for k in range(3)]
        on = np.arange(len(search.tables.examples))
        if n_search is not None:
            on = np.sort(np.random.default_rng(seed).permutation(len(on))[:n_search])
        choices = Choices(of, search.in_orders(rows), rates, on=on, seed=seed)
        for budget in BUDGETS:
            for kind in ROWS:
                choice = choices.best(Limits(mean=budget), kind=None if kind == "chosen" else kind)
                await test.add(choice.policy.rungs)
                paths = [test.paths[rung].in_orders(rows) for rung in choice.policy.rungs]
                replayed = replay_policy(choice.policy, paths)
                costs = replayed.costs.mean(axis=0) + rates.per_query
                made.setdefault((budget, kind), []).append((choice, replayed.scores.mean(axis=0), costs))
    return [_row(budget, kind, made) for budget in BUDGETS for kind in ROWS]


def _row(
    budget: int, kind: str, made: Mapping[tuple[int, str], list[tuple[PolicyChoice, Floats, Floats]]]
) -> Row:
    choices = [choice for choice, _, _ in made[budget, kind]]
    scores = np.mean([score for _, score, _ in made[budget, kind]], axis=0)
    fixed = np.mean([score for _, score, _ in made[budget, "fixed"]], axis=0)
    ours, theirs = ({str(i): float(s) for i, s in enumerate(of)} for of in (scores, fixed))
    return Row(
        budget=budget,
        kind=kind,
        search=float(np.mean([choice.search_score for choice in choices])),
        cross_fitted=float(np.mean([choice.cross_fitted_score.mean for choice in choices])),
        test=float(scores.mean()),
        units=float(np.mean([costs for _, _, costs in made[budget, kind]])),
        difference=paired_difference(ours, theirs, np.random.default_rng(0)),
        policies=tuple(str(choice.policy) for choice in choices),
    )


async def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=File, required=True, help="JSON file for all figures")
    parser.add_argument("--spec", type=File, default=SPEC, help="another pipeline with a recorded bank")
    arguments = parser.parse_args()
    spec, started = load_spec(arguments.spec), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Store.open(File(folder) / "zoo.duckdb") as store:
        store.attach_bank(spec.root / str(spec.bank))
        splits = []
        for name in ("search", "test"):
            examples = load_examples(spec, name)
            tables = Tables(spec, store, examples, rates=Rates.units(spec), orders=ORDERS)
            splits.append(Split(tables=tables, paths={}))
        search, test = splits
        await search.add(fixed_rungs(spec))
        policies = family(spec, search.tables.weighable())
        await search.add(policies.rungs)
        print(f"{len(policies.sketches)} policies read after {time.monotonic() - started:.0f} s", flush=True)
        figures = {}
        for n_search in (None, 50):
            rows = figures[n_search or "all"] = await table(search, test, policies, n_search)
            print(f"\nsearch examples: {n_search or 'all'} ({time.monotonic() - started:.0f} s)")
            for row in rows:
                low, high = row.difference.low, row.difference.high
                print(
                    f"{row.budget:4.0f} {row.kind:9s} search {row.search:.3f} cross-fitted "
                    f"{row.cross_fitted:.3f} test {row.test:.3f} at {row.units:5.1f} units, to the best "
                    f"fixed vote {row.difference.mean:+.3f} [{low:+.3f}, {high:+.3f}]",
                    flush=True,
                )
    data = {str(n): [asdict(row) for row in rows] for n, rows in figures.items()}
    arguments.out.write_text(json.dumps(data, indent=1), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
