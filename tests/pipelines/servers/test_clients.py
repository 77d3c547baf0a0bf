"""Drawing from a server over HTTP: what comes back, what is retried, what stops a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.errors import ConfigurationError, DrawFailed
from pipelines.servers.answers import read_draw
from pipelines.servers.patience import Patience
from pipelines.servers.server import ServerClient
from pipelines.servers.wire import ContextOverflow, Fault
from pipelines.spec.models import SamplingSpec
from tests.servers import ScriptedServer

CHAT = {"messages": [{"role": "user", "content": "which colour is it"}]}
COMPLETION = {"prompt": "the colour is"}
SAMPLING = SamplingSpec(max_tokens=8)
MakeClient = Callable[..., ServerClient]


@pytest.mark.parametrize("content", [CHAT, COMPLETION], ids=["chat", "completion"])
async def test_one_request_draws_n_samples_with_their_tokens(
    server: ScriptedServer, connect: MakeClient, content: dict[str, Any]
) -> None:
    """A draw of 5 is one request; each sample has its text, its own tokens and a mean log-probability."""
    server.answer = lambda request, index: " ".join(["word"] * (index + 1))
    draw = await connect(server).draw("small", content, SAMPLING, 5)
    assert [sample.text for sample in draw.samples] == [" ".join(["word"] * k) for k in range(1, 6)]
    assert [sample.generated_tokens for sample in draw.samples] == [2, 3, 4, 5, 6]
    assert all(sample.mean_logprob is not None and sample.mean_logprob < 0 for sample in draw.samples)
    assert draw.prompt_tokens == len((content.get("prompt") or "which colour is it").split())
    assert draw.request_id
    assert len(server.arrived) == 1


async def test_text_cut_at_max_tokens_says_so(server: ScriptedServer, connect: MakeClient) -> None:
    """A generation that runs into max_tokens is a sample with finish_reason `length`."""
    server.answer = lambda request, index: "one two three four"
    draw = await connect(server).draw("small", CHAT, SamplingSpec(max_tokens=2), 1)
    assert (draw.samples[0].text, draw.samples[0].finish_reason) == ("one two", "length")


PASSING = ["429", "500", "503", "close", "garbage", "empty", "truncated", "cut_json"]


@pytest.mark.parametrize("fault", PASSING)
async def test_a_fault_that_passes_is_retried(
    server: ScriptedServer, connect: MakeClient, fault: str
) -> None:
    """After two failures of any passing kind the third try brings the samples."""
    server.fault_next(fault, fault)
    draw = await connect(server).draw("small", CHAT, SAMPLING, 3)
    assert len(draw.samples) == 3
    assert len(server.arrived) == 3


@pytest.mark.parametrize("fault", PASSING)
async def test_a_fault_that_stays_fails_the_draw(
    server: ScriptedServer, connect: MakeClient, fault: str
) -> None:
    """When every try fails, DrawFailed gives the reason in one line without prompt or key, where nothing is
    held.
    """
    server.fault = lambda request: fault
    patience = Patience(retry_s=0.1, longest_outage_s=0.1)
    client = connect(server, patience=patience, holds=False, api_key="sk-secret")
    with pytest.raises(DrawFailed) as caught:
        await client.draw("small", CHAT, SAMPLING, 3)
    assert caught.value.transient
    assert len(server.arrived) >= 2
    assert f"{len(server.arrived)} tries" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("sk-secret", "colour", "\n"))


async def test_a_hanging_server_is_given_up_and_retried(server: ScriptedServer, connect: MakeClient) -> None:
    """No answer within timeout_s counts as a fault; the next try is answered."""
    server.fault_next("hang")
    draw = await connect(server, patience=Patience(timeout_s=0.5)).draw("small", CHAT, SAMPLING, 1)
    assert len(draw.samples) == 1


async def test_a_dead_server_may_come_back(server: ScriptedServer, connect: MakeClient) -> None:
    """A refused connection is a fault; once the server is back the same client draws again."""
    client = connect(server, patience=Patience(retry_s=0.1), holds=False)
    await client.draw("small", CHAT, SAMPLING, 1)
    server.stop()
    with pytest.raises(DrawFailed, match="connection failed"):
        await client.draw("small", CHAT, SAMPLING, 1)
    server.start()
    assert len((await client.draw("small", CHAT, SAMPLING, 1)).samples) == 1


async def test_retry_after_is_honoured(server: ScriptedServer, connect: MakeClient) -> None:
    """A 429 with Retry-After: 0.3 keeps the next try back for at least that long."""
    server.retry_after_s = 0.3
    server.fault_next("429")
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    await connect(server).draw("small", CHAT, SAMPLING, 1)
    assert loop.time() - start_s >= 0.3


async def test_overload_lowers_the_requests_in_flight(
    make_server: Callable[..., ScriptedServer], connect: MakeClient
) -> None:
    """A server that bears 4 requests at once answers all of 60, with fewer in flight than at the start."""
    server = make_server(most_at_once=4, latency_s=0.005, retry_after_s=0.005)
    client = connect(server)
    draws = await asyncio.gather(*(client.draw("small", CHAT, SAMPLING, 1) for _ in range(60)))
    assert len(draws) == 60
    assert client.limiter.limit < 32


async def test_no_more_requests_than_max_in_flight(
    make_server: Callable[..., ScriptedServer], connect: MakeClient
) -> None:
    """The server never sees more requests at once than the client allows."""
    server = make_server(latency_s=0.01)
    client = connect(server, max_in_flight=6)
    await asyncio.gather(*(client.draw("small", CHAT, SAMPLING, 1) for _ in range(40)))
    assert server.most_in_flight == 6


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        ("no_model", "correct served_name or base_url"),
        ("unauthorized", "correct the key in MY_KEY"),
    ],
)
async def test_a_refusal_stops_at_once_and_names_the_remedy(
    server: ScriptedServer, connect: MakeClient, fault: str, remedy: str
) -> None:
    """404 and 401 are configuration errors: one try, one line that says where."""
    server.fault = lambda request: fault
    client = connect(server, api_key="sk-secret", key_env="MY_KEY")
    with pytest.raises(ConfigurationError, match=remedy) as caught:
        await client.draw("small", CHAT, SAMPLING, 1)
    assert len(server.arrived) == 1
    assert "'small'" in str(caught.value) and server.base_url in str(caught.value)
    assert not any(word in str(caught.value) for word in ("sk-secret", "\n"))


async def test_a_prompt_that_does_not_fit_is_refused_alone(
    make_server: Callable[..., ScriptedServer], connect: MakeClient
) -> None:
    """A prompt over the context length raises ContextOverflow with a remedy; others are drawn."""
    server = make_server(models={"small": 10})
    client = connect(server)
    with pytest.raises(ContextOverflow, match="shorten the prompt") as caught:
        await client.draw("small", CHAT, SAMPLING, 1)
    assert not caught.value.transient and len(server.arrived) == 1
    assert len((await client.draw("small", CHAT, SamplingSpec(max_tokens=2), 1)).samples) == 1


async def test_a_token_limit_over_the_context_stops_the_run(
    make_server: Callable[..., ScriptedServer], connect: MakeClient
) -> None:
    """Where max_tokens alone is more than the context length, no prompt can ever fit."""
    client = connect(make_server(models={"small": 10}))
    with pytest.raises(ConfigurationError, match="leaves no room for a prompt; lower it"):
        await client.draw("small", CHAT, SamplingSpec(max_tokens=20), 1)


@pytest.mark.parametrize("content", [CHAT, COMPLETION], ids=["chat", "completion"])
async def test_a_server_without_logprobs_still_draws(
    make_server: Callable[..., ScriptedServer], connect: MakeClient, content: dict[str, Any]
) -> None:
    """Where log-probabilities are refused, samples come without, and tokens are split from the usage."""
    server = make_server(refuses=["logprobs"])
    client = connect(server)
    for _ in range(2):
        draw = await client.draw("small", content, SAMPLING, 4)
        assert [s.mean_logprob for s in draw.samples] == [None] * 4
        assert sum(s.generated_tokens for s in draw.samples) == 8
    assert len(server.arrived) == 3  # asked for log-probabilities once


async def test_the_samples_that_came_are_kept(server: ScriptedServer, connect: MakeClient) -> None:
    """An answer with fewer choices than asked for is no fault: what came is paid for."""
    server.fault_next("short")
    draw = await connect(server).draw("small", CHAT, SAMPLING, 4)
    assert len(draw.samples) == 1


async def test_tokens_are_counted_where_the_server_can(
    make_server: Callable[..., ScriptedServer], connect: MakeClient
) -> None:
    """/tokenize gives a prompt's tokens; a server without it gives None."""
    assert await connect(make_server()).count_tokens("small", CHAT) == 4
    assert await connect(make_server(tokenizes=False)).count_tokens("small", CHAT) is None


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "text",
        {},
        {"choices": None},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{"index": 0}]},
        {"choices": [{"text": 5}]},
        {"choices": [{"message": "text"}]},
        {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{}]}}]},
        {"choices": [{"text": "a", "finish_reason": "error"}]},
    ],
)
def test_json_that_is_no_completion_is_a_fault(answer: Any) -> None:
    """Any JSON that lacks what a completion promises counts as a fault of the server."""
    with pytest.raises(Fault):
        read_draw(answer, 1)


def test_tokens_beyond_the_logprobs_are_split_evenly() -> None:
    """Where usage counts more tokens than have log-probabilities, as with hidden reasoning, none is lost."""
    choice = {"message": {"content": "a"}, "logprobs": {"content": [{"logprob": -1.0}, {"logprob": -2.0}]}}
    draw = read_draw({"choices": [choice] * 3, "usage": {"completion_tokens": 16}}, 3)
    assert [sample.generated_tokens for sample in draw.samples] == [6, 5, 5]
    assert draw.samples[0].mean_logprob == -1.5
    assert draw.prompt_tokens is None
