"""Specs for tests and benchmarks: two stages (retrieve, answer), models of any size, examples on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.spec.pipeline import PipelineSpec

SPEC = """\
name: small
models:
  small: {{served_name: small, base_url: "{url}", active_params: 1.0e+6}}
  large: {{served_name: large, base_url: "{url}", active_params: 4.0e+6}}
stages:
  - name: retrieve
    prompt: "find {{{{ question }}}}"
    models: [small, large]
    max_samples: 8
    sampling: {{max_tokens: 8}}
    prompt_tokens: 8
    generated_tokens: 2
  - name: answer
    prompt: "answer {{{{ question }}}} with {{{{ retrieve }}}}"
    models: [small, large]
    max_samples: 8
    sampling: {{max_tokens: 8}}
    prompt_tokens: 8
    generated_tokens: 2
metric: {{kind: exact_match, label: answer}}
dataset: {{search: search.jsonl, test: test.jsonl}}
budget:
  units: 60
  reference: {{active_params: 1.0e+6, prompt_tokens: 8, generated_tokens: 2}}
"""
REFERENCE = {"active_params": 1e6, "prompt_tokens": 16, "generated_tokens": 8}


def small_spec(
    *,
    params: Mapping[str, float] | None = None,
    budget: float | None = 40.0,
    usd: float | None = None,
    base_url: str = "http://127.0.0.1:9/v1",
    stages: Sequence[Mapping[str, Any]] = ({}, {}),
    model: Mapping[str, Any] | None = None,
    **spec: Any,
) -> PipelineSpec:
    """A pipeline with the given models at each stage; `stages` and `model` override their fields."""
    params = params or {"small": 1e6, "large": 4e6}
    names = ("retrieve", "answer", "check", "polish", "judge", "close")
    parts: list[dict[str, Any]] = []
    for name, changes in zip(names, stages, strict=False):
        part = {
            "name": name,
            "prompt": "question {{ question }}" + (f" {{{{ {names[len(parts) - 1]} }}}}" if parts else ""),
            "models": list(params),
            "max_samples": 8,
            "sampling": {"max_tokens": 16},
            "prompt_tokens": 16,
            "generated_tokens": 8,
        }
        parts.append({**part, **changes})
    fields = {
        "name": "small",
        "stages": parts,
        "models": {
            name: {"base_url": base_url, "active_params": size, **(model or {})}
            for name, size in params.items()
        },
        "dataset": {"search": "search.jsonl", "test": "test.jsonl"},
        "metric": {"kind": "exact_match", "label": "gold"},
        "budget": {"units": budget, "usd": usd, "reference": REFERENCE},
    }
    return PipelineSpec.model_validate({**fields, **spec})


def write_examples(root: Path, n_search: int = 6, n_test: int = 4) -> None:
    """Both splits, as JSON lines with `question` and `gold`."""
    for split, n in (("search", n_search), ("test", n_test)):
        rows = [{"question": f"{split} {i}", "gold": "red"} for i in range(n)]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_pipeline(folder: Path, url: str) -> Path:
    """A pipeline file for a scripted server at `url`, with 24 search and 12 test examples; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("search", 24), ("test", 12)):
        rows = [{"question": f"{split}-{i}", "answer": ("red", "green", "blue")[i % 3]} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = folder / "pipeline.yaml"
    spec.write_text(SPEC.format(url=url))
    return spec
