"""What is found before a token is spent."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from agenttts.search.check import check
from agenttts.search.findings import Finding
from pipelines.servers.clients import ModelClients
from pipelines.servers.patience import Patience
from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec
from tests.agenttts.small_specs import SPEC, small_spec, write_examples
from tests.servers import ScriptedServer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_examples(tmp_path, 150, 20)
    return tmp_path


async def checked(spec: PipelineSpec, budget: float | None = None) -> list[Finding]:
    clients = ModelClients(spec, rng=random.Random(0), patience=Patience(retry_s=0, timeout_s=60))
    try:
        return await check(spec, budget, clients=clients)
    finally:
        await clients.aclose()


async def test_a_sound_pipeline(server: ScriptedServer, root: Path) -> None:
    """Nothing is found where nothing is wrong, offline or with the servers up, and nothing is drawn."""
    spec = small_spec(base_url=server.base_url, root=root)
    assert await check(spec) == []
    assert await checked(spec) == []
    assert server.samples.total() == 0


@pytest.mark.parametrize(
    ("spec", "budget", "severity", "place", "message"),
    [
        ({}, 1.0, "error", "budget.units", "raise the budget"),
        (
            {},
            5.0,
            "warning",
            "stages[retrieve].models",
            "one sample of 'large' is over the budget of 5 units",
        ),
        ({"bank": "none.parquet"}, None, "error", "bank", "must be a file that exists"),
        (
            {"stages": [{"prompt": "{{ question"}, {}]},
            None,
            "error",
            "stages[retrieve].prompt",
            "template error",
        ),
        (
            {"stages": [{"prompt": "{{ city }}"}, {}]},
            None,
            "error",
            "stages[retrieve].prompt",
            "names 'city', which no row has; the rows have question, gold",
        ),
        (
            {"stages": [{"prompt": "{{ question.name }}"}, {}]},
            None,
            "error",
            "stages[retrieve].prompt",
            "(example '1')",
        ),
        (
            {"stages": [{}, {"prompt": "{{ retrieve.name }}"}]},
            None,
            "warning",
            "stages[answer].prompt",
            "(example '1')",
        ),
        (
            {"stages": [{"prompt": "{{ question * 100 }}"}, {}], "model": {"context_length": 200}},
            None,
            "warning",
            "stages[retrieve]",
            "must fit the 200 tokens of 'small'",
        ),
        (
            {"dataset": {"search": "none.jsonl", "test": "test.jsonl"}},
            None,
            "error",
            "dataset.search",
            "must be a file that exists",
        ),
    ],
)
async def test_offline(
    root: Path, spec: dict[str, Any], budget: float | None, severity: str, place: str, message: str
) -> None:
    """Each mistake is found without a server, with its place in the spec and in words."""
    found = await check(small_spec(**spec, root=root), budget)
    matching = [f for f in found if f.place == place and message in f.message]
    assert matching, found
    assert matching[0].severity == severity
    assert all("\n" not in str(finding) for finding in found)
    assert json.loads(json.dumps(matching[0].to_dict())) == matching[0].to_dict()


async def test_what_a_file_says_has_its_line(server: ScriptedServer, root: Path) -> None:
    """Findings about a spec that was read from a file name the file and the line, those of servers too."""
    text = SPEC.format(url=server.base_url).replace("label: answer", "label: gold")
    text = text.replace("served_name: large", "served_name: huge")
    (root / "pipeline.yaml").write_text(text.replace("answer {{ question }}", "answer {{ question.name }}"))
    places = [finding.place for finding in await checked(load_spec(root / "pipeline.yaml"), 1.0)]
    file = root / "pipeline.yaml"
    assert f"{file}:4: models.large.served_name" in places
    assert f"{file}:14: stages[answer].prompt" in places
    assert any(place.endswith(": budget.units") for place in places)


async def test_few_examples(tmp_path: Path) -> None:
    """A search split too small to tell allocations apart is a warning."""
    write_examples(tmp_path, 6, 4)
    (found,) = await check(small_spec(root=tmp_path))
    assert (found.severity, found.place) == ("warning", "dataset.search")


async def test_servers(server: ScriptedServer, root: Path) -> None:
    """A model that is not served is an error that names what is."""
    spec = small_spec(params={"small": 1e6, "huge": 4e6}, base_url=server.base_url, root=root)
    (found,) = await checked(spec)
    assert (found.severity, found.place) == ("error", "models.huge.served_name")
    assert "serves small, large" in found.message


async def test_a_long_prompt_is_counted_by_the_server(root: Path, server: ScriptedServer) -> None:
    """With a server up, a prompt over the context length is found by its exact number of tokens."""
    server.models = {"small": 20, "large": 4096}
    prompt = "{{ question }} a b c d e"
    spec = small_spec(stages=[{"prompt": prompt}, {}], base_url=server.base_url, root=root)
    found = await checked(spec)
    assert any("needs 7 + 16" in finding.message and finding.severity == "error" for finding in found), found


async def test_everything_is_found_at_once(root: Path) -> None:
    """Servers that are down, a budget too small and a missing dataset are one list, errors first."""
    spec = small_spec(dataset={"search": "none.jsonl", "test": "test.jsonl"}, root=root)
    places = [finding.place for finding in await checked(spec, 1.0)]
    assert set(places) >= {"budget.units", "dataset.search", "models.small.base_url", "models.large.base_url"}


async def test_an_unaffordable_model_is_no_error(root: Path) -> None:
    """Warnings come after errors."""
    found = await check(small_spec(bank="none.parquet", root=root), 5.0)
    assert [finding.severity for finding in found] == ["error", "warning", "warning"]
