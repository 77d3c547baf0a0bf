"""A small pipeline on disk whose bank is full: 60 search and 80 test questions, two stages, three models.

Samples come from stated chances by model and stage, so that sizes, votes and the upstream output matter. No
server is needed: whatever allocation a search asks for, the bank has it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datastore import Store
from pipelines.dataset import load_examples
from pipelines.runtime import Runtime
from pipelines.runtime.recording import record_full_bank
from pipelines.servers.billing import Bill
from pipelines.servers.grace import Grace
from pipelines.servers.streamed import TextStream
from pipelines.servers.wire import Draw, DrawnSample
from pipelines.spec import SamplingSpec
from pipelines.spec.files import load_spec

VALUES = ("red", "green", "blue", "black")
RIGHT = {"small": 0.42, "medium": 0.55, "large": 0.68}
SPEC = """\
name: recorded
models:
  small: {base_url: "http://127.0.0.1:9/v1", active_params: 1e6}
  medium: {base_url: "http://127.0.0.1:9/v1", active_params: 4e6}
  large: {base_url: "http://127.0.0.1:9/v1", active_params: 16e6}
stages:
  - name: retrieve
    prompt: "find {{ question }}"
    parser: {kind: choice, allowed: values}
    models: [small, medium, large]
    max_samples: 8
    sampling: {max_tokens: 8}
    prompt_tokens: 16
    generated_tokens: 8
    metric: {kind: exact_match, label: clue}
  - name: answer
    prompt: "answer {{ question }} with {{ retrieve }}"
    models: [small, medium, large]
    max_samples: 8
    sampling: {max_tokens: 8}
    prompt_tokens: 16
    generated_tokens: 8
metric: {kind: exact_match, label: gold}
dataset: {search: search.jsonl, test: test.jsonl, id_field: id}
budget:
  units: 60
  reference: {active_params: 1e6, prompt_tokens: 16, generated_tokens: 8}
bank: bank.parquet
"""


def write_recorded(root: Path) -> Path:
    """Write spec, examples and bank into a directory; the spec's path."""
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("search", 60), ("test", 80)):
        rows = [_row(f"{split}-{i:03d}") for i in range(count)]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = root / "pipeline.yaml"
    path.write_text(SPEC)
    spec = load_spec(path)
    database = root / "recording.duckdb"
    with Store.open(database) as store:
        examples = [*load_examples(spec, "search"), *load_examples(spec, "test")]
        golds = {e["question"]: (e["clue"], e["gold"]) for e in examples}
        runtime = Runtime(spec, store, ByChance(golds), run_id=None)  # type: ignore[arg-type]
        asyncio.run(record_full_bank(runtime, examples))
        store.export_bank(root / "bank.parquet")
    database.unlink()
    return path


class ByChance:
    """Draws as a client would, right with a chance that depends on model, question and upstream output."""

    def __init__(self, golds: Mapping[str, tuple[str, str]]) -> None:
        self._golds = golds
        self.grace = Grace(0.0, lambda line: None)

    async def draw(
        self,
        model: str,
        content: Mapping[str, Any],
        sampling: SamplingSpec,
        n: int,
        *,
        first: int = 0,
        bill: Bill,
        stream: TextStream | None = None,
    ) -> Draw:
        text = str(content["messages"][0]["content"])
        kind, question = text.split()[0], text.split()[1]
        clue, gold = self._golds[question]
        chance = RIGHT[model] * (0.6 + 0.8 * _uniform("ease", question))
        right = clue
        if kind == "answer":
            right = gold
            chance *= 1.0 if text.endswith(clue) else 0.35
        texts = [_pick(right, min(chance, 0.97), model, text, i) for i in range(n)]
        drawn = tuple(
            DrawnSample(text=t, generated_tokens=8, mean_logprob=-0.5, finish_reason="stop") for t in texts
        )
        draw = Draw(samples=drawn, prompt_tokens=16, request_id=None)  # as the spec expects
        draw.billed_to(bill)
        return draw


def _row(name: str) -> dict[str, Any]:
    clue, gold = (VALUES[int(_uniform(part, name) * 4)] for part in ("clue", "gold"))
    return {"id": name, "question": name, "values": list(VALUES), "clue": clue, "gold": gold}


def _pick(right: str, chance: float, *parts: object) -> str:
    if _uniform("hit", *parts) < chance:
        return right
    return VALUES[int(_uniform("miss", *parts) * 4)]


def _uniform(*parts: object) -> float:
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
