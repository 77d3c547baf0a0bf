"""Every answer is a text, a fault, or missing with a reason; tokens are counted where a server does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pipelines.errors import DrawFailed
from pipelines.servers.answers import read_draw
from pipelines.servers.billing import Bill
from pipelines.servers.identity import SameServer
from pipelines.servers.patience import Patience
from pipelines.servers.refusals import read_refusal
from pipelines.servers.server import ServerClient, StatusError
from pipelines.spec.models import SamplingSpec
from tests.servers import ScriptedServer

CHAT = {"messages": [{"role": "user", "content": "which colour is it"}]}
SAMPLING = SamplingSpec(max_tokens=8)


def answer(finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": 4}
    return {"choices": [{"message": message, "finish_reason": finish_reason}], "usage": usage}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (answer(content="red"), "red"),
        (answer(content=""), ""),
        (answer(content="red", tool_calls=[{"id": "1"}]), "red"),
        (answer(content=[{"type": "text", "text": "re"}, {"type": "text", "text": "d"}]), "red"),
        (answer(content=[{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "red"}]), "red"),
        (answer(content="red", reasoning_content="hm"), "red"),
        (answer("length", content="red or"), "red or"),
    ],
)
def test_what_is_a_text(given: dict[str, Any], text: str) -> None:
    """Plain text, text in parts without their thinking, and an empty text that the model ended itself."""
    draw = read_draw(given, 1)
    assert [sample.text for sample in draw.samples] == [text] and not draw.missing
    assert draw.generated_tokens == 4


@pytest.mark.parametrize("logprob", ["-0.5", None, "nan"])
def test_a_log_probability_that_is_no_number_is_passed_over(logprob: object) -> None:
    """The text counts, and has no log-probability."""
    given = answer(content="red")
    given["choices"][0]["logprobs"] = {"content": [{"token": "red", "logprob": logprob}]}
    (sample,) = read_draw(given, 1).samples
    assert sample.text == "red" and sample.mean_logprob is None


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(
    ("logprobs", "mean"),
    [
        ([-1.0, -2.0], -1.5),
        ([-1, -2.0], -1.5),
        ([None, -1.0], -0.5),
        ([-1.0, "-2.0"], -0.5),
        ([True, -2.0], -0.5),
        ([None, "-2.0"], None),
        ([[-1.0], {}], None),
        ([float("nan"), -1.0], None),
        ([], None),
    ],
)
def test_what_is_no_number_adds_nothing_to_the_mean(
    chat: bool, logprobs: list[object], mean: float | None
) -> None:
    """Nulls, texts and lists among log-probabilities count as tokens, and as 0 in their mean."""
    given = answer(content="red and green")
    (choice,) = given["choices"]
    choice["logprobs"] = {"content": [{"logprob": p} for p in logprobs], "token_logprobs": logprobs}
    if not chat:
        choice["text"] = choice.pop("message")["content"]
    given["usage"] = {}
    (sample,) = read_draw(given, 1).samples
    assert sample.mean_logprob == mean
    assert sample.generated_tokens == (len(logprobs) or 5)


def test_a_refusal_without_words_has_its_status_alone() -> None:
    """No empty quotation stands in the message."""
    refusal = read_refusal(413, b"", secret=None, retry_after_s=None)
    assert refusal.message("here", "too large") == "here: too large (413, without a word)"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (answer(content=None, tool_calls=[{"id": "1"}]), "tool call"),
        (answer(content=None, refusal="I can't do that"), "refused by the model: I can't"),
        (answer(content=[{"type": "refusal", "refusal": "No."}]), "refused by the model: No."),
        (answer(content=None), "without content"),
        (answer(content="", reasoning_content="so"), "nothing but reasoning"),
        (answer(content=None, reasoning="so"), "nothing but reasoning"),
        (answer(content=[{"type": "thinking", "thinking": "so"}]), "nothing but reasoning"),
        (answer("length", content=""), "cut at the token limit before any text"),
        (answer("length", content=" \n", reasoning="so"), "cut at the token limit while it reasoned"),
        (answer("content_filter", content="red"), "filtered"),
        (answer("SAFETY", content=None), "filtered"),
    ],
)
def test_what_is_missing(given: dict[str, Any], reason: str) -> None:
    """An answer that is no text says why, and its tokens are counted."""
    draw = read_draw(given, 1)
    assert not draw.samples and reason in draw.missing[0]
    assert draw.generated_tokens == 4


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [1],
        {},
        {"prompt_tokens": -1, "completion_tokens": -1},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 2.5, "completion_tokens": "many"},
        {"prompt_tokens": True, "completion_tokens": float("nan")},
        {"prompt_tokens": 10**9, "completion_tokens": 10**9},
    ],
)
def test_a_usage_that_can_not_be_right(usage: Any) -> None:
    """Tokens of the prompt are unknown then, those of the text an estimate; the text stays."""
    given = {**answer(content="red and green"), "usage": usage}
    draw = read_draw(given, 1, most_tokens=100, most_prompt_tokens=100)
    assert draw.prompt_tokens is None and draw.estimated
    assert draw.samples[0].text == "red and green" and 1 <= draw.samples[0].generated_tokens <= 13


@pytest.mark.parametrize(
    ("usage", "bill"),
    [
        (None, Bill()),
        ({}, Bill()),
        ({"prompt_tokens": "many", "completion_tokens": 3}, Bill()),
        ({"prompt_tokens": 5}, Bill(calls=1, prompt_tokens=5)),
        ({"prompt_tokens": 5, "completion_tokens": 96}, Bill(calls=1, prompt_tokens=5, generated_tokens=96)),
        ({"prompt_tokens": 5, "completion_tokens": 97}, Bill(calls=1, prompt_tokens=5, uncounted_answers=3)),
        (
            {"prompt_tokens": 10**12, "completion_tokens": 2},
            Bill(calls=1, generated_tokens=2, uncounted_prompts=1),
        ),
    ],
)
async def test_an_answer_without_choices_is_billed_within_what_can_be(
    make_server: Callable[..., ScriptedServer],
    connect: Callable[..., ServerClient],
    usage: Any,
    bill: Bill,
) -> None:
    """Its usage counts as that of an answer with texts: tokens beyond the most that can be are uncounted."""
    server = make_server(reply=lambda request: (200, {"choices": [], "usage": usage}, {}))
    billed = Bill()
    with pytest.raises(DrawFailed, match="an answer without choices"):
        await connect(server, patience=Patience(retry_s=0)).draw("small", CHAT, SAMPLING, 3, bill=billed)
    assert billed == bill


class _WithoutWords(ScriptedServer):
    """Its refusals of a GET have no body."""

    def _get(self, path: str, headers: Mapping[str, str]) -> tuple[int, None]:
        return 404, None


async def test_a_list_refused_without_words_is_quoted_by_its_status_alone(
    connect: Callable[..., ServerClient],
) -> None:
    """The message has no empty brackets."""
    matching = pytest.raises(StatusError, match=r": status 404, without a word\Z")
    with _WithoutWords() as server, matching as caught:
        await connect(server).get("/models")
    assert caught.value.status == 404


@pytest.mark.parametrize("tokenizes", [True, False])
async def test_tokens_are_counted_in_place_of_the_usage(
    make_server: Callable[..., ScriptedServer], connect: Callable[..., ServerClient], tokenizes: bool
) -> None:
    """/tokenize counts where there is one; else the caps must count the most. Told once either way."""
    server = make_server(tokenizes=tokenizes, usage=lambda usage: None, refuses=["logprobs"])
    server.answer = lambda request, index: "red or green"
    client = connect(server)
    for _ in range(2):
        draw = await client.draw("small", CHAT, SAMPLING, 2)
    assert draw.prompt_tokens == (4 if tokenizes else None)
    assert draw.estimated != tokenizes
    if tokenizes:
        assert draw.generated_tokens == server.generated_tokens // 2
    usage = [one for one in client.negotiated if one.field == "usage"]
    assert [one.action for one in usage] == ["counted" if tokenizes else "estimated"]


async def test_another_model_under_way_is_told_once(
    make_server: Callable[..., ScriptedServer], connect: Callable[..., ServerClient]
) -> None:
    """When answers come from another fingerprint than before, that is told, and only once."""
    server = make_server()
    server.identity = lambda request: {"system_fingerprint": f"fp{len(server.arrived) // 3}"}
    client = connect(server)
    for _ in range(9):
        await client.draw("small", CHAT, SAMPLING, 1)
    assert [(one.field, one.action) for one in client.negotiated] == [("system_fingerprint", "changed")]
    same = SameServer("small")
    assert same.add({"model": "a"}) is None and same.add({}) is None and same.add({"model": "a"}) is None
