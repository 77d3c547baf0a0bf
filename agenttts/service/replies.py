"""Answers in the forms of OpenAI's protocol, and what an answer cost as headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from agenttts.service.problems import Problem
from agenttts.service.requests import Trace
from agenttts.service.worker import Answered
from pipelines.jsonvalues import JSON

DONE = b"data: [DONE]\n\n"
TRACE_HEADER = "x-agenttts-trace-id"


def text_of(output: JSON) -> str | None:
    """Return an output as the content of a message: a text as it is, other values as JSON, None as none."""
    if output is None or isinstance(output, str):
        return output
    return json.dumps(output, ensure_ascii=False)


def cost_headers(answered: Answered) -> dict[str, str]:
    """Return what an answer cost, for headers; what is not known is left out."""
    cost = answered.cost
    amounts = {
        "x-agenttts-cost-units": cost.units,
        "x-agenttts-cost-usd": cost.usd,
        "x-agenttts-samples": cost.n_samples,
        "x-agenttts-samples-drawn": cost.samples_drawn,
        "x-agenttts-calls": cost.calls,
        "x-agenttts-seconds": round(answered.seconds, 3),
    }
    return {name: f"{amount:.6g}" for name, amount in amounts.items() if amount is not None}


def run_reply(answered: Answered, trace: Trace, *, stages: bool) -> dict[str, JSON]:
    """Return the body of an answer of /run.

    Args:
        answered: The answer.
        trace: Its trace.
        stages: Whether the outputs of the stages are in it.
    """
    own: dict[str, JSON] = {"id": answered.example_id, "output": answered.output}
    return own | ({"stages": answered.stages} if stages else {}) | _figures(answered, trace)


@dataclass(frozen=True, kw_only=True)
class ChatReply:
    """The forms of one answer of /v1/chat/completions.

    Attributes:
        trace: Its trace, which gives it its id.
        model: The name that was asked for.
        created: Unix seconds.
    """

    trace: Trace
    model: str
    created: int

    def whole(self, answered: Answered) -> dict[str, JSON]:
        """Return the answer that comes whole."""
        message: JSON = {"role": "assistant", "content": text_of(answered.output), "refusal": None}
        choice: JSON = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": _usage(answered),
            "agenttts": {**_figures(answered, self.trace), "stages": answered.stages},
        }

    def first(self) -> bytes:
        """Return the event that a stream begins with."""
        return self._event([_delta({"role": "assistant", "content": ""})])

    def piece(self, text: str) -> bytes:
        """Return the event of a piece of the text."""
        return self._event([_delta({"content": text})])

    def last(self, answered: Answered) -> bytes:
        """Return the event that ends the text, with what it cost: the headers are gone."""
        own = {**_figures(answered, self.trace), "stages": answered.stages}
        return self._event([_delta({}, "stop")], agenttts=own)

    def usage(self, answered: Answered) -> bytes:
        """Return the event of the tokens."""
        return self._event([], usage=_usage(answered))

    def _event(self, choices: list[JSON], **further: JSON) -> bytes:
        return event({**self._head("chat.completion.chunk"), "choices": choices, **further})

    def _head(self, kind: str) -> dict[str, JSON]:
        own_id = f"chatcmpl-{self.trace.trace_id}"
        return {"id": own_id, "object": kind, "created": self.created, "model": self.model}


def event(value: Mapping[str, JSON]) -> bytes:
    """Return a server-sent event."""
    return f"data: {json.dumps(value)}\n\n".encode()


def problem_event(problem: Problem) -> bytes:
    """Return the event of an error after a stream has begun."""
    return event(problem.to_json_dict())


def _delta(delta: Mapping[str, JSON], finish_reason: str | None = None) -> JSON:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}


def _usage(answered: Answered) -> dict[str, JSON]:
    cost = answered.cost
    return {
        "prompt_tokens": cost.prompt_tokens,
        "completion_tokens": cost.generated_tokens,
        "total_tokens": cost.prompt_tokens + cost.generated_tokens,
    }


def _figures(answered: Answered, trace: Trace) -> dict[str, JSON]:
    policy: dict[str, JSON] = {}
    if answered.n_rungs is not None:
        policy = {"n_rungs": answered.n_rungs, "confidence": answered.confidence}
    return {"trace_id": trace.trace_id, "cost": asdict(answered.cost), **policy}
