"""Which further fields a model's requests may have, and which the product itself decides on."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

EXTRA_BODY = "extra_body"
"""What the `openai` package calls further fields of the body; they are sent beside the others."""

_OWN = {
    "model": "is the model's served_name",
    "messages": "are the stage's prompt",
    "prompt": "is the stage's",
    "input": "is the stage's prompt",
    "n": "is decided by the search; max_n of the model is the most in one request",
    "best_of": "would draw samples that are not seen; the search decides on n",
    "stream": "changes the form of the answer",
    "stream_options": "change the form of the answer",
    "echo": "changes the form of the answer",
    "extra_headers": "are no field of the body",
    "extra_query": "is no field of the body",
    "timeout": "is no field of the body",
    **dict.fromkeys(
        ("temperature", "top_p", "stop", "max_tokens", "max_completion_tokens"),
        "stands in sampling, of the stage or of the model; max_tokens is sent under the name that the "
        "server wants",
    ),
}


def checked_fields(fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The fields as they are given. ValueError when one of them is the product's own."""
    extra = fields.get(EXTRA_BODY, {})
    if not isinstance(extra, dict):
        raise ValueError(f"{EXTRA_BODY} must be a mapping of fields, got {type(extra).__name__}")
    for name in (*fields, *extra):
        if name in _OWN:
            raise ValueError(f"must leave {name} out, which {_OWN[name]}")
    twice = sorted(fields.keys() & extra.keys())
    if twice:
        raise ValueError(f"must name a field once, got {twice[0]} in {EXTRA_BODY} too")
    return fields


def sent_fields(fields: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The fields as a body has them: those of `extra_body` beside the others."""
    sent = {name: value for name, value in fields.items() if name != EXTRA_BODY}
    extra = fields.get(EXTRA_BODY)
    return {**sent, **extra} if isinstance(extra, dict) else sent
