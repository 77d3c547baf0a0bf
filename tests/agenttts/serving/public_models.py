"""The models of the published pipelines, by the sizes that their public config.json files have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec

FIELDS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
)
SIZES: Mapping[str, tuple[int | bool, ...]] = {
    "Qwen/Qwen2.5-7B-Instruct": (28, 3584, 28, 4, 18944, 152064, False),
    "Qwen/Qwen2.5-32B-Instruct": (64, 5120, 40, 8, 27648, 152064, False),
    "Qwen/Qwen2.5-72B-Instruct": (80, 8192, 64, 8, 29568, 152064, False),
    "meta-llama/Llama-3.2-3B-Instruct": (28, 3072, 24, 8, 8192, 128256, True),
    "meta-llama/Llama-3.1-8B-Instruct": (32, 4096, 32, 8, 14336, 128256, False),
    "meta-llama/Llama-3.1-70B-Instruct": (80, 8192, 64, 8, 28672, 128256, False),
}
PARAMS: Mapping[str, float] = {
    "Qwen/Qwen2.5-7B-Instruct": 7.616e9,
    "Qwen/Qwen2.5-32B-Instruct": 32.764e9,
    "Qwen/Qwen2.5-72B-Instruct": 72.706e9,
    "meta-llama/Llama-3.2-3B-Instruct": 3.213e9,
    "meta-llama/Llama-3.1-8B-Instruct": 8.030e9,
    "meta-llama/Llama-3.1-70B-Instruct": 70.554e9,
}
"""As their cards state them."""
PIPELINES = (
    "retrieve_answer/hotpotqa",
    "rag/2wiki-rag",
    "knowledge_graph/cwq",
    "tool_use/taskbench_dailylife",
    "software/mbpp",
)
"""One of each family; the others of a family have the same models."""
MACHINES = ("1x24", "1x80", "2x80", "4x80", "8x80", "8x141")
ROOT = Path(__file__).parents[3] / "pipelines"


def config(name: str, **changes: object) -> dict[str, object]:
    """The config.json of a model, as far as memory depends on it."""
    return {**dict(zip(FIELDS, SIZES[name], strict=True)), "max_position_embeddings": 131072, **changes}


def write_configs(root: Path, names: Sequence[str] = tuple(SIZES)) -> dict[str, Path]:
    """A directory for each model, with its config.json and no weights."""
    directories = {name: root / name.replace("/", "--") for name in names}
    for name, directory in directories.items():
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(config(name)))
    return directories


def published(name: str, directories: Mapping[str, Path]) -> PipelineSpec:
    """A published pipeline whose models lie in these directories."""
    spec = load_spec(ROOT / f"{name}.yaml")
    local = {
        key: model.model_copy(update={"path": str(directories[str(model.path)])})
        for key, model in spec.models.items()
    }
    return spec.model_copy(update={"models": local})
