"""Thinking budgets and efforts of priced models as configurations: chosen in dollars on half of an exam.

    AGENTTTS_DATA=… python benchmarks/thinking_efforts.py [--seeds 10]

The file has one recorded answer of nine configurations to each of GPQA's 198 questions: Opus 4.6 at the
efforts none to max, Haiku 4.5 at thinking budgets of 0 to 32,000 tokens, with tokens and whether it was
right. Two seeds split the questions in the same halves and swap them. `agenttts.search(replay=True)` searches
one half for each budget in dollars per query: among all configurations, among those without thinking, and
among those with the most. What it ends with is scored on the other half. Lengths are means over the search
half. Scores and dollars are means over the seeds; a difference is paired by question, each question's scores
averaged over the seeds that test it, with a 95 % interval over the questions.

Measured 2026-11-26: from 0.04 dollars on +0.062 [0.011, 0.121] against no thinking (mostly Opus at medium
effort), at 0.12 dollars +0.072 [0.012, 0.134] against the most; nothing below. 2 minutes of one core. The
table is in docs/log.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agenttts import search
from agenttts.errors import SpaceError
from agenttts.stats import paired_difference
from benchmarks.recorded import Draws, write_bank, write_examples, write_spec
from pipelines.spec.pipeline import PipelineSpec

CONFIGURATIONS: Mapping[str, tuple[str, dict[str, object]]] = {
    "opus/none": ("Opus / none", {}),
    "opus/low": ("Opus / low", {"reasoning_effort": "low"}),
    "opus/medium": ("Opus / medium", {"reasoning_effort": "medium"}),
    "opus/high": ("Opus / high", {"reasoning_effort": "high"}),
    "opus/max": ("Opus / max", {"reasoning_effort": "max"}),
    "haiku/none": ("Haiku 4.5 / none", {}),
    "haiku/think-5k": ("Haiku 4.5 / 5K", {"thinking_token_budget": 5000}),
    "haiku/think-16k": ("Haiku 4.5 / 16K", {"thinking_token_budget": 16000}),
    "haiku/think-32k": ("Haiku 4.5 / 32K", {"thinking_token_budget": 32000}),
}
"""By option: the name in the file, and what the requests have."""
PRICES = {"opus": (5.0, 25.0), "haiku": (0.8, 4.0)}
"""US dollars per million tokens read and written, which the file's costs per sample follow."""
ARMS = {
    "all": tuple(CONFIGURATIONS),
    "no thinking": ("opus/none", "haiku/none"),
    "most thinking": ("opus/max", "haiku/think-32k"),
}
BUDGETS_USD = (0.003, 0.005, 0.01, 0.02, 0.04, 0.12, 0.2)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A recorded answer: whether it was right, and its tokens."""

    right: bool
    prompt_tokens: int
    generated_tokens: int

    def usd(self, option: str) -> float:
        """Return what the answer cost with an option."""
        read, written = PRICES[option.split("/")[0]]
        return (self.prompt_tokens * read + self.generated_tokens * written) / 1e6

    def draws(self) -> Draws:
        """Return the answer as the one sample of its prompt."""
        text = "right" if self.right else "wrong"
        return Draws(prompt_tokens=self.prompt_tokens, samples=[(text, self.generated_tokens)])


Answers = Mapping[str, Mapping[str, Answer]]
"""By option and question."""


def read(file: Path) -> Answers:
    """Read the recorded answers."""
    option_of = {name: option for option, (name, _) in CONFIGURATIONS.items()}
    answers: dict[str, dict[str, Answer]] = defaultdict(dict)
    for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        answers[option_of[row["config"]]][f"gpqa-{row['sample_idx']}"] = Answer(
            right=row["score"] == 1, prompt_tokens=row["input_tokens"], generated_tokens=row["output_tokens"]
        )
    return answers


def arm_spec(folder: Path, arm: str, answers: Answers, half: Sequence[str]) -> PipelineSpec:
    """Write the pipeline of an arm, with the mean lengths of the half that is searched."""
    models: dict[str, dict[str, object]] = {}
    for key, (read_price, written_price) in PRICES.items():
        models[key] = {
            "base_url": "http://127.0.0.1:1/v1",
            "price": {"prompt_usd_per_million": read_price, "generated_usd_per_million": written_price},
            "variants": {
                option.split("/")[1]: {"request": request} if request else {}
                for option, (_, request) in CONFIGURATIONS.items()
                if option.startswith(f"{key}/")
            },
        }
    lengths = {
        option: {
            "prompt_tokens": np.mean([answers[option][q].prompt_tokens for q in half]),
            "generated_tokens": np.mean([answers[option][q].generated_tokens for q in half]),
        }
        for option in ARMS[arm]
    }
    stage = {
        "models": ARMS[arm],
        "max_samples": 1,
        "sampling": {"max_tokens": 32768},
        "prompt_tokens": 272,
        "generated_tokens": 500,
        "lengths": lengths,
    }
    name, budget = arm.replace(" ", "-"), {"usd": BUDGETS_USD[-1]}
    return write_spec(folder, name, models=models, stage=stage, budget=budget)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a search ends with: the option, its score and dollars on the search half, and the test half."""

    option: str
    search_score: float
    search_usd: float
    test: Sequence[str]


def searched(folder: Path, answers: Answers, seed: int) -> dict[tuple[str, float], Ended]:
    """Search one split of the questions, with every arm and budget that pays for any of its options."""
    questions = sorted(answers["opus/none"])
    order = [questions[i] for i in np.random.default_rng(seed // 2).permutation(len(questions))]
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    halves = {"search": second, "test": first} if seed % 2 else {"search": first, "test": second}
    for split, half in halves.items():
        write_examples(folder, split, dict.fromkeys(half, "right"))
    specs = {arm: arm_spec(folder, arm, answers, halves["search"]) for arm in ARMS}
    write_bank(
        folder / "bank.parquet", specs["all"], lambda option, question: answers[option][question].draws()
    )
    ended = {}
    for budget in BUDGETS_USD:
        for arm, spec in specs.items():
            db = folder / f"{spec.name}-{budget}.duckdb"
            try:
                result = search(
                    spec,
                    budget=budget,
                    proposer="solve",
                    policy="fixed",
                    seed=seed,
                    db=db,
                    replay=True,
                    banks=[folder / "bank.parquet"],
                )
            except SpaceError:  # even the cheapest option is over the budget
                continue
            assert result.best is not None
            option = result.best.allocation["solve"].model
            usd = float(np.mean([answers[option][q].usd(option) for q in halves["search"]]))
            score = result.best.search_score
            ended[arm, budget] = Ended(option=option, search_score=score, search_usd=usd, test=halves["test"])
    return ended


def by_question(answers: Answers, ended: Sequence[Ended]) -> dict[str, float | None]:
    """Return each question's test score, averaged over the seeds that test it."""
    scores: dict[str, list[float]] = defaultdict(list)
    for one in ended:
        for question in one.test:
            scores[question].append(float(answers[one.option][question].right))
    return {question: float(np.mean(of)) for question, of in scores.items()}


def main() -> None:
    """Run the command line."""
    data = Path(os.environ.get("AGENTTTS_DATA", ".")) / "real_llm" / "agentopt"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=data / "gpqa_thinking_ablation_samples.jsonl")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    answers = read(options.file)
    by_seed = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            by_seed.append(searched(Path(folder), answers, seed))
    print("| USD | arm | search | USD | test | USD | all minus this arm | chosen |")
    for budget in BUDGETS_USD:
        of = {arm: [one[arm, budget] for one in by_seed if (arm, budget) in one] for arm in ARMS}
        for arm, ended in of.items():
            if len(ended) < len(by_seed):
                print(f"| {budget} | {arm} | too dear for {len(by_seed) - len(ended)} of {len(by_seed)} |")
                continue
            scores = by_question(answers, ended)
            gain = paired_difference(by_question(answers, of["all"]), scores, np.random.default_rng(0))
            usd = [answers[one.option][q].usd(one.option) for one in ended for q in one.test]
            chosen = Counter(one.option for one in ended).most_common()
            cells = [
                f"{budget} | {arm} | {np.mean([one.search_score for one in ended]):.3f}",
                f"{np.mean([one.search_usd for one in ended]):.4f}",
                f"{np.mean([answers[one.option][q].right for one in ended for q in one.test]):.3f}",
                f"{np.mean(usd):.4f}",
                "" if arm == "all" else f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]",
                ", ".join(f"{option} {count}" for option, count in chosen),
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
