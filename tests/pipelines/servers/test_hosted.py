"""A whole pipeline against a hosted-style server: one sample a request, few fields, a limit, thinking."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from datastore import Store
from pipelines import PipelineSpec, SpecError
from pipelines.allocation import Allocation, StageChoice
from pipelines.examples import Example
from pipelines.runtime import Runtime
from pipelines.runtime.sampler import Sampler
from pipelines.servers.clients import ModelClients
from pipelines.spec.files import dump_spec, restore_spec, spec_digest
from pipelines.spec.models import ModelSpec, SamplingSpec
from tests.agenttts.small_specs import small_spec
from tests.servers import ScriptedServer
from tests.servers.scripted import Request

EXAMPLES = [Example(f"e{k}", {"question": f"question {k}", "gold": "red"}) for k in range(12)]


class Bill:
    """A gate without limits that adds up what is settled."""

    def __init__(self) -> None:
        self.prompt_tokens = self.generated_tokens = self.n_requests = 0

    async def reserve(self, model: str, prompt_tokens_bound: int, generated_tokens_bound: int) -> Bill:
        return self

    def settle(self, prompt_tokens: int, generated_tokens: int) -> None:
        self.n_requests += 1
        self.prompt_tokens += prompt_tokens
        self.generated_tokens += generated_tokens


def in_parts(request: Request, text: str) -> Mapping[str, Any]:
    """The text as reasoning models of some hosts answer."""
    return {"content": [{"type": "thinking", "thinking": "let me see"}, {"type": "text", "text": text}]}


def small_only(server: ScriptedServer, **model: Any) -> PipelineSpec:
    return small_spec(base_url=server.base_url, params={"small": 1e6}, model=model)


async def run(
    spec: PipelineSpec, store: Store, bill: Bill | None = None, n: int = 4, **settings: Any
) -> tuple[list[Any], ModelClients]:
    clients = ModelClients(spec, rng=random.Random(0), **{"backoff_s": 0.01, **settings})
    runtime = Runtime(spec, store, clients, run_id="run", gate=bill)
    allocation = Allocation({stage.name: StageChoice("small", n) for stage in spec.stages})
    try:
        return await asyncio.gather(*(runtime.run_example(allocation, e) for e in EXAMPLES)), clients
    finally:
        await clients.aclose()


async def test_a_hosted_server_and_a_plain_spec(tmp_path: Path, make_server: Any) -> None:
    """Nothing is missing, and calls and tokens are the server's own, to the last one."""
    server = make_server(
        most_n=1,
        refuses=["temperature", "logprobs", "max_tokens"],
        most_in=(60, 1.0),
        message=in_parts,
        models={"small": 4096},
    )
    bill = Bill()
    with Store.open(tmp_path / "hosted.duckdb") as store:
        outcomes, clients = await run(small_only(server), store, bill)
    assert [outcome.status for outcome in outcomes] == ["ok"] * len(EXAMPLES)
    assert {one.field for one in clients.negotiated} == {"temperature", "logprobs", "max_tokens", "n"}
    assert all(one.model == "small" for one in clients.negotiated)
    calls = sum(stage.calls for outcome in outcomes for stage in outcome.stages)
    assert calls == bill.n_requests == server.n_answered
    assert bill.prompt_tokens == server.prompt_tokens
    assert bill.generated_tokens == server.generated_tokens


async def test_what_is_no_text_is_missing_and_paid_for(tmp_path: Path, server: ScriptedServer) -> None:
    """A refused prompt and an answer that is none make their examples missing, with reasons, never 0."""

    def message(request: Request, text: str) -> Mapping[str, Any]:
        return {"content": None, "refusal": "I will not"} if "question 3" in request.prompt else {}

    server.message = message
    server.fault = lambda request: "filtered" if "question 5" in request.prompt else None
    bill = Bill()
    with Store.open(tmp_path / "missing.duckdb") as store:
        outcomes, _ = await run(small_only(server), store, bill)
    missing = {outcome.example_id: outcome for outcome in outcomes if outcome.status == "error"}
    assert missing.keys() == {"e3", "e5"}
    assert all(outcome.score is None for outcome in missing.values())
    assert "refused by the model: I will not" in missing["e3"].reason
    assert "content filter" in missing["e5"].reason
    assert (bill.prompt_tokens, bill.generated_tokens) == (server.prompt_tokens, server.generated_tokens)


async def test_a_sample_that_is_missing_is_drawn_again(tmp_path: Path, server: ScriptedServer) -> None:
    """One answer of four that is no text is made up for; what came of its request is kept."""
    server.answer = lambda request, index: "" if index == 2 and "question 1" in request.prompt else "red"
    server.message = lambda request, text: {} if text else {"content": None, "reasoning": "hm"}
    with Store.open(tmp_path / "again.duckdb") as store:
        outcomes, _ = await run(small_only(server), store)
    assert [outcome.status for outcome in outcomes] == ["ok"] * len(EXAMPLES)
    assert max(stage.calls for outcome in outcomes for stage in outcome.stages) == 2


async def test_request_and_sampling_of_a_model(tmp_path: Path, server: ScriptedServer) -> None:
    """Further fields and the model's own sampling are sent, a seed moves on, and all is part of the key."""
    own = {
        "request": {"seed": 7, "extra_body": {"top_k": 5}, "chat_template_kwargs": {"thinking": False}},
        "sampling": {"temperature": None, "max_tokens": 32},
        "max_n": 2,
    }
    spec = small_only(server, **own)
    with Store.open(tmp_path / "own.duckdb") as store:
        await run(spec, store)
        plain, sampler = (
            Sampler(one, store, None, run_id=None, replay=True, gate=None)
            for one in (small_only(server), spec)
        )
        content = {"messages": [{"role": "user", "content": "x"}]}
        assert plain.prompt("small", content, SamplingSpec()).sampling == (
            '{"max_tokens":256,"stop":[],"temperature":1.0,"top_p":1.0}'
        )
        keyed = sampler.prompt("small", content, SamplingSpec()).sampling
    body = server.arrived[0].body
    assert body["top_k"] == 5 and body["chat_template_kwargs"] == {"thinking": False}
    assert "temperature" not in body and "extra_body" not in body and body["max_tokens"] == 32
    assert {request.body["seed"] for request in server.arrived} == {7, 9}
    assert '"request":{"chat_template_kwargs":' in keyed and '"temperature":null' in keyed
    assert restore_spec(dump_spec(spec)).models == spec.models
    assert spec_digest(spec) != spec_digest(small_only(server))


@pytest.mark.parametrize(
    ("request_fields", "law"),
    [
        ({"n": 2}, "must leave n out"),
        ({"temperature": 1}, "must leave temperature out, which stands in sampling"),
        ({"extra_body": {"stream": True}}, "must leave stream out"),
        ({"extra_body": 5}, "must be a mapping"),
        ({"top_k": 5, "extra_body": {"top_k": 6}}, "must name a field once"),
        ({"x": float("nan")}, "finite number"),
    ],
)
def test_fields_that_are_not_the_users(request_fields: dict[str, Any], law: str) -> None:
    """The product's own fields, fields twice and what is no JSON are refused with the reason."""
    with pytest.raises(ValueError, match=law):
        ModelSpec(base_url="http://x/v1", active_params=1, request=request_fields)


def test_laws_look_at_the_models_own_sampling() -> None:
    """A model that samples greedily can't be a candidate where several samples may be drawn."""
    with pytest.raises(SpecError, match=r"models\.small\.sampling\.temperature: must be > 0"):
        small_spec(params={"small": 1e6}, model={"sampling": {"temperature": 0}})
