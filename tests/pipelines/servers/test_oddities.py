"""An answer of status 200 that is none of the protocol's says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pipelines.errors import DrawFailed, ServerError
from pipelines.servers.answers import read_draw
from pipelines.servers.oddities import not_json
from pipelines.servers.patience import Patience
from pipelines.servers.server import ServerClient
from pipelines.servers.transport import Answer
from pipelines.servers.wire import Fault
from pipelines.spec.models import SamplingSpec
from tests.servers import ScriptedServer
from tests.servers.scripted import Reply

CHAT = {"messages": [{"role": "user", "content": "which colour is it"}]}
SAMPLING = SamplingSpec(max_tokens=8)
Make = Callable[..., ScriptedServer]
Connect = Callable[..., ServerClient]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([], "the answer must be an object, got a list"),
        ({}, "choices must be a list, got null"),
        ({"choices": None}, "choices must be a list, got null"),
        ({"choices": ["red"]}, "each of choices must be an object, got a text"),
        ({"choices": [{"message": "red"}]}, "message must be an object, got a text"),
        ({"choices": [{}]}, "message or text of a choice must be there, got null"),
        (
            {"choices": [{"message": {"content": 12}}]},
            "message.content must be a text, a list of parts or null, got a number",
        ),
    ],
)
def test_what_is_no_completion(answer: object, words: str) -> None:
    """The place, what must stand there, and the type of what does; never the text itself."""
    with pytest.raises(Fault) as caught:
        read_draw(answer, 1)
    assert caught.value.reason == f"an answer that is not a completion: {words}"


@pytest.mark.parametrize(
    ("content", "content_type", "words"),
    [
        (b"<html>\x1b[2Jlogin</html>", "text/html", "(text/html): '<html>\\x1b[2Jlogin</html>'"),
        (b"key abc " + b"x" * 90, "text/plain", f"(text/plain): 'key *** {'x' * 52}'…"),
        (b"", "", "(of no Content-Type): nothing"),
    ],
)
def test_what_is_no_json(content: bytes, content_type: str, words: str) -> None:
    """Its type and how it begins, with control characters escaped and the key blotted out."""
    headers = {"Content-Type": content_type} if content_type else {}
    assert not_json(Answer(200, headers, content), "abc") == f"an answer that is not JSON {words}"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            (200, b"<html>login</html>", {"content-type": "text/html"}),
            r"not JSON \(text/html\): '<html>login",
        ),
        (
            (200, b"data: {}\n\ndata: [DONE]\n\n", {"content-type": "text/event-stream"}),
            "a stream of events, which was not asked for",
        ),
        ((200, {"choices": None}, {}), "choices must be a list, got null"),
        ((503, {"error": {"message": "being updated"}}, {}), "status 503: being updated"),
        ((200, {"error": {"message": "upstream busy", "code": 503}}, {}), "status 503: upstream busy"),
    ],
)
async def test_the_draw_says_it(make_server: Make, connect: Connect, reply: Any, words: str) -> None:
    """The words reach the reason for which the example is missing."""
    client = connect(
        make_server(reply=lambda request: reply),
        patience=Patience(retry_s=0, longest_outage_s=0),
        holds=False,
    )
    with pytest.raises(DrawFailed, match=words):
        await client.draw("small", CHAT, SAMPLING, 1)


async def test_an_overload_is_told_before_it_is_waited_for(make_server: Make, connect: Connect) -> None:
    """Where requests are not held, a line says what the server answers and how long it is asked again."""
    lines = list[str]()
    server = make_server()
    busy: Reply = (200, {"error": {"message": "upstream busy", "code": 503}}, {})
    server.reply = lambda request: busy if len(server.arrived) < 3 else None
    client = connect(server, holds=False, patience=Patience(longest_outage_s=60), on_notice=lines.append)
    draw = await client.draw("small", CHAT, SAMPLING, 1)
    assert len(draw.samples) == 1
    (line,) = lines
    assert line.endswith(
        "is overloaded (status 503: upstream busy); it is asked again until it has answered nothing for 60 s"
    )


async def test_a_list_of_models_that_is_no_json(connect: Connect) -> None:
    """What stands in place of the list is told, too."""

    class Empty(ScriptedServer):
        def _get(self, path: str, headers: Mapping[str, str]) -> tuple[int, None]:
            return 200, None

    with Empty() as server, pytest.raises(ServerError, match=r"not JSON \(application/json\): nothing"):
        await connect(server).get("/models")


async def test_choices_beyond_what_was_asked_for(make_server: Make, connect: Connect) -> None:
    """As many as asked for are kept; that there are more is told once, and their tokens are paid for."""
    choice = {"message": {"content": "red"}, "finish_reason": "stop"}
    answer = {"choices": [choice] * 3, "usage": {"prompt_tokens": 4, "completion_tokens": 72}}
    client = connect(make_server(reply=lambda request: (200, answer, {})))
    for _ in range(2):
        draw = await client.draw("small", CHAT, SAMPLING, 1)
        assert len(draw.samples) == 1 and (draw.generated_tokens, draw.estimated) == (72, False)
    (told,) = client.negotiated
    assert (told.field, told.action) == ("choices", "dropped")
    assert "the server sends 3 for 1" in str(told)
