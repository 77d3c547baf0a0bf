"""The content of a request to a model: chat messages, a plain prompt, or a text to classify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from pipelines.jsonvalues import JSON


class Content(TypedDict, total=False):
    """The content of a request, with exactly one of `messages`, `prompt` and `classify`.

    Attributes:
        messages: Chat messages, each with `role` and `content`.
        prompt: The prompt of a plain completion.
        classify: The text that a classifier reads. The probabilities of its classes count as one sample.
        response_format: Constrains generation to the values of a JSON schema, as OpenAI's API defines it.
    """

    messages: Sequence[Mapping[str, str]]
    prompt: str
    classify: str
    response_format: Mapping[str, JSON]
