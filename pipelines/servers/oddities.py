"""What is wrong with an answer of status 200 that is none of the protocol's, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.servers.transport import Answer
from pipelines.servers.wire import Fault, Negotiated

_SHOWN = 60  # characters of what is no JSON
_EVENTS = "text/event-stream"


def misshapen(place: str, law: str, value: object) -> Fault:
    """Return the fault of an answer that breaks the protocol.

    Args:
        place: The place in the answer, such as "choices".
        law: What must stand there, such as "a list".
        value: What stands there; its type is named, never its text.
    """
    return Fault(f"an answer that is not a completion: {place} must be {law}, got {_kind(value)}")


def not_json(answer: Answer, secret: str | None) -> str:
    """Return what an answer that is no JSON is, with its type and how it begins.

    Args:
        answer: The answer.
        secret: The API key, which is blotted out.
    """
    content_type = answer.headers.get("Content-Type", "").strip()
    text = answer.content[:4096].decode("utf-8", "replace").strip()
    if secret:
        text = text.replace(secret, "***")
    if content_type.startswith(_EVENTS) or text.startswith("data:"):
        return "a stream of events, which was not asked for; have the server send whole answers"
    start = f"{text[:_SHOWN]!a}{'…' if len(text) > _SHOWN else ''}" if text else "nothing"
    return f"an answer that is not JSON ({_escaped(content_type) or 'of no Content-Type'}): {start}"


def surplus(model: str, answer: Any, n: int) -> Negotiated | None:
    """Return what to tell of an answer with more choices than were asked for; None for any other.

    Args:
        model: The model's name in requests.
        answer: The decoded JSON.
        n: How many were asked for.
    """
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or len(choices) <= n:
        return None
    return Negotiated(
        model=model,
        field="choices",
        action="dropped",
        consequence=f"the server sends {len(choices)} for {n}; those beyond what was asked for are left out, "
        "and paid for as the server counts them",
    )


def _escaped(text: str) -> str:
    return ascii(text[:_SHOWN])[1:-1]


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), type(value).__name__)
