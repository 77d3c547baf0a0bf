"""Adaptive compute on the zoo: policies chosen on the search split, scored on the test split.

    python benchmarks/adaptive_zoo.py --out adaptive-zoo.json

For each budget in mean units per query and each of five seeds, which are orders of the recorded samples, the
best policy of each kind is chosen on the search split: fixed allocations with plain votes (what a search
finds without policies), fixed with weighted votes, allocations that stop early, and all of these with
cascades. Each is scored on the test split, once and after everything is decided; no constant of the choice
was tuned there. Scores and costs are means over the seeds; the paired intervals are over the test questions,
each question's score averaged over the seeds. Then the same with 50 search questions, other ones for each
seed; with --ablation instead what each part adds, by leaving it out.

Measured 2026-11-26 at 25, 40, 60, 85, 120 and 250 units: best fixed vote 0.679, 0.719, 0.735, 0.739, 0.741
and 0.744 in test; the chosen policy 0.769, 0.807, 0.843, 0.854, 0.861 and 0.863 at 25.5, 39.7, 59.4, 77.9,
93.5 and 122.0 realised units. With 50 search questions 0.838 at a budget of 85. 3,177 policies of 240
questions in three orders are read and compared in 7 seconds of one core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path as File

import numpy as np

from agenttts.policies.choices import Choices, replay_policy
from agenttts.policies.family import Family, family, fixed_rungs
from agenttts.policies.fits import Limits
from agenttts.policies.nodes import Floats
from agenttts.policies.paths import Path, Tables
from agenttts.policies.rates import Rates
from agenttts.results.adaptive import PolicyChoice
from agenttts.stats import Difference, paired_difference
from datastore import Store
from pipelines.dataset.splits import load_examples
from pipelines.policy import Rung
from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec
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
        scores: The score of each test question, averaged over the seeds.
    """

    budget: float
    kind: str
    search: float
    cross_fitted: float
    test: float
    units: float
    difference: Difference
    policies: tuple[str, ...]
    scores: tuple[float, ...]


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


async def table(
    search: Split,
    test: Split,
    of: Family,
    n_search: int | None = None,
    *,
    kinds: Sequence[str] = ROWS,
    n_orders: int = 3,
    seen: Callable[[Path], Path] = lambda path: path,
) -> list[Row]:
    """Choose and score.

    Args:
        search: The search split, to which the family was added.
        test: The test split.
        of: The family.
        n_search: How many search examples each seed draws; None for all.
        kinds: The rows of each budget, of which the first is what differences are taken to.
        n_orders: Orders of the samples that scores are averaged over in choosing.
        seen: What the confidences see of a path.
    """
    made: dict[tuple[int, str], list[tuple[PolicyChoice, Floats, Floats]]] = {}
    rates = search.tables.rates
    for seed in ORDERS:
        rows = [(seed + k) % len(ORDERS) for k in range(3)]
        on = np.arange(len(search.tables.examples))
        if n_search is not None:
            on = np.sort(np.random.default_rng(seed).permutation(len(on))[:n_search])
        paths_of = {rung: seen(path) for rung, path in search.in_orders(rows[:n_orders]).items()}
        choices = Choices(of, paths_of, rates, on=on, seed=seed)
        for budget in BUDGETS:
            for kind in kinds:
                choice = choices.best(Limits(mean=budget), kind=None if kind == "chosen" else kind)
                await test.add(choice.policy.rungs)
                paths = [seen(test.paths[rung].in_orders(rows)) for rung in choice.policy.rungs]
                replayed = replay_policy(choice.policy, paths)
                costs = replayed.costs.mean(axis=0) + rates.per_query
                made.setdefault((budget, kind), []).append((choice, replayed.scores.mean(axis=0), costs))
    return [_row(budget, kind, kinds[0], made) for budget in BUDGETS for kind in kinds]


def _row(
    budget: int,
    kind: str,
    base: str,
    made: Mapping[tuple[int, str], list[tuple[PolicyChoice, Floats, Floats]]],
) -> Row:
    choices = [choice for choice, _, _ in made[budget, kind]]
    scores = np.mean([score for _, score, _ in made[budget, kind]], axis=0)
    fixed = np.mean([score for _, score, _ in made[budget, base]], axis=0)
    return Row(
        budget=budget,
        kind=kind,
        search=float(np.mean([choice.search_score for choice in choices])),
        cross_fitted=float(np.mean([choice.cross_fitted_score.mean for choice in choices])),
        test=float(scores.mean()),
        units=float(np.mean([costs for _, _, costs in made[budget, kind]])),
        difference=paired(scores, fixed),
        policies=tuple(str(choice.policy) for choice in choices),
        scores=tuple(scores.tolist()),
    )


def paired(ours: Floats, theirs: Floats) -> Difference:
    """Return ours minus theirs, paired by question."""
    first, second = ({str(i): float(s) for i, s in enumerate(of)} for of in (ours, theirs))
    return paired_difference(first, second, np.random.default_rng(0))


def with_features(*names: str) -> Callable[[Path], Path]:
    """Return what leaves only some features, those whose names start so."""

    def seen(path: Path) -> Path:
        at = [i for i, name in enumerate(path.names) if name.startswith(names)]
        return replace(path, features=path.features[..., at], names=tuple(path.names[i] for i in at))

    return seen


async def ablation(spec: PipelineSpec, search: Split, test: Split, of: Family) -> dict[str, list[Row]]:
    """Leave parts out, and print what is left of the scores on average over the budgets."""
    families = {
        "all parts": of,
        "plain votes at answer": family(spec, {"retrieve"}),
        "plain votes at retrieve": family(spec, {"answer"}),
        "plain votes": family(spec, ()),
    }
    figures = {}
    for name, policies in families.items():
        await search.add(policies.rungs)
        figures[name] = await table(search, test, policies, kinds=("cascade",))
    shares, answers = with_features("answer.share_logit"), with_features("answer.")
    figures["confidence from the vote share"] = await table(search, test, of, kinds=("cascade",), seen=shares)
    figures["confidence from the answer"] = await table(search, test, of, kinds=("cascade",), seen=answers)
    figures["one order of the samples"] = await table(search, test, of, kinds=("cascade",), n_orders=1)
    whole = np.mean([row.scores for row in figures["all parts"]], axis=0)
    for name, rows in figures.items():
        loss = paired(np.mean([row.scores for row in rows], axis=0), whole)
        print(
            f"{name:31s} cross-fitted {np.mean([row.cross_fitted for row in rows]):.3f} test "
            f"{np.mean([row.test for row in rows]):.3f} ({loss.mean:+.3f} "
            f"[{loss.low:+.3f}, {loss.high:+.3f}]): "
            + " ".join(f"{row.budget:.0f}: {row.test:.3f} at {row.units:.0f}" for row in rows),
            flush=True,
        )
    return figures


async def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=File, required=True, help="JSON file for all figures")
    parser.add_argument("--ablation", action="store_true", help="what each part adds")
    arguments = parser.parse_args()
    spec, started = load_spec(SPEC), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Store.open(File(folder) / "zoo.duckdb") as store:
        store.attach_bank(spec.root / str(spec.bank))
        splits = []
        for name in ("search", "test"):
            examples = load_examples(spec, name)  # type: ignore[arg-type]
            tables = Tables(spec, store, examples, rates=Rates.units(spec), orders=ORDERS)
            splits.append(Split(tables=tables, paths={}))
        search, test = splits
        await search.add(fixed_rungs(spec))
        policies = family(spec, search.tables.weighable())
        await search.add(policies.rungs)
        print(f"{len(policies.sketches)} policies read after {time.monotonic() - started:.0f} s", flush=True)
        if arguments.ablation:
            figures = await ablation(spec, search, test, policies)
        else:
            figures = {}
            for n_search in (None, 50):
                name = f"{n_search or 'all'} search examples"
                figures[name] = await table(search, test, policies, n_search)
                print(f"\n{name} ({time.monotonic() - started:.0f} s)")
                show(figures[name])
    data = {name: [asdict(row) for row in rows] for name, rows in figures.items()}
    arguments.out.write_text(json.dumps(data, indent=1), encoding="utf-8")


def show(rows: Sequence[Row]) -> None:
    """Print rows."""
    for row in rows:
        low, high = row.difference.low, row.difference.high
        print(
            f"{row.budget:4.0f} {row.kind:9s} search {row.search:.3f} cross-fitted "
            f"{row.cross_fitted:.3f} test {row.test:.3f} at {row.units:5.1f} units, to the best fixed "
            f"vote {row.difference.mean:+.3f} [{low:+.3f}, {high:+.3f}]",
            flush=True,
        )


if __name__ == "__main__":
    asyncio.run(main())
