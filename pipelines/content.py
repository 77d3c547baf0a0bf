"""What a request asks: chat messages, a plain prompt, or a text to classify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from pipelines.jsonvalues import JSON


class Content(TypedDict, total=False):
    """What a model is sent: one of `messages` (chat), `prompt` (completion) and `classify`.

    `classify`, a text, asks for the probabilities of a classifier's classes, which are one sample.
    `response_format` has the server generate values of a schema only.
    """

    messages: Sequence[Mapping[str, str]]
    prompt: str
    classify: str
    response_format: Mapping[str, JSON]
