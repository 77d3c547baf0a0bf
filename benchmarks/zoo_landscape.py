"""The zoo's landscape, and how near to its optimum a search comes: `python benchmarks/zoo_landscape.py`.

The full bank answers every allocation without a call, so the truth is known: accuracy of each model at each
stage against the number of samples, the best allocation within three budgets by enumeration, and the regret
of a search of 20 trials over ten seeds (the optimum's score on the search split minus that of the allocation
found, both true scores).

Measured 2026-11-24 with 10 seeds (the rules are deterministic here: all seeds agree): at 50, 150, 400 units
the true best has 0.771, 0.775, 0.775 in search; `insights` has a mean regret of 0.0000, 0.0167, 0.0208 and
0.728, 0.733, 0.705 in test; the best default a regret of 0.096, 0.083, 0.021 and 0.677, 0.662, 0.705 in test.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from agenttts import Allocation, SearchSpace, StageChoice, search
from agenttts.blocking import run_blocking
from agenttts.replay.bank import BankOutcomes
from agenttts.results.trials import TrialResult
from datastore import Store
from pipelines import load_examples, load_spec
from pipelines.zoo import SPEC

COUNTS = (1, 2, 4, 8, 16, 32)
BUDGETS = (50.0, 150.0, 400.0)


class Truth:
    """True scores of allocations on one split."""

    def __init__(self, store: Store, split: str) -> None:
        spec = load_spec(SPEC)
        self.bank = BankOutcomes(spec, store, load_examples(spec, split))  # type: ignore[arg-type]
        run_blocking(self.bank.add_all())

    def score(self, allocation: Allocation) -> float:
        score = self._trial(allocation).score
        assert score is not None
        return score

    def stage_score(self, allocation: Allocation, stage: str) -> float:
        score = self._trial(allocation).stage_scores[stage]
        assert score is not None
        return score

    def _trial(self, allocation: Allocation) -> TrialResult:
        trial = run_blocking(self.bank.replay(allocation))
        assert trial is not None, f"the bank is not full: {allocation}"
        return trial


def at(retrieve: str, n_retrieve: int, answer: str, n_answer: int) -> Allocation:
    return Allocation(
        {"retrieve": StageChoice(retrieve, n_retrieve), "answer": StageChoice(answer, n_answer)}
    )


def line(label: str, values: list[float]) -> None:
    print(f"{label:36s}" + "".join(f"{value:8.3f}" for value in values))


def curves(truth: Truth, upstreams: list[tuple[str, int]]) -> None:
    models = truth.bank.spec.stage("retrieve").models
    print("score against samples".ljust(36) + "".join(f"{f'n={n}':>8s}" for n in COUNTS))
    for model in models:
        line(
            f"retrieve {model} (set F1)",
            [truth.stage_score(at(model, n, models[0], 1), "retrieve") for n in COUNTS],
        )
    for upstream in upstreams:
        for model in models:
            label = f"answer {model} after {upstream[0]}×{upstream[1]}"
            line(label, [truth.score(at(*upstream, model, n)) for n in COUNTS])


def optimum(truth: Truth, budget: float) -> tuple[Allocation, float, int]:
    """The best allocation within the budget (of equals the cheapest), its score, and how many there are."""
    space = SearchSpace(truth.bank.spec, budget)
    scored = [(truth.score(a), -space.units(a), a) for a in space.enumerate(space.size)]
    best = max(scored, key=lambda entry: entry[:2])
    return best[2], best[0], len(scored)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--proposer", default="insights")
    arguments = parser.parse_args()
    spec = load_spec(SPEC)
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "truth.duckdb") as store:
        store.attach_bank(spec.root / (spec.bank or ""))
        searched, tested = Truth(store, "search"), Truth(store, "test")
        curves(searched, [("small", 1), ("small", 32), ("medium", 32), ("large", 32)])
        for budget in BUDGETS:
            started = time.monotonic()
            best, score, count = optimum(searched, budget)
            took = time.monotonic() - started
            print(f"\nbudget {budget:g}: {count:,} allocations, enumerated in {took:.0f} s")
            print(f"  true best {best}: {score:.3f} in search, {tested.score(best):.3f} in test")
            found = [
                search(
                    spec,
                    budget=budget,
                    trials=arguments.trials,
                    proposer=arguments.proposer,
                    seed=seed,
                    db=Path(folder) / f"{budget:g}-{seed}.duckdb",
                    replay=True,
                    preflight=False,
                )
                for seed in range(arguments.seeds)
            ]
            bests = [result.best.allocation for result in found if result.best is not None]
            regrets = [score - searched.score(allocation) for allocation in bests]
            tests = [tested.score(allocation) for allocation in bests]
            defaults = [r.baseline for r in found if r.baseline is not None]
            default = defaults[0].allocation
            print(
                f"  {arguments.proposer}, {arguments.trials} trials, {arguments.seeds} seeds: mean regret "
                f"{statistics.fmean(regrets):.4f} (most {max(regrets):.4f}), mean test score "
                f"{statistics.fmean(tests):.3f}; found e.g. {bests[0]}"
            )
            print(
                f"  best default {default}: regret {score - searched.score(default):.3f}, "
                f"test {tested.score(default):.3f}"
            )


if __name__ == "__main__":
    main()
