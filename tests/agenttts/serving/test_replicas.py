"""Replicas on one machine: servers at free ports, and a router at the model's own address."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import httpx2
import pytest

from agenttts.serving.machine import parse_gpus
from agenttts.serving.servers import planned_servers
from pipelines.servers.group import ServerGroup, free_port
from pipelines.servers.routed import count_replicas
from pipelines.spec.files import load_spec
from pipelines.zoo import SPEC
from tests.agenttts.serving.two_nodes import FIELDS, put_stub_on_path


@pytest.mark.skipif(
    shutil.which("vllm-router") is None, reason="vllm-router is not installed: pip install '.[ray]'"
)
async def test_both_replicas_answer_at_the_models_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests to the address of the pipeline file reach both, each on its own GPU, and both are counted."""
    monkeypatch.setenv("PATH", os.environ["PATH"])
    put_stub_on_path(tmp_path)
    zoo, url = load_spec(SPEC), f"http://127.0.0.1:{free_port()}/v1"
    small = zoo.models["small"].model_copy(update={"base_url": url})
    spec = zoo.model_copy(update={"models": {**zoo.models, "small": small}})
    planned = planned_servers(spec, ["small"], gpus=parse_gpus("2x24"), n_replicas=2)
    started = (*planned.commands, *planned.routers)
    body = {"model": "zoo-small", "messages": [{"role": "user", "content": "question"}], **FIELDS}
    async with ServerGroup(started, log_dir=tmp_path / "logs", timeout_s=120), httpx2.AsyncClient() as client:
        answers = [
            (await client.post(f"{url}/chat/completions", json=body, timeout=60)).json() for _ in range(8)
        ]
        assert await count_replicas([url], {}) == {url: 2}
    words = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert all(sum(f'"gpus": "{gpu}"' in one for one in words) == 4 for gpu in "01"), words
