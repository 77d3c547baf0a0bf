"""Trains the zoo: `python -m pipelines.zoo.training.train --size small|medium|large|tokenizer --out DIR`.

One run mixes both stages: each step takes a batch of retrieve rows and a batch of answer rows,
the language-model loss on the whole text at a small weight and the target at full weight. The
schedule is in minutes, not steps, so that a run ends when it should on any machine. Difficulty
grows over the first part of the run. A checkpoint is written every few minutes (temporary
file, then rename) and picked up again by the same command.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from pipelines.files import whole
from pipelines.zoo.training.batches import Batches, encode_answer, encode_retrieve
from pipelines.zoo.training.lexicon import CIVIC
from pipelines.zoo.training.muon import Muon
from pipelines.zoo.training.network import SIZES, Size, export, new_model
from pipelines.zoo.training.rows import Row
from pipelines.zoo.training.tokens import Encoded, build_tokenizer, save_tokenizer
from pipelines.zoo.training.worlds import Difficulty, make_rows

log = logging.getLogger("zoo.train")

PROMPT_WEIGHT = 0.2
"""Weight of the language-model loss on prompt tokens; target tokens weigh 1."""


def to_tensors(items: list[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad encoded rows on the right.

    Returns:
        The inputs, the next tokens, and the kind of each next token (0 padding, 1 prompt, 2 target), each of
        shape (rows, longest - 1).
    """
    longest = max(len(item.ids) for item in items)
    ids = torch.zeros(len(items), longest, dtype=torch.long)
    kind = torch.zeros(len(items), longest, dtype=torch.long)
    for i, item in enumerate(items):
        ids[i, : len(item.ids)] = torch.tensor(item.ids)
        kind[i, : item.n_prompt] = 1
        kind[i, item.n_prompt : len(item.ids)] = 2
    return ids[:, :-1], ids[:, 1:], kind[:, 1:]


def batch_loss(model: LlamaForCausalLM, items: list[Encoded]) -> tuple[Tensor, float]:
    """Return the weighted loss, and the mean loss over target tokens in nats."""
    inputs, following, kind = to_tensors(items)
    logits = model(input_ids=inputs, use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none")
    target, prompt = losses[kind.flatten() == 2].mean(), losses[kind.flatten() == 1].mean()
    return target + PROMPT_WEIGHT * prompt, target.item()


@torch.no_grad()
def greedy_exact(model: LlamaForCausalLM, items: list[Encoded]) -> list[bool]:
    """Return for each item whether greedy decoding gives exactly the target (every argmax is right)."""
    right: list[bool] = []
    for start in range(0, len(items), 64):
        inputs, following, kind = to_tensors(items[start : start + 64])
        best = model(input_ids=inputs, use_cache=False).logits.argmax(-1)
        right += ((best == following) | (kind != 2)).all(-1).tolist()
    return right


def evaluate(model: LlamaForCausalLM, tokenizer: Tokenizer, rows: list[Row]) -> str:
    """Return the accuracy of greedy decoding by stage, hops and level, as one line of text."""
    marks = {
        "retrieve": greedy_exact(model, [encode_retrieve(tokenizer, row) for row in rows]),
        "answer": greedy_exact(model, [encode_answer(tokenizer, row, None) for row in rows]),
    }
    parts = []
    for stage, right in marks.items():
        parts.append(f"{stage} {sum(right) / len(right):.2f}")
        for label in ("hops", "level"):
            for value in (1, 2, 3):
                picked = [mark for mark, row in zip(right, rows, strict=True) if getattr(row, label) == value]
                parts.append(f"{label[0]}{value} {sum(picked) / max(1, len(picked)):.2f}")
    return " ".join(parts)


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Save a training state; a reader sees either the old file or the complete new one."""
    with whole(path) as beside:
        torch.save(state, beside)


def train(size: Size, tokenizer: Tokenizer, out: Path, *, seed: int, minutes: float) -> None:
    """Train a model, resuming from `out/checkpoint.pt` if it exists, and write it to `out/model`.

    Args:
        size: Shape and learning rates.
        tokenizer: The tokenizer of the zoo.
        out: The directory of the checkpoint and the model.
        seed: Seed of weights and rows.
        minutes: Wall-clock length of the whole run, resumed parts included.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = new_model(size, tokenizer)
    n_params = sum(p.numel() for p in model.parameters())
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = Muon(matrices, lr=size.lr_matrix)
    adam = torch.optim.AdamW(others, lr=size.lr_other, betas=(0.9, 0.97), weight_decay=0.0)
    step, spent_s, saved_s = 0, 0.0, 0.0
    checkpoint = out / "checkpoint.pt"
    out.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        step, spent_s = state["step"], state["spent_s"]
        saved_s = spent_s
        rng = random.Random(f"{seed}:{step}")
    log.info("%s params %d, from step %d", asdict(size), n_params, step)
    batches = Batches(tokenizer, size.batch_rows, rng)
    watched = list(make_rows(1, CIVIC, "search", Difficulty(), prefix="watch", n_rows=128))
    clock, mean = time.monotonic(), [0.0, 0.0]
    while (progress := spent_s / (60 * minutes)) < 1:
        for pair in batches.draw(progress):
            progress = min(1.0, spent_s / (60 * minutes))
            rate = min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
            for optimizer, lr in ((muon, size.lr_matrix), (adam, size.lr_other)):
                optimizer.param_groups[0]["lr"] = lr * rate
            for i, items in enumerate(pair):
                loss, target = batch_loss(model, items)
                loss.backward()  # type: ignore[no-untyped-call]
                mean[i] += target / 50
            torch.nn.utils.clip_grad_norm_(others, 1.0)
            for optimizer in (muon, adam):
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            now = time.monotonic()
            spent_s, clock = spent_s + now - clock, now
            if step % 50 == 0:
                figures = evaluate(model, tokenizer, watched) if step % 100 == 0 else ""
                log.info("step %d min %.1f loss %.3f %.3f %s", step, spent_s / 60, mean[0], mean[1], figures)
                mean = [0.0, 0.0]
            if spent_s - saved_s > 120 or spent_s >= 60 * minutes:
                saved_s = spent_s
                state = {"model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict()}
                save_atomically({**state, "step": step, "spent_s": spent_s}, checkpoint)
            if spent_s >= 60 * minutes:
                break
    export(model, tokenizer, out / "model")
    log.info("done: %d steps, %s", step, evaluate(model, tokenizer, watched))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=[*SIZES, "tokenizer"], required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="length of the whole run, resumed parts included"
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    tokenizer = build_tokenizer()
    if args.size == "tokenizer":
        save_tokenizer(tokenizer, args.out)
        return
    torch.set_num_threads(args.threads)
    train(SIZES[args.size], tokenizer, args.out, seed=args.seed, minutes=args.minutes)


if __name__ == "__main__":
    main()
