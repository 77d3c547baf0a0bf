"""Do small tuned models beat larger general ones on their sub-task, and few-shot prompts?

    python -m benchmarks.tuned_museum --out runs.jsonl --seeds 5 [--shots 1 4 8]

The zoo's kept-out domain, which no zoo model was trained on: each size as it is, shown 1, 4 or 8 of the
training rows in its prompt (as earlier turns of the chat, or in one message), and tuned by LoRA on what is
left of 2,000 rows after the checks; the same 292 distinct questions for all, greedy. A seed draws the rows
that are shown, and decides adapters and batches. The cost of a query is 2·P·(prompt and answer tokens), in
queries of the small model untuned. Each seed is a line of the file; the same command goes on, and prints
means over seeds, the lowest and the highest, and differences from the best untuned arm with intervals over
the questions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from agenttts import fit
from agenttts.llm import Message
from agenttts.stats import paired_difference
from agenttts.tasktune.data.dataset import TaskData
from agenttts.tasktune.data.rows import TaskRow, score_answer
from agenttts.tasktune.generate import encode_chat, greedy
from benchmarks.zoo_tuning import Tokens, load, text_of
from tests.agenttts.tasktune.museum import ZOO, fit_config, museum

SIZES, SHOTS = ("small", "medium", "large"), (1, 4, 8)
ANSWER_TOKENS = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shots", nargs="*", type=int, default=SHOTS, help="rows shown; none: no such arms")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="museum-"))
    data = museum(folder, 2000, 300)
    done = {run["seed"] for run in _read(options.out)}
    for seed in sorted(set(range(options.seeds)) - done):
        arms = _run(data, folder, seed, options.shots)
        with options.out.open("a") as file:
            file.write(json.dumps({"seed": seed, "arms": arms}) + "\n")
        print(seed, {arm: round(float(np.mean(one["scores"])), 3) for arm, one in arms.items()}, flush=True)
    _print(_read(options.out))


def _run(data: TaskData, folder: Path, seed: int, shots: Sequence[int]) -> dict[str, Any]:
    tokens = Tokens()
    rng = np.random.default_rng(seed)
    drawn = [data.train[i] for i in rng.permutation(len(data.train))[: max(shots, default=0)]]
    arms: dict[str, Any] = {}

    def judge(arm: str, model: Any, prompts: Sequence[Sequence[Message]], seconds: float = 0.0) -> None:
        encoded = [encode_chat(tokens.tokenizer, messages) for messages in prompts]
        answers = greedy(model, tokens.tokenizer, encoded, [8] * len(encoded), batch_size=64)
        n_parameters = sum(one.numel() for one in model.parameters())
        n_tokens = float(np.mean([len(one) for one in encoded])) + ANSWER_TOKENS
        arms[arm] = {
            "scores": [
                score_answer(data.tasks[row.task], row, answer) or 0.0
                for row, answer in zip(data.test, answers, strict=True)
            ],
            "parameters": n_parameters,
            "flops": 2.0 * n_parameters * n_tokens,
            "seconds": seconds,
        }

    for size in SIZES:
        model = load(size)
        judge(size, model, [row.messages for row in data.test])
        for n in shots:
            judge(f"{size}, {n} shown as turns", model, [_turns(drawn[:n], row) for row in data.test])
            judge(f"{size}, {n} shown in the message", model, [_message(drawn[:n], row) for row in data.test])
        config = fit_config(base=str(ZOO / "models" / size), out=f"{size}-{seed}", epochs=4, seed=seed)
        (made,) = fit(config, folder)
        tuned = PeftModel.from_pretrained(load(size), str(made.path))
        judge(f"{size}, tuned", tuned, [row.messages for row in data.test], made.card.seconds or 0.0)
    return arms


def _turns(shown: Sequence[TaskRow], row: TaskRow) -> list[Message]:
    """Training rows as earlier turns of the chat."""
    turns: list[Message] = []
    for one in shown:
        turns += [*one.messages, {"role": "assistant", "content": one.completion}]
    return [*turns, *row.messages]


def _message(shown: Sequence[TaskRow], row: TaskRow) -> list[Message]:
    """Training rows before the question, in one message."""
    texts = [f"{one.messages[-1]['content']}{one.completion}" for one in shown]
    return [{"role": "user", "content": "\n".join([*texts, row.messages[-1]["content"]])}]


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _print(runs: Sequence[dict[str, Any]]) -> None:
    by_arm: dict[str, Mapping[str, Any]] = runs[0]["arms"]
    means = {
        arm: np.mean([run["arms"][arm]["scores"] for run in runs], axis=0) for arm in by_arm
    }  # of each question, over seeds
    best = max((arm for arm in by_arm if "tuned" not in arm), key=lambda arm: float(means[arm].mean()))
    print(f"{len(runs)} seeds, {len(means[best])} questions; differences from: {best}")
    print("| | parameters | exact match | lowest, highest seed | difference | cost of a query | tuning, s |")
    print("| --- | ---: | ---: | --- | --- | ---: | ---: |")
    for arm, one in by_arm.items():
        seeds = [float(np.mean(run["arms"][arm]["scores"])) for run in runs]
        difference = paired_difference(_named(means[arm]), _named(means[best]), np.random.default_rng(0))
        cost = one["flops"] / by_arm["small"]["flops"]
        seconds = float(np.mean([run["arms"][arm]["seconds"] for run in runs]))
        cells = [f"{one['parameters']:,}", f"{np.mean(seeds):.3f}", f"{min(seeds):.3f}, {max(seeds):.3f}"]
        cells += [text_of(difference), f"{cost:.1f}", f"{seconds:.0f}" if seconds else ""]
        print(f"| {arm} | {' | '.join(cells)} |")


def _named(scores: Sequence[float]) -> dict[str, float | None]:
    return {str(i): float(score) for i, score in enumerate(scores)}


if __name__ == "__main__":
    main()
