"""A refused field is renamed, dropped, moved or split, once and before the crowd; a user's own never is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.errors import ConfigurationError, DrawFailed
from pipelines.servers.server import ServerClient
from pipelines.servers.wire import Negotiated, PromptRefused
from pipelines.spec.models import SamplingSpec
from tests.servers import ScriptedServer
from tests.servers.scripted import Request

MakeServer = Callable[..., ScriptedServer]
MakeClient = Callable[..., ServerClient]
SYSTEM = {"role": "system", "content": "Be short."}
CHAT = {"messages": [{"role": "user", "content": "which colour is it"}]}
SAMPLING = SamplingSpec(temperature=0.8, top_p=0.9, max_tokens=8, stop=("END",))
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": True}}


def refusing(
    when: Callable[[dict[str, Any]], bool], words: str, status: int = 400, param: str | None = None
) -> Callable[[Request], tuple[int, Any, dict[str, str]] | None]:
    """A server's reply to bodies of a kind; others are answered."""
    error = {"message": words, "type": "invalid_request_error", "param": param, "code": None}

    def reply(request: Request) -> tuple[int, Any, dict[str, str]] | None:
        return (status, {"error": error}, {}) if when(dict(request.body)) else None

    return reply


def has(field: str) -> Callable[[dict[str, Any]], bool]:
    return lambda body: field in body


def has_system(body: dict[str, Any]) -> bool:
    return any(message["role"] == "system" for message in body["messages"])


@pytest.mark.parametrize(
    ("field", "when", "words", "status", "param", "action"),
    [
        ("max_tokens", has("max_tokens"), "use max_completion_tokens instead", 400, "max_tokens", "renamed"),
        ("max_tokens", has("max_tokens"), "max_tokens: extra fields not permitted", 422, None, "renamed"),
        (
            "temperature",
            has("temperature"),
            "Only the default (1) is supported",
            400,
            "temperature",
            "dropped",
        ),
        ("temperature", has("temperature"), "this model has a fixed temperature", 415, None, "dropped"),
        ("top_p", has("top_p"), "temperature and top_p can't be used together", 400, None, "dropped"),
        ("logprobs", has("logprobs"), "log probabilities are not implemented here", 501, None, "dropped"),
        ("logprobs", has("logprobs"), "Unknown name 'logprobs': no such field", 400, None, "dropped"),
        ("logprobs", has("logprobs"), "you are not allowed to ask for logprobs", 403, None, "dropped"),
        ("stop", has("stop"), "Unsupported parameter: 'stop'", 400, None, "dropped"),
        (
            "response_format",
            has("response_format"),
            "structured outputs are not supported",
            404,
            None,
            "dropped",
        ),
        ("messages", has_system, "this template has no system role", 400, None, "moved"),
        ("messages", has_system, "Input should be 'user' or 'assistant'", 422, "messages[0].role", "moved"),
        ("n", lambda body: body.get("n", 1) > 1, "one completion in a request", 400, None, "split"),
        ("n", lambda body: body.get("n", 1) > 3, "n should be at most 3", 422, None, "split"),
        ("n", has("n"), "property n is unknown", 400, None, "dropped"),
    ],
)
async def test_a_refused_field_is_found_in_other_words(
    make_server: MakeServer,
    connect: MakeClient,
    field: str,
    when: Callable[[dict[str, Any]], bool],
    words: str,
    status: int,
    param: str | None,
    action: str,
) -> None:
    """Whatever the words and the status, the request is accepted, and what was done is told once."""
    told: list[Negotiated] = []
    server = make_server(reply=refusing(when, words, status, param))
    client = connect(server, on_negotiated=told.append)
    content = {"messages": [SYSTEM, *CHAT["messages"]], "response_format": SCHEMA}
    for _ in range(2):
        draw = await client.draw("small", content, SAMPLING, 8)
    assert client.negotiated == tuple(told)
    assert [(one.model, one.field, one.action) for one in told] == [("small", field, action)]
    assert words in told[0].words
    assert len(server.arrived) <= 5  # the second draw is a single request
    assert draw.samples and (draw.most_n is None) == (field != "n")
    assert told[0].warning == (field in ("temperature", "response_format"))


async def test_the_number_that_a_server_takes_is_read_from_its_words(
    make_server: MakeServer, connect: MakeClient
) -> None:
    """An n over the server's limit is cut to it, and to one where no number is named."""
    server = make_server(most_n=4)
    client = connect(server)
    assert len((await client.draw("small", CHAT, SAMPLING, 9)).samples) == 4
    assert client.most_n("small") == 4
    single = make_server(reply=refusing(lambda body: body["n"] > 1, "candidateCount: only one, got 9"))
    assert len((await connect(single).draw("small", CHAT, SAMPLING, 9)).samples) == 1


async def test_one_finding_after_another(make_server: MakeServer, connect: MakeClient) -> None:
    """A server that lacks five things says so one by one; the sixth request is answered."""
    server = make_server(refuses=["max_tokens", "temperature", "top_p", "logprobs", "stop"])
    client = connect(server)
    server.answer = lambda request, index: "red END green"
    draw = await client.draw("small", CHAT, SAMPLING, 2)
    assert {one.field for one in client.negotiated} == server.refuses
    assert len(server.arrived) == 6
    assert "temperature" not in server.arrived[-1].body
    assert [sample.text for sample in draw.samples] == ["red ", "red "]  # cut here


async def test_a_list_of_what_is_supported_misleads_nobody(
    make_server: MakeServer, connect: MakeClient
) -> None:
    """Fields that the words only list are sent again once they turn out not to be at fault."""
    words = "bad parameter in top_p, temperature, stop, logprobs"
    server = make_server(reply=refusing(has("temperature"), words))
    client = connect(server)
    await client.draw("small", CHAT, SAMPLING, 1)
    assert [one.field for one in client.negotiated] == ["temperature"]
    assert {"top_p", "stop", "logprobs"} <= server.arrived[-1].body.keys()


async def test_words_that_name_nothing(make_server: MakeServer, connect: MakeClient) -> None:
    """A bare "Bad Request" is answered once what servers most often lack is left out."""
    client = connect(make_server(reply=refusing(has("logprobs"), "Bad Request")))
    draw = await client.draw("small", CHAT, SAMPLING, 2)
    assert len(draw.samples) == 2 and client.negotiated[0].field == "logprobs"


async def test_the_first_request_goes_alone(make_server: MakeServer, connect: MakeClient) -> None:
    """Of forty requests at once only the first is refused; the rest begin on the terms that it found."""
    server = make_server(refuses=["temperature", "max_tokens"], latency_s=0.01)
    client = connect(server)
    await asyncio.gather(*(client.draw("small", CHAT, SAMPLING, 1) for _ in range(40)))
    assert len(server.arrived) == 42
    assert all("temperature" not in request.body for request in server.arrived[2:])


async def test_a_users_own_field_is_never_dropped(make_server: MakeServer, connect: MakeClient) -> None:
    """A refusal that names a field of `request` ends the run with the server's words."""
    client = connect(make_server(refuses=["reasoning_effort"]))
    with pytest.raises(ConfigurationError, match=r"refuses reasoning_effort .400: reasoning_effort is not"):
        await client.draw("small", CHAT, SAMPLING, 1, fields={"reasoning_effort": "low", "top_k": 5})


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("max_tokens", "max_tokens is too large: 8; this model writes at most 4 tokens"),
        ("temperature", "temperature must be between 0 and 0.5"),
    ],
)
async def test_a_value_out_of_range_is_the_users_to_correct(
    make_server: MakeServer, connect: MakeClient, field: str, words: str
) -> None:
    """A limit on a value is no reason to drop the field: the run stops and says what to lower."""
    client = connect(make_server(reply=refusing(has(field), words)))
    with pytest.raises(ConfigurationError, match=f"refuses {field} = .*in sampling"):
        await client.draw("small", CHAT, SAMPLING, 1)


@pytest.mark.parametrize(
    "words",
    [
        "blocked by the content filter",
        "content filter: {'hate': {}} {0}",
        "Content Exists Risk",
        "your prompt was flagged",
        "no, not this one",
    ],
)
async def test_one_prompt_that_is_refused_is_missing(
    make_server: MakeServer, connect: MakeClient, words: str
) -> None:
    """A refusal that concerns one prompt fails its draw for good, be it the very first; others are drawn."""
    forbidden = refusing(lambda body: "colour" in body["messages"][0]["content"], words)
    client = connect(make_server(reply=forbidden))
    with pytest.raises(PromptRefused) as caught:
        await client.draw("small", CHAT, SAMPLING, 2)
    assert not caught.value.transient and words in str(caught.value)
    other = {"messages": [{"role": "user", "content": "which shape"}]}
    assert len((await client.draw("small", other, SAMPLING, 2)).samples) == 2
    assert not client.negotiated


async def test_a_refusal_of_all_stops_the_run(make_server: MakeServer, connect: MakeClient) -> None:
    """Where not even a harmless prompt is answered, the server's words end the run."""
    client = connect(make_server(reply=refusing(lambda body: True, "tenant is not provisioned")))
    with pytest.raises(ConfigurationError, match=r"refuses the request .400: tenant is not provisioned"):
        await client.draw("small", CHAT, SAMPLING, 1)


async def test_an_error_in_an_answer_of_status_200(make_server: MakeServer, connect: MakeClient) -> None:
    """Gateways that wrap an error in a 200 are understood like others."""
    error = {"error": {"message": "temperature is not supported", "code": 400}}
    client = connect(make_server(reply=lambda r: (200, error, {}) if "temperature" in r.body else None))
    assert len((await client.draw("small", CHAT, SAMPLING, 2)).samples) == 2
    assert client.negotiated[0].field == "temperature"


async def test_a_redirect_is_not_followed(make_server: MakeServer, connect: MakeClient) -> None:
    """A 3xx names both places; nothing is sent to the other."""
    other = make_server()
    there = {"location": other.base_url + "/chat/completions"}
    server = make_server(reply=lambda request: (307, {}, there))
    with pytest.raises(ConfigurationError) as caught:
        await connect(server).draw("small", CHAT, SAMPLING, 1)
    assert server.base_url in str(caught.value) and other.base_url in str(caught.value)
    assert not other.arrived


async def test_an_endless_answer_is_given_up(make_server: MakeServer, connect: MakeClient) -> None:
    """An answer over the limit is not read to its end, and not asked for again."""
    server = make_server(reply=lambda request: (200, b"x" * 3_000_000, {}))
    with pytest.raises(DrawFailed, match="an answer of more than") as caught:
        await connect(server, most_bytes=1_000_000).draw("small", CHAT, SAMPLING, 1)
    assert not caught.value.transient and len(server.arrived) == 1
