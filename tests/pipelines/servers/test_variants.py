"""Models with variants: one server for all of them, and a look at servers and prompts before a search."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipelines import PipelineSpec, SpecError, load_spec
from pipelines.examples import Example
from pipelines.servers.clients import ModelClients
from pipelines.servers.commands import commands
from pipelines.servers.patience import Patience
from pipelines.servers.preflight import Problem, preflight
from tests.agenttts.choosing import write_choosing
from tests.agenttts.commands import agenttts
from tests.agenttts.small_specs import small_spec
from tests.servers import ScriptedServer

LOCAL = "http://127.0.0.1:8123/v1"


def varied(base_url: str = LOCAL, *, variants: dict[str, Any], **stage: Any) -> PipelineSpec:
    return small_spec(
        params={"q": 1e6},
        base_url=base_url,
        model={"served_name": "small", "variants": variants},
        stages=({"models": ["q"], **stage},),
    )


def test_variants_are_served_by_one_server(tmp_path: Path) -> None:
    """`agenttts serve --dry-run` prints one command, for the name that requests have."""
    spec = write_choosing(tmp_path, LOCAL)
    printed = agenttts("serve", spec, "--dry-run")
    assert printed.code == 0, printed.err
    assert printed.out.count("--served-model-name small") == 1
    assert "# q/think, q/fast" in printed.out
    loaded = load_spec(spec)
    for named in (["q"], ["q/fast"], ["q/think", "q/fast"]):
        (one,) = commands(loaded, named, device="cpu")
        assert "small" in one.argv
    with pytest.raises(SpecError, match="no such model, got 'r'"):
        commands(loaded, ["r"], device="cpu")


def test_an_adapter_of_a_model_with_variants_is_served_beside_it(tmp_path: Path) -> None:
    """One server has the base and the adapter, whichever variants are wanted."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 8}')
    model = {"base_url": LOCAL, "active_params": 1e6}
    models = {
        "q": {**model, "variants": {"a": {}, "b": {"request": {"top_k": 5}}}},
        "tuned": {**model, "parent": "q", "path": "adapter"},
    }
    spec = small_spec(models=models, stages=({"models": ["q", "tuned"]},), root=tmp_path)
    (one,) = commands(spec, device="cpu")
    assert one.models == ("q/a", "q/b", "tuned") and "--lora-modules" in one.argv


EXAMPLE = Example("e1", {"question": "why", "gold": "red"})


async def problems_of(spec: PipelineSpec) -> list[Problem]:
    clients = ModelClients(spec, rng=random.Random(0), patience=Patience(retry_s=0))
    try:
        return await preflight(spec, clients, [EXAMPLE])
    finally:
        await clients.aclose()


async def test_preflight_asks_for_the_served_name(server: ScriptedServer) -> None:
    """A variant is found under its model's served name; a wrong one is told with its place."""
    assert await problems_of(varied(server.base_url, variants={"a": {}, "b": {}})) == []
    other = small_spec(
        params={"q": 1e6},
        base_url=server.base_url,
        model={"variants": {"a": {}}},
        stages=({"models": ["q"]},),
    )
    (problem,) = await problems_of(other)
    assert problem.place == "models.q/a.served_name" and "got 'q'" in problem.message


async def test_preflight_looks_at_every_prompt(server: ScriptedServer) -> None:
    """A named prompt that does not fit the context is told, though the stage's own fits."""
    prompts = {"long": {"text": "word " * 5000 + "{{ question }}"}}
    spec = varied(server.base_url, variants={"a": {}}, prompts=prompts)
    (problem,) = await problems_of(spec)
    assert "prompt and generation must fit the 4096 tokens of q/a" in problem.message
    assert "needs 50" in problem.message
