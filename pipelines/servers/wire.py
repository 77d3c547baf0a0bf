"""The OpenAI protocol as data: what is asked, on which terms, and what a draw brings.

Pure values and functions, without a socket. Reading an answer is in `answers`, what a refusal means in
`refusals`, sending and retrying in `clients`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import JsonValue

from pipelines.errors import DrawFailed
from pipelines.servers.billing import Bill
from pipelines.servers.streamed import TextStream
from pipelines.spec import SamplingSpec

CLASSIFY = "/classify"
"""vLLM's own endpoint, beside /v1."""
SYSTEM_ROLES = ("system", "developer")

Action = Literal["renamed", "dropped", "weakened", "moved", "split", "counted", "estimated", "changed"]


class Fault(Exception):
    """A request did not bring samples, and the same request may bring them later.

    Attributes:
        reason: In a few words, without prompt or key.
        kind: "overload" when the server asks for fewer requests, "slow" when no answer came in time, "fault"
            for all else.
        retry_after_s: Seconds for which none may start; None when the server did not say.
        outage: Whether a server that is down answers so, or not at all.
    """

    def __init__(
        self,
        reason: str,
        kind: Literal["overload", "slow", "fault"] = "fault",
        *,
        retry_after_s: float | None = None,
        outage: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.retry_after_s = retry_after_s
        self.outage = outage


class PromptRefused(DrawFailed):
    """The server refuses this prompt, and answers others: its example is missing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, transient=False)


class ContextOverflow(PromptRefused):
    """A prompt and its generation do not fit into a model's context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Negotiated:
    """Something that a user should know about how a server is asked, or how it answers. Told once.

    Attributes:
        model: The model's name in requests; its key in the spec where `ModelClients` tells it.
        field: Of the request, such as "temperature", or of the answer, such as "usage" or "model".
        action: What was done, or what was seen.
        consequence: What follows from it, as a clause.
        words: The server's own, in one line; "" where there are none.
        warning: Whether results mean something else than the spec says.
    """

    model: str
    field: str
    action: Action
    consequence: str
    words: str = ""
    warning: bool = False

    def __str__(self) -> str:
        quoted = f" (the server: {self.words})" if self.words else ""
        return f"{self.model}: {self.field} {self.action}: {self.consequence}{quoted}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """On which terms a server draws samples of a model, as far as its refusals have shown.

    Attributes:
        limit: The name that the token limit is sent under; None: not sent.
        dropped: Fields that are not sent.
        most_n: Samples in one request at most; None: no limit is known.
        folded: Whether system messages are moved into the first message of the user.
        json_object: Whether a JSON schema is asked for as any JSON object.
    """

    limit: Literal["max_tokens", "max_completion_tokens"] | None = "max_tokens"
    dropped: frozenset[str] = frozenset()
    most_n: int | None = None
    folded: bool = False
    json_object: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """What samples are asked for, whatever the terms.

    Attributes:
        served_name: The model's name in requests.
        content: `messages` (chat), `prompt` (completion) or `classify` (a text for a classifier), and what
            belongs to them.
        n: Samples that are wanted.
        first: The index of the first of them among all of the prompt: a `seed` grows by it.
        fields: Further fields of the body, from the user; never left out.
        logprobs: Whether log-probabilities are wanted.
        context_length: Tokens of prompt and generation together; None when unknown.
        bill: Gets every answer that the server bills.
        probing: Whether it is sent although the server is down, to find out whether it is back.
        stream: Gets the text of the one sample while it is generated; None: the answer comes whole.
    """

    served_name: str
    content: Mapping[str, Any]
    sampling: SamplingSpec
    n: int
    first: int = 0
    fields: Mapping[str, JsonValue]
    logprobs: bool = True
    context_length: int | None = None
    bill: Bill = field(default_factory=Bill, compare=False)
    probing: bool = False
    stream: TextStream | None = field(default=None, compare=False)

    @property
    def path(self) -> str:
        if "classify" in self.content:
            return CLASSIFY
        return "/chat/completions" if "messages" in self.content else "/completions"

    @property
    def shape(self) -> tuple[object, ...]:
        """What a server may refuse: equal for requests that differ in nothing but prompt and values."""
        content, sampling = self.content, self.sampling
        system = any(message["role"] in SYSTEM_ROLES for message in content.get("messages", ()))
        unset = (sampling.temperature is None, sampling.top_p is None, sampling.max_tokens is None)
        return (*content, *self.fields, *unset, bool(sampling.stop), self.n > 1, system)


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnSample:
    """One generated text. mean_logprob: natural log, mean over its tokens; None when not given."""

    text: str
    generated_tokens: int
    mean_logprob: float | None
    finish_reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What one request brought.

    Attributes:
        samples: Texts, from none to as many as were asked for.
        prompt_tokens: As the server counted them; None when it did not say.
        request_id: The server's; None when it gave none.
        missing: A reason for each answer that is no text, such as a refusal; these are paid for too.
        missing_tokens: What was generated for them.
        total_tokens: Generated for all answers, as the server bills them; None when it did not say.
        missing_cut: How many of them ended at the token limit.
        estimated: Whether generated tokens are estimates, because the server did not count them.
        most_n: Samples that one request may ask for, where the server was found to limit them.
    """

    samples: tuple[DrawnSample, ...]
    prompt_tokens: int | None
    request_id: str | None
    missing: tuple[str, ...] = ()
    missing_tokens: int = 0
    total_tokens: int | None = None
    missing_cut: int = 0
    estimated: bool = False
    most_n: int | None = None

    @property
    def generated_tokens(self) -> int:
        """Tokens of all answers, missing ones included."""
        return sum(sample.generated_tokens for sample in self.samples) + self.missing_tokens

    def billed_to(self, bill: Bill) -> None:
        """Add the request that brought this to a bill."""
        counted = None if self.estimated else self.generated_tokens
        total = counted if self.total_tokens is None else self.total_tokens
        bill.add(self.prompt_tokens, total, len(self.samples) + len(self.missing))


def request_body(ask: Ask, terms: Terms) -> dict[str, Any]:
    """The body of a request for as many of the samples as the terms allow.

    With `classify`, a text, it asks for the probabilities of a classifier's classes, which are one sample.
    """
    content, sampling, dropped = ask.content, ask.sampling, terms.dropped
    if "classify" in content:
        return {
            "model": ask.served_name,
            "input": [content["classify"]],
            "truncate_prompt_tokens": -1,  # as many as the model takes
            **ask.fields,
        }
    body: dict[str, Any] = {"model": ask.served_name, **content}
    if "n" not in dropped:
        body["n"] = ask.n if terms.most_n is None else min(ask.n, terms.most_n)
    if sampling.temperature is not None and "temperature" not in dropped:
        body["temperature"] = sampling.temperature
    if sampling.top_p is not None and "top_p" not in dropped:
        body["top_p"] = sampling.top_p
    if sampling.max_tokens is not None and terms.limit is not None:
        body[terms.limit] = sampling.max_tokens
    if sampling.stop and "stop" not in dropped:
        body["stop"] = list(sampling.stop)
    if ask.logprobs and "logprobs" not in dropped:
        body["logprobs"] = True if "messages" in content else 0
    if terms.folded and "messages" in body:
        body["messages"] = folded(body["messages"])
    if "response_format" in body:
        if "response_format" in dropped:
            del body["response_format"]
        elif terms.json_object:
            body["response_format"] = {"type": "json_object"}
    if ask.fields:
        body.update(ask.fields)
        seed = body.get("seed")
        if ask.first and isinstance(seed, int):
            body["seed"] = seed + ask.first
    if ask.stream is not None:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def folded(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with those of the system at the head of the first one of the user."""
    system = [message["content"] for message in messages if message["role"] in SYSTEM_ROLES]
    rest = [message for message in messages if message["role"] not in SYSTEM_ROLES]
    for position, message in enumerate(rest):
        if message["role"] == "user":
            text = "\n\n".join([*system, message["content"]])
            return [*rest[:position], {**message, "content": text}, *rest[position + 1 :]]
    return [{"role": "user", "content": "\n\n".join(system)}, *rest]
