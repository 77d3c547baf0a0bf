"""The real requests of a check: their shape is the search's, and what came of them is told."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agenttts.search.rehearsal import PlannedRequest, Rehearsed, announcement, plan_rehearsal, rehearse
from agenttts.space.space import SearchSpace
from pipelines import load_spec
from pipelines.dataset import load_examples
from pipelines.servers.clients import ModelClients
from pipelines.servers.patience import Patience
from pipelines.spec.pipeline import PipelineSpec
from tests.agenttts.choosing import FUNCTION, calls_of, choosing_server, write_choosing
from tests.agenttts.commands import agenttts
from tests.agenttts.small_specs import small_spec, write_examples, write_pipeline
from tests.servers import Request, ScriptedServer

PRICE = {"price": {"prompt_usd_per_million": 10.0, "generated_usd_per_million": 20.0}}
MakeServer = Callable[..., ScriptedServer]


def shape(request: Request) -> tuple[str, frozenset[str], int]:
    """What a server may refuse: the path, the fields and n."""
    return request.path, frozenset(request.body), request.n


async def rehearsed(spec: PipelineSpec) -> dict[str, Rehearsed]:
    example = load_examples(spec, "search")[0]
    clients = ModelClients(spec, rng=random.Random(0), patience=Patience(retry_s=0))
    try:
        results = await rehearse(
            spec, plan_rehearsal(SearchSpace(spec, spec.budget.amount), example), example, clients
        )
    finally:
        await clients.aclose()
    return {f"{one.stage} × {one.model}": one for one in results}


def live(root: Path, server: ScriptedServer, **changes: Any) -> PipelineSpec:
    write_examples(root, 12)
    return small_spec(base_url=server.base_url, root=root, **changes)


def test_the_requests_are_those_of_the_search(tmp_path: Path, server: ScriptedServer) -> None:
    """Path, fields, n and prompt are as the search sends them, one for each stage and model, said before."""
    spec = write_pipeline(tmp_path, server.base_url)
    checked = agenttts("check", spec)
    assert checked.code == 0, checked.err
    sent = {(r.model, r.prompt.split()[0]): r for r in server.arrived}
    assert len(server.arrived) == len(sent) == 4
    assert "sending 4 real requests" in checked.err.splitlines()[0]
    assert "--no-requests leaves them out" in checked.err
    server.arrived.clear()
    command = ("search", spec, "--trials", 2, "--proposer", "insights", "--db", tmp_path / "r.duckdb")
    assert agenttts(*command).code == 0
    searched = {(r.model, r.prompt.split()[0]): r for r in reversed(server.arrived)}
    for place, request in sent.items():
        assert (*shape(request)[:2], request.n > 1) == (*shape(searched[place])[:2], searched[place].n > 1)
        assert request.n >= searched[place].n and request.max_tokens == searched[place].max_tokens
    assert sent["small", "find"].prompt == "find search-0"


def test_a_search_draws_nothing_before_its_first_trial(tmp_path: Path, server: ScriptedServer) -> None:
    """The preflight of a search sends no request for samples; neither does a check that is told not to."""
    spec = write_pipeline(tmp_path, server.base_url)
    done = agenttts("check", spec, "--no-requests")
    assert done.code == 0 and not server.arrived and "sending" not in done.err
    assert agenttts("check", spec, "--no-requests", "--json").json["cost"]["calls"] == 0
    found = agenttts("search", spec, "--trials", 2, "--db", tmp_path / "r.duckdb", "--json").json
    assert found["cost"]["samples_drawn"] == sum(server.samples.values())


@pytest.mark.parametrize(
    "behaviour",
    [
        {},
        {"most_n": 1},
        {"refuses": ("logprobs", "response_format")},
        {"fault": lambda request: "short"},
        {"fault": lambda request: "empty"},
        {"fault": lambda request: "garbage"},
        {"fault": lambda request: "cut_json"},
    ],
    ids=["plain", "one at a time", "refusing", "short", "empty", "garbage", "cut"],
)
def test_a_check_draws_at_most_what_it_announces(
    tmp_path: Path, make_server: MakeServer, behaviour: dict[str, Any]
) -> None:
    """Samples and generated tokens, by the server's own count, however it answers; without requests none."""
    server = make_server(**behaviour)
    spec = write_pipeline(tmp_path, server.base_url)
    agenttts("check", spec, "--no-requests")
    agenttts("check", spec, "--offline")
    assert not server.arrived
    line = agenttts("check", spec).err.splitlines()[0]
    announced = re.search(
        r"sending (\d+) real requests.*at most (\d+) samples, ([\d,]+) generated tokens", line
    )
    assert announced is not None, line
    n_requests, n_samples, n_tokens = (int(number.replace(",", "")) for number in announced.groups())
    assert server.arrived and n_requests == 4
    assert sum(server.samples.values()) <= n_samples and server.generated_tokens <= n_tokens


async def test_cost_and_findings_are_the_servers_own(tmp_path: Path, make_server: MakeServer) -> None:
    """Calls, tokens and dollars equal the server's count; log-probabilities and values are told."""
    server = make_server()
    spec = live(tmp_path, server, model=PRICE)
    results = await rehearsed(spec)
    while server.n_answered < 4:  # it counts an answer once it has sent it
        await asyncio.sleep(0.01)
    assert sum(one.calls for one in results.values()) == server.n_answered == 4
    assert sum(one.prompt_tokens for one in results.values()) == server.prompt_tokens
    assert sum(one.generated_tokens for one in results.values()) == server.generated_tokens
    usd = sum(one.cost_usd or 0.0 for one in results.values())
    assert usd == pytest.approx((10 * server.prompt_tokens + 20 * server.generated_tokens) / 1e6)
    assert all(one.logprobs and not one.findings() for one in results.values())
    assert "parse; log-probabilities come" in results["answer × small"].line
    example = load_examples(spec, "search")[0]
    planned = plan_rehearsal(SearchSpace(spec, spec.budget.amount), example)
    n = sum(request.n for request in planned if isinstance(request, PlannedRequest))
    assert f"at most {n} samples, {16 * n:,} generated tokens, $" in announcement(spec, planned, example)


@pytest.mark.parametrize(
    ("severity", "message", "told"),
    [
        (
            "warning",
            {"finish_reason": "length"},
            "100 % of the samples were cut at max_tokens 16; raise sampling.max_tokens",
        ),
        (
            "error",
            {"content": None, "reasoning_content": "let me see"},
            "100 % of the samples hold no answer (nothing but reasoning)",
        ),
        (
            "error",
            {"content": None, "reasoning": "hm", "finish_reason": "length"},
            "100 % of the samples were cut at max_tokens 16, 100 % have no value; raise sampling.max_tokens",
        ),
        ("warning", {"content": ""}, "100 % of the samples hold no answer"),
        ("warning", {"content": "<think>so</think>"}, "100 % of the samples hold no answer"),
        ("warning", {"content": "who knows"}, "finds no value in 100 % of the samples (no JSON value)"),
    ],
)
async def test_what_a_first_answer_lacks(
    tmp_path: Path, make_server: MakeServer, severity: str, message: Mapping[str, Any], told: str
) -> None:
    """Cut, empty or without a value: a warning with the remedy; no text at all: an error."""
    server = make_server(message=lambda request, text: message, answer=lambda request, index: "1")
    stages = [{}, {"parser": {"kind": "json"}, "models": ["small"]}]
    results = await rehearsed(live(tmp_path, server, stages=stages))
    (finding,) = results["answer × small"].findings()
    assert finding.severity == severity and finding.place == "stages[answer]"
    assert told in finding.message, finding


def test_a_server_that_takes_less_is_told(tmp_path: Path, make_server: MakeServer) -> None:
    """What is renamed, dropped and split is told, and no error: the search does the same."""
    server = make_server(most_n=1, refuses=["temperature", "logprobs", "max_tokens"])
    spec = write_pipeline(tmp_path, server.base_url)
    done = agenttts("check", spec)
    assert done.code == 0, done.err
    for words in ("max_n: 1", "temperature dropped", "sent as max_completion_tokens", "do not come"):
        assert words in done.err
    shown = agenttts("check", spec, "--json").json
    found = {(one["model"], one["field"]) for one in shown["negotiated"]}
    fields = ("n", "temperature", "logprobs", "max_tokens")
    assert shown["ok"] and found == {(model, field) for model in ("small", "large") for field in fields}
    assert shown["cost"]["calls"] == len(shown["requests"]) == 4
    assert json.loads(json.dumps(shown["requests"]))[0]["logprobs"] is False


async def test_a_server_that_ignores_n_is_told(tmp_path: Path, make_server: MakeServer) -> None:
    """Each further sample is billed its prompt again, so the spec should have `max_n`."""
    text = {"index": 0, "message": {"role": "assistant", "content": "red"}, "finish_reason": "stop"}
    answer = {"choices": [text], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    server = make_server(reply=lambda request: (200, answer, {}))
    results = await rehearsed(live(tmp_path, server, model={"max_n": 8}))
    (finding,) = results["answer × small"].findings()
    assert finding.severity == "warning" and "brought 1; set max_n: 1" in finding.message
    results = await rehearsed(live(tmp_path, server, model={"max_n": 1}))
    assert not results["answer × small"].findings()


def test_a_request_that_would_end_the_search_is_an_error(tmp_path: Path, make_server: MakeServer) -> None:
    """The server's own words, exit code 2; a prompt that is refused is a warning, since others may not be."""
    error = {"error": {"message": "tenant is not provisioned", "type": "x"}}
    server = make_server(reply=lambda request: (400, error, {}))
    spec = write_pipeline(tmp_path, server.base_url)
    done = agenttts("check", spec)
    assert done.code == 2 and any("tenant is not provisioned" in line for line in done.errors), done.err
    server.reply = lambda request: (500, {"error": {"message": "no disk space"}}, {})
    assert "no disk space" in agenttts("check", spec).err
    server.reply = None
    server.fault = lambda request: "filtered" if "search-0" in request.prompt else None
    done = agenttts("check", spec)
    assert done.code == 0 and "content filter" in done.err, done.err


def test_an_overloaded_server_is_waited_for(tmp_path: Path, server: ScriptedServer) -> None:
    """A 429 or a passing fault at the first request is no finding."""
    spec = write_pipeline(tmp_path, server.base_url)
    server.fault_next("429", "500")
    done = agenttts("check", spec)
    assert done.code == 0 and not done.errors, done.err


def test_a_finding_of_a_request_names_file_and_line(tmp_path: Path, make_server: MakeServer) -> None:
    """As those that need no request do, so that a person finds the stage in the spec."""
    server = make_server(message=lambda request, text: {"finish_reason": "length"})
    spec = write_pipeline(tmp_path, server.base_url)
    findings = agenttts("check", spec, "--json").json["findings"]
    cut = [finding["place"] for finding in findings if "cut at max_tokens" in finding["message"]]
    for stage in load_spec(spec).stages:
        line = next(
            n for n, text in enumerate(spec.read_text().splitlines(), 1) if f"name: {stage.name}" in text
        )
        assert f"{spec}:{line}: stages[{stage.name}]" in cut


async def test_models_that_pick_or_fuse_are_asked_too(tmp_path: Path, make_server: MakeServer) -> None:
    """A verifier classifies, and a fuser fuses, samples that came; a refined stage asks for one."""
    server = make_server(classify=lambda request: [0.2, 0.8], models={"small": 99, "large": 99, "judge": 99})
    stages = [
        {"verifiers": ["judge"], "models": ["small"]},
        {
            "aggregator": {"kind": "fusion", "model": "large", "prompt": "fuse {{ samples }}"},
            "models": ["small"],
        },
        {
            "aggregator": {"kind": "refine", "start": "answer"},
            "prompt": "mend {{ draft }} {{ question }}",
            "inputs": ["answer"],
            "models": ["small"],
        },
    ]
    params = {"small": 1e6, "large": 4e6, "judge": 1e6}
    results = await rehearsed(live(tmp_path, server, stages=stages, params=params, budget=400.0))
    assert list(results) == [
        "retrieve × small",
        "answer × small",
        "check × small",
        "retrieve × judge",
        "answer × large",
    ]
    assert results["check × small"].n_asked == 1 and results["retrieve × small"].n_asked > 1
    assert len(server.classified) == 1 and "one classification" in results["retrieve × judge"].line
    assert any(request.prompt.startswith("fuse [") for request in server.arrived)
    assert not any(one.findings() for one in results.values())


def test_functions_are_called_once_with_each_option(tmp_path: Path) -> None:
    """The announcement says so, what came of each is told, and every prompt is sent."""
    with choosing_server() as server:
        spec = write_choosing(tmp_path, server.base_url)
        checked = agenttts("check", spec)
        assert checked.code == 0, checked.err
        announced, *lines = checked.err.splitlines()
        assert "sending 4 real requests" in announced
        assert "calling functions 3 times, once for each option" in announced
        assert any(line.startswith("find × overlap-2: returned") for line in lines)
        for option in ("q/think", "q/think:steps", "q/fast", "q/fast:steps"):
            assert sum(line.startswith(f"answer × {option}: ") for line in lines) == 1
        assert len(calls_of(spec)) == 3 and len(server.arrived) == 4
        assert sum(request.prompt.startswith("Think.") for request in server.arrived) == 2
        assert agenttts("check", spec, "--no-requests").code == 0 and len(calls_of(spec)) == 3


def test_a_broken_function_is_told_before_a_search(tmp_path: Path) -> None:
    """A function of examples that fails is an error; one of stand-ins for inputs only a warning."""
    with choosing_server() as server:
        fault = "    if method == 'alphabet':\n        raise OSError('gone\\n  away')\n"
        broken = FUNCTION.replace("    words =", f"{fault}    words =")
        spec = write_choosing(tmp_path / "first", server.base_url, function=broken)
        checked = agenttts("check", spec)
        assert checked.code == 2
        assert any("stages[find]" in e and "find raised OSError: gone away" in e for e in checked.errors)
        assert not any("overlap" in error for error in checked.errors)
        of_input = FUNCTION + "\n\ndef shorten(answer):\n    return answer.nothing\n"
        spec = write_choosing(tmp_path / "second", server.base_url, function=of_input)
        module = next(spec.parent.glob("retriever_*.py")).stem
        stage = f'  - name: shorten\n    python: "{module}:shorten"\nmetric:'
        spec.write_text(spec.read_text().replace("metric:", stage))
        checked = agenttts("check", spec)
        assert checked.code == 0, checked.err
        assert "warning: " in checked.err and "shorten raised AttributeError" in checked.err
