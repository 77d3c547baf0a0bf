"""Quick LoRA on the zoo for the benchmarks of tuning: rows as tokens, one loop, greedy scores.

The loop is what `agenttts tune fit` comes to on these models (AdamW, linear decay, the loss on the answer
alone) without its scores and checkpoints, so that ten seeds of many arms fit into minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from agenttts.stats import Difference, paired_difference
from agenttts.tasktune.generate import encode_answer, encode_chat
from pipelines.zoo import SPEC
from pipelines.zoo.training.rows import Row
from pipelines.zoo.training.tokens import answer_prompt, retrieve_prompt, retrieve_target

MODELS = SPEC.parent / "models"


@dataclass(frozen=True, kw_only=True)
class Item:
    """A prompt and its answer, as tokens and as text."""

    prompt: list[int]
    answer: list[int]
    text: str


class Tokens:
    """Rows of the zoo as tokens of its one tokenizer."""

    def __init__(self) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(MODELS / "small")

    def read(self, rows: Sequence[Row]) -> list[Item]:
        """Name who or what the question asks for, from the needed sentences."""
        sentences = [[one for one in row.candidates if one in row.evidence] for row in rows]
        prompts = [answer_prompt(row.question, told) for row, told in zip(rows, sentences, strict=True)]
        return [self._item(p, " " + row.answer) for p, row in zip(prompts, rows, strict=True)]

    def quote(self, rows: Sequence[Row]) -> list[Item]:
        """Quote the needed sentences."""
        return [self._item(retrieve_prompt(row), retrieve_target(row)) for row in rows]

    def _item(self, prompt: str, answer: str) -> Item:
        return Item(
            prompt=encode_chat(self.tokenizer, [{"role": "user", "content": prompt}]),
            answer=encode_answer(self.tokenizer, answer),
            text=answer,
        )


def load(size: str) -> Any:
    """One of the zoo's models, a new copy."""
    return deepcopy(_loaded(size))


@cache
def _loaded(size: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(MODELS / size, dtype=torch.float32)


def adapted(size: str, rank: int, seed: int) -> PeftModel:
    """A model with a new adapter on all linear layers."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", bias="none", task_type="CAUSAL_LM"
    )
    return get_peft_model(load(size), config)  # type: ignore[return-value]


def batch_of(items: Sequence[Item]) -> dict[str, torch.Tensor]:
    """Items as one batch; the labels of prompts and padding are -100."""
    longest = max(len(item.prompt) + len(item.answer) for item in items)
    ids = torch.zeros(len(items), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, item in enumerate(items):
        end = len(item.prompt) + len(item.answer)
        ids[row, :end] = torch.tensor(item.prompt + item.answer)
        mask[row, :end] = 1
        labels[row, len(item.prompt) : end] = torch.tensor(item.answer)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def batches(items: Sequence[Item], size: int, steps: int, rng: np.random.Generator) -> Iterator[list[Item]]:
    """So many batches, epoch after epoch in new orders."""
    order: list[int] = []
    for _ in range(steps):
        while len(order) < size:
            order += rng.permutation(len(items)).tolist()
        yield [items[i] for i in order[:size]]
        order = order[size:]


def train(
    model: Any,
    items: Sequence[Item],
    *,
    steps: int,
    seed: int,
    rate: float = 5e-3,
    size: int = 16,
) -> None:
    """Train what the model has to train, with AdamW and a rate that falls to 0."""
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)
    model.train()
    for chosen in batches(items, size, steps, np.random.default_rng(seed)):
        loss = model(**batch_of(chosen)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        falling.step()
    model.eval()


def score(model: Any, items: Sequence[Item]) -> float:
    """The share of answers that greedy decoding gives: each token is the likeliest after those before it."""
    right: list[bool] = []
    for start in range(0, len(items), 100):
        batch = batch_of(items[start : start + 100])
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        right += answered(logits, batch["labels"])
    return float(np.mean(right))


def answered(logits: torch.Tensor, labels: torch.Tensor) -> list[bool]:
    """Whether the likeliest tokens of each row are those of its answer."""
    alike = (logits[:, :-1].argmax(-1) == labels[:, 1:]) | (labels[:, 1:] == -100)
    return alike.all(1).tolist()


def over_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """The paired difference over the seeds that both have, with its 95 % interval."""
    return paired_difference(
        {str(seed): value for seed, value in first.items()},
        {str(seed): value for seed, value in second.items()},
        np.random.default_rng(0),
    )


def text_of(difference: Difference | None) -> str:
    """A difference with its interval."""
    if difference is None:
        return "–"
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
