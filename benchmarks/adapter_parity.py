"""Do peft in transformers and vLLM give the same greedy answers with one adapter?

    python benchmarks/adapter_parity.py DATASET ADAPTER [--prompts 100]

Asks both for the test split's (else the eval split's) first prompts. Where they differ, the first token that
does is shown with how near the two candidates were to a tie in transformers: differences by rounding have a
gap of about nothing, a wrongly applied adapter has not.

Measured 2026-11-25 on the adapter of `tuned_museum.py`, 100 prompts: 100 of 100 answers equal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from agenttts import read_tuned
from agenttts.tasktune.data.dataset import load_dataset
from agenttts.tasktune.data.rows import TaskRow
from agenttts.tasktune.generate import encode_chat, greedy
from agenttts.tasktune.rivals import rivals_spec
from datastore import Store
from pipelines import PipelineSpec, SamplingSpec
from pipelines.content import Content
from pipelines.runtime.sampler import Sampler
from pipelines.servers.clients import ModelClients
from pipelines.servers.commands import commands
from pipelines.servers.group import ServerGroup


async def served_answers(spec: PipelineSpec, rows: list[TaskRow], most: list[int]) -> list[str]:
    """vLLM's greedy answers."""
    with Store.open(Path(tempfile.mkdtemp()) / "parity.duckdb") as store:
        clients = ModelClients(spec, rng=random.Random(0))
        try:
            sampler = Sampler(spec, store, clients, run_id=None, replay=False, gate=None)

            async def one(row: TaskRow, tokens: int) -> str:
                content: Content = {"messages": [dict(message) for message in row.messages]}
                sampling = SamplingSpec(temperature=0.0, max_tokens=tokens)
                return (await sampler.samples("parity", "tuned", content, sampling, 1)).samples[0].text

            return list(await asyncio.gather(*(one(row, n) for row, n in zip(rows, most, strict=True))))
        finally:
            await clients.aclose()


def gap(model: Any, tokenizer: Any, prompt: list[int], ours: str, theirs: str) -> dict[str, Any]:
    """The first token that differs, and how much more transformers liked its own, in nats."""
    import torch

    a, b = (tokenizer(text, add_special_tokens=False).input_ids for text in (ours, theirs))
    ends = [*a, tokenizer.eos_token_id], [*b, tokenizer.eos_token_id]
    place = next(i for i, (x, y) in enumerate(zip(*ends, strict=False)) if x != y)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ends[0][:place]])).logits[0, -1].log_softmax(-1)
    first, second = ends[0][place], ends[1][place]
    return {"token": place, "gap_nats": float(logits[first] - logits[second])}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--prompts", type=int, default=100)
    arguments = parser.parse_args()

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    data, tuned = load_dataset(arguments.dataset), read_tuned(arguments.adapter)
    rows = list(data.test or data.eval)[: arguments.prompts]
    most = [data.tasks[row.task].max_tokens for row in rows]
    tokenizer = AutoTokenizer.from_pretrained(tuned.base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(tuned.base)), str(tuned.path))
    prompts = [encode_chat(tokenizer, row.messages) for row in rows]
    ours = greedy(model, tokenizer, prompts, most)
    spec = rivals_spec({"tuned": str(arguments.adapter)})
    with ServerGroup(commands(spec), log_dir=Path(tempfile.mkdtemp(prefix="parity-"))):
        theirs = asyncio.run(served_answers(spec, rows, most))
    differing = [
        {"transformers": a, "vllm": b, **gap(model, tokenizer, prompt, a, b)}
        for prompt, a, b in zip(prompts, ours, theirs, strict=True)
        if a != b
    ]
    equal = 1 - len(differing) / len(rows)
    print(json.dumps({"prompts": len(rows), "equal": equal, "differing": differing}, indent=2))


if __name__ == "__main__":
    main()
