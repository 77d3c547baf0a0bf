"""What identifies samples: the content of a request to a model, or of a call of a stage's function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from pipelines.jsonvalues import JSON


class Content(TypedDict, total=False):
    """The content of a request or a call, with exactly one of `messages`, `prompt`, `classify` and `call`.

    Attributes:
        messages: Chat messages, each with `role` and `content`.
        prompt: The prompt of a plain completion.
        classify: The text that a classifier reads. The probabilities of its classes count as one sample.
        call: The arguments of a stage's function, by name; for a file that it reads, its name and the digest
            of its content. What the function returns counts as one sample.
        response_format: Constrains generation to the values of a JSON schema, as OpenAI's API defines it.
    """

    messages: Sequence[Mapping[str, str]]
    prompt: str
    classify: str
    call: Mapping[str, JSON]
    response_format: Mapping[str, JSON]
