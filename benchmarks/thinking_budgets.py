"""Thinking budgets as configurations of models: chosen on one exam by replay, applied to the next.

    AGENTTTS_DATA=… python benchmarks/thinking_budgets.py [--branches FILE …] [--seeds 8] [--trials 60]

A file of branches has recorded samples of reasoning models with the answer probed every 500 tokens of the
thinking. Of these a spec is made in which every model has variants with a thinking budget of 2,000 to 16,000
tokens and one without, and a bank that has, for exactly the prompts of each variant, the branches cut there:
a cut branch takes its budget and 20 tokens for the answer, and gives the answer probed there, or none. The
lengths in the spec are means over the search split. Each seed is another order of the branches, of which a
search sees the first 64. `agenttts.search(replay=True)` searches AIME 2024 twice for each budget and seed:
with full thinking only, and with all budgets. One search gives the best allocation with plain votes (the
same that `policy="fixed"` ends with) and the policy that is chosen after it.

Both are scored on the other exams by their expected score, over 32 resamplings of all branches, and by their
realised units. A difference is paired by question, each question's scores averaged over the seeds, with a
95 % interval over the questions. Beside the search with full thinking stands its hull: full thinking at the
units that the other takes on the test exam, queries split between two allocations, chosen by expected scores
on the search exam.

Measured 2026-11-26, plain votes, 8 seeds, on AIME 2025: with thinking budgets +0.126 [0.059, 0.216] at 2
units and +0.175 [0.110, 0.290] at 4 against the search with full thinking, +0.047 [-0.001, 0.098] and +0.084
[0.037, 0.158] against its hull, nothing from 8 units on. `--policy fixed` takes 4 minutes of one core, the
default about 8. The table is in docs/log.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq

from agenttts import search
from agenttts.blocking import run_blocking
from agenttts.policies.choices import replay_policy
from agenttts.policies.family import COUNTS
from agenttts.policies.nodes import Floats
from agenttts.policies.paths import Tables
from agenttts.policies.rates import Rates
from agenttts.settings import PolicyKind
from agenttts.stats import paired_difference
from benchmarks.recorded import Draws, write_bank, write_examples, write_spec
from datastore import Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.dataset.splits import load_examples
from pipelines.policy import Policy
from pipelines.spec.pipeline import PipelineSpec

SEARCH_EXAM = "aime24"
MODELS = {"qwen06": "Qwen3-0.6B", "qwen17": "Qwen3-1.7B", "qwen4": "Qwen3-4B", "qwen8": "Qwen3-8B"}
VARIANTS = {"think-2k": 2000, "think-4k": 4000, "think-8k": 8000, "think-12k": 12000, "think-16k": 16000}
FULL = "full"
ARMS = ("full thinking", "thinking budgets")
KINDS = ("plain votes", "policy")
BUDGETS = (2, 4, 8, 16, 32, 64, 128)
PROBED_EVERY, PROMPT_TOKENS, ANSWER_TOKENS = 500, 120, 20
MOST_SAMPLES = 64
RESAMPLINGS = range(1, 33)


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A recorded sample.

    Attributes:
        tokens: Generated tokens.
        answer: The answer at the end.
        probes: The answers given after every 500 tokens.
    """

    tokens: int
    answer: str | None
    probes: Sequence[str | None]

    def cut(self, most: int | None) -> tuple[str, int]:
        """Return the answer, empty for none, and the tokens within a thinking budget."""
        if most is None or self.tokens <= most:
            answer, tokens = self.answer, self.tokens
        else:
            probe = most // PROBED_EVERY - 1
            answer = self.probes[probe] if probe < len(self.probes) else None
            tokens = most + ANSWER_TOKENS
        return "" if answer is None or answer == "ERR" else answer, tokens


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """All branches by served model and question, and the right answers by question."""

    branches: Mapping[tuple[str, str], Sequence[Branch]]
    golds: Mapping[str, str]

    @classmethod
    def read(cls, files: Iterable[Path]) -> Recorded:
        """Read files of branches."""
        branches: dict[tuple[str, str], list[Branch]] = {}
        golds = dict[str, str]()
        for row in (row for file in files for row in pq.read_table(file).to_pylist()):
            branch = Branch(tokens=row["tokens"], answer=row["final"], probes=row["probes"])
            branches.setdefault((row["model"], row["question"]), []).append(branch)
            golds[row["question"]] = row["gold"]
        return cls(branches=branches, golds=golds)

    def mean_tokens(self, model: str, most: int | None) -> float:
        """Return the mean tokens of a served model on the search exam within a thinking budget."""
        of = [b for (m, q), cell in self.branches.items() if m == model and is_search(q) for b in cell]
        return float(np.mean([branch.cut(most)[1] for branch in of]))


@dataclass(frozen=True, kw_only=True)
class Exam:
    """What a policy comes to on a split: expected scores and realised units by question."""

    scores: Floats
    units: Floats


def is_search(question: str) -> bool:
    """Return whether a question belongs to the search exam."""
    return question.startswith(f"{SEARCH_EXAM}-")


def write_specs(folder: Path, recorded: Recorded) -> dict[str, PipelineSpec]:
    """Write the pipeline of each arm and the examples of both."""
    for split in ("search", "test"):
        write_examples(
            folder,
            split,
            {q: gold for q, gold in recorded.golds.items() if is_search(q) == (split == "search")},
        )
    limits: dict[str, int | None] = {**VARIANTS, FULL: None}
    lengths = {
        f"{key}/{name}": {"generated_tokens": recorded.mean_tokens(served, most)}
        for key, served in MODELS.items()
        for name, most in limits.items()
    }
    models = {
        key: {
            "served_name": served,
            "base_url": "http://127.0.0.1:1/v1",
            "active_params": float(served.removeprefix("Qwen3-").removesuffix("B")) * 1e9,
            "variants": {
                name: {} if most is None else {"request": {"thinking_token_budget": most}}
                for name, most in limits.items()
            },
        }
        for key, served in MODELS.items()
    }
    reference = {"active_params": 0.6e9, "prompt_tokens": PROMPT_TOKENS, "generated_tokens": 16000}
    specs = {}
    for arm, candidates in zip(ARMS, ([f"{key}/{FULL}" for key in MODELS], list(MODELS)), strict=True):
        stage = {
            "models": candidates,
            "max_samples": MOST_SAMPLES,
            "sampling": {"temperature": 0.7, "max_tokens": 32768},
            "prompt_tokens": PROMPT_TOKENS,
            "generated_tokens": 16000,
            "lengths": {k: v for k, v in lengths.items() if arm == ARMS[1] or k.endswith(f"/{FULL}")},
        }
        specs[arm] = write_spec(
            folder,
            arm.replace(" ", "-"),
            models=models,
            stage=stage,
            budget={"units": 16, "reference": reference},
        )
    return specs


def cut_branches(recorded: Recorded, seed: int | None, model: str, question: str) -> Draws:
    """Return the branches of a seed's order, cut at a variant's budget; all in their own order for None."""
    key, _, variant = model.partition("/")
    branches = recorded.branches[MODELS[key], question]
    order = np.arange(len(branches))
    if seed is not None:
        text = f"{MODELS[key]} {question}".encode()
        order = np.random.default_rng([seed, *text]).permutation(len(branches))[:MOST_SAMPLES]
    cut = [branches[i].cut(VARIANTS.get(variant)) for i in order.tolist()]
    return Draws(prompt_tokens=PROMPT_TOKENS, samples=cut)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What one search ends with, of one kind.

    Attributes:
        policy: The policy; a fixed one for plain votes, and where no other pays.
        search_score: Its score in the search, on the seed's own samples.
    """

    policy: Policy
    search_score: float


def searched(
    spec: PipelineSpec, banked: Path, db: Path, budget: float, seed: int, trials: int, policy: PolicyKind
) -> tuple[Ended, Ended]:
    """Search once by replay; what it ends with for each of `KINDS`."""
    result = search(
        spec,
        budget=budget,
        trials=trials,
        proposer="solve",
        policy=policy,
        seed=seed,
        db=db,
        replay=True,
        banks=[banked],
    )
    assert result.best is not None
    fixed = Ended(policy=Policy.fixed(result.best.allocation), search_score=result.best.search_score)
    adaptive = result.adaptive
    if adaptive is None:
        return fixed, fixed
    return fixed, Ended(policy=adaptive.policy, search_score=adaptive.choice.search_score)


def judged(
    spec: PipelineSpec, store: Store, split: str, policies: Iterable[Policy]
) -> tuple[list[str], dict[Policy, Exam]]:
    """Return the questions of a split, and what policies come to over resamplings of all branches."""
    examples = load_examples(spec, split)  # type: ignore[arg-type]
    rates = Rates.units(spec)
    wanted = list(dict.fromkeys(policies))
    tables = Tables(spec, store, examples, rates=rates, orders=RESAMPLINGS)
    run_blocking(tables.add(rung for policy in wanted for rung in policy.rungs))
    exams = {}
    for policy in wanted:
        replayed = replay_policy(policy, [tables.path(rung) for rung in policy.rungs])
        units = replayed.costs.mean(axis=0) + rates.per_query
        exams[policy] = Exam(scores=replayed.scores.mean(axis=0), units=units)
    return [example.id for example in examples], exams


@dataclass(frozen=True, kw_only=True)
class Hull:
    """Allocations with full thinking that no mix of two others beats on the search exam, cheapest first."""

    on_test: Sequence[Exam]

    @classmethod
    def of(
        cls, policies: Sequence[Policy], search: Mapping[Policy, Exam], test: Mapping[Policy, Exam]
    ) -> Hull:
        """Choose the allocations by their expected scores on the search exam."""
        points = sorted((search[p].units.mean(), search[p].scores.mean(), i) for i, p in enumerate(policies))
        vertices: list[tuple[float, float, int]] = []
        for units, score, i in points:
            if vertices and score <= vertices[-1][1]:
                continue
            while len(vertices) > 1:
                (first, low, _), (middle, high, _) = vertices[-2:]
                if (high - low) * (units - middle) > (score - high) * (middle - first):
                    break
                vertices.pop()
            vertices.append((units, score, i))
        return cls(on_test=[test[policies[i]] for _, _, i in vertices])

    def scores(self, units: float) -> Floats:
        """Return the test scores by question of the mix of two neighbours that takes so many units there."""
        at = [float(exam.units.mean()) for exam in self.on_test]
        above = next((k for k, u in enumerate(at) if u > units), None)
        if above is None:
            return self.on_test[-1].scores
        if above == 0:
            return self.on_test[0].scores * units / at[0]
        share = (units - at[above - 1]) / (at[above] - at[above - 1])
        before, after = self.on_test[above - 1], self.on_test[above]
        return (1 - share) * before.scores + share * after.scores


def compared(questions: Sequence[str], ours: Floats, theirs: Floats) -> str:
    """Return ours minus theirs with its interval, for each exam among the questions."""
    parts = []
    for exam in sorted({question.rsplit("-", 1)[0] for question in questions}):
        at = [i for i, question in enumerate(questions) if question.startswith(f"{exam}-")]
        if np.array_equal(ours[at], theirs[at]):
            parts.append(f"{exam} the same")
            continue
        first, second = ({str(i): float(of[i]) for i in at} for of in (ours, theirs))
        gain = paired_difference(first, second, np.random.default_rng(0))
        parts.append(f"{exam} {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
    return ", ".join(parts)


def report(
    ended: Mapping[tuple[str, int, int], tuple[Ended, Ended]],
    spec: PipelineSpec,
    store: Store,
    seeds: int,
    kinds: Sequence[str],
) -> None:
    """Print a row for each budget, kind and arm."""
    plain = [
        Policy.fixed(Allocation({"solve": StageChoice(f"{model}/{FULL}", n)}))
        for model in MODELS
        for n in COUNTS
    ]
    policies = [*plain, *(one.policy for pair in ended.values() for one in pair)]
    _, search_exams = judged(spec, store, "search", policies)
    questions, test_exams = judged(spec, store, "test", policies)
    hull = Hull.of(plain, search_exams, test_exams)
    print(
        "| budget | kind | arm | search | expected | units | test | units | to full thinking | to its hull |"
    )
    for budget in BUDGETS:
        for k, kind in enumerate(kinds):
            scores = []
            for arm in ARMS:
                of_arm = [ended[arm, budget, seed][k] for seed in range(seeds)]
                search, test = ([of[one.policy] for one in of_arm] for of in (search_exams, test_exams))
                scores.append(np.mean([exam.scores for exam in test], axis=0))
                at_hull = np.mean([hull.scores(float(exam.units.mean())) for exam in test], axis=0)
                cells = [
                    f"{budget} | {kind} | {arm} | {np.mean([one.search_score for one in of_arm]):.3f}",
                    f"{np.mean([exam.scores.mean() for exam in search]):.3f}",
                    f"{np.mean([exam.units.mean() for exam in search]):.1f}",
                    f"{scores[-1].mean():.3f}",
                    f"{np.mean([exam.units.mean() for exam in test]):.1f}",
                    compared(questions, scores[-1], scores[0]) if arm != ARMS[0] else "",
                    compared(questions, scores[-1], at_hull),
                ]
                print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Run the command line."""
    data = Path(os.environ.get("AGENTTTS_DATA", ".")) / "real_llm" / "qwen3_aime" / "branches.parquet"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--branches", type=Path, nargs="+", default=[data])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--policy", choices=get_args(PolicyKind), default="adaptive")
    options = parser.parse_args()
    recorded = Recorded.read(options.branches)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        specs = write_specs(folder, recorded)
        whole = specs[ARMS[1]]
        ended = {}
        for seed in range(options.seeds):
            write_bank(folder / f"{seed}.parquet", whole, partial(cut_branches, recorded, seed))
            for budget in BUDGETS:
                for arm, spec in specs.items():
                    db = folder / f"{seed}-{budget}-{spec.name}.duckdb"
                    pair = searched(
                        spec, folder / f"{seed}.parquet", db, budget, seed, options.trials, options.policy
                    )
                    ended[arm, budget, seed] = pair
                    chosen = dict.fromkeys(str(one.policy).removeprefix("solve ") for one in pair)
                    print(f"seed {seed}, {budget} units, {arm}: {'; policy '.join(chosen)}", flush=True)
        write_bank(folder / "all.parquet", whole, partial(cut_branches, recorded, None))
        with Store.open(folder / "judge.duckdb") as store:
            store.attach_bank(folder / "all.parquet")
            report(ended, whole, store, options.seeds, KINDS[: 1 + (options.policy == "adaptive")])


if __name__ == "__main__":
    main()
