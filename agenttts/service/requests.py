"""From a request to the fields of an input, and to the trace that it belongs to.

A pipeline of one input field takes the text of the last message of the user. One of several fields takes them
as a JSON object: in that message, or beside the messages as `fields` (`extra_body` of OpenAI's client).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agenttts.service.problems import Problem
from pipelines.dataset.needs import input_fields, row_check
from pipelines.dataset.rows import made_row
from pipelines.errors import DatasetError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON, RepeatedKey, read_json
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.templates import used_fields

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_TEXT_ONLY = "must be a text, or a list of parts of the type text: nothing but text is read"
_NO_ID = re.compile(r"0+")
Fields: TypeAlias = Mapping[str, JSON]


class TextPart(BaseModel):
    """A part of a message: a text."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a conversation."""

    role: str
    content: str | tuple[TextPart, ...] | None = None

    @property
    def text(self) -> str:
        """Its text, whole."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """What a stream holds beside the text."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of /v1/chat/completions, as far as it means something here.

    What a client says of sampling is the pipeline's own affair, and is passed over.
    """

    model_config = ConfigDict(extra="ignore")

    model: str
    messages: tuple[Message, ...] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    tools: tuple[object, ...] | None = None
    fields: dict[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The trace of a request, as W3C's trace context writes it.

    Attributes:
        trace_id: 32 hexadecimal digits.
        parent_id: The client's span; None where it named none.
    """

    trace_id: str
    parent_id: str | None = None

    @classmethod
    def of(cls, traceparent: str | None) -> Trace:
        """Return the trace that a header names, else a new one."""
        match = _TRACEPARENT.fullmatch(traceparent or "")
        if match is None or _NO_ID.fullmatch(match[1]) or _NO_ID.fullmatch(match[2]):
            return cls(trace_id=secrets.token_hex(16))
        return cls(trace_id=match[1], parent_id=match[2])


class Inputs:
    """The inputs of one pipeline.

    Args:
        spec: The pipeline.

    Attributes:
        fields: The names of the fields that every input must have.
    """

    def __init__(self, spec: PipelineSpec) -> None:
        self.fields = input_fields(spec)
        self._check = row_check(spec)
        self._optional = _optional(spec, self.fields)
        self._id_field = spec.dataset.id_field or "id"

    def example(self, fields: object, own_id: str) -> Example:
        """Return the example of an input's fields.

        Args:
            fields: A mapping.
            own_id: Its id where the fields have none.

        Raises:
            Problem: They lack a field, have a value that the pipeline can't take, or set what only the
                pipeline's owner may.
        """
        try:
            row = made_row("request", fields)
            self._check(row)
        except DatasetError as error:
            raise Problem(400, "invalid_input", str(error)) from None
        for name in row.fields:
            if name in self._optional:
                law = (
                    f"field {name!r} is a parameter with a default of stage {self._optional[name]!r}, which "
                )
                raise Problem(400, "invalid_input", f"{law}a request can't set; leave it out", param=name)
        sent_id = row.fields.get(self._id_field)
        has_id = isinstance(sent_id, str | int) and not isinstance(sent_id, bool) and sent_id != ""
        return Example(str(sent_id) if has_id else own_id, row.fields)

    def of_chat(self, request: ChatRequest) -> object:
        """Return the fields that a chat request means.

        Raises:
            Problem: It can't be answered by a pipeline, or does not hold the fields.
        """
        if request.n not in (None, 1):
            raise Problem(400, "one_answer", f"n must be 1, got {request.n}", param="n")
        if request.tools:
            raise Problem(400, "no_tools", "a pipeline calls no tools; leave tools out", param="tools")
        if request.fields is not None:
            return request.fields
        text = next((m.text for m in reversed(request.messages) if m.role == "user"), None)
        if text is None:
            raise Problem(400, "no_message", "there must be a message of the user", param="messages")
        if not self.fields:
            return {}
        if len(self.fields) == 1:
            return {self.fields[0]: text}
        return self._object(text)

    def _object(self, text: str) -> object:
        try:
            value = read_json(text, once=True)
        except RepeatedKey as error:
            raise Problem(400, "invalid_input", f"request: {error}", param="messages") from None
        except ValueError:
            value = None
        if not isinstance(value, Mapping):
            raise Problem(
                400,
                "fields_wanted",
                f"this pipeline reads the fields {', '.join(self.fields)}; send them as a JSON object in the "
                "last message of the user, or as `fields` beside the messages (extra_body)",
                param="messages",
            )
        return value


def _optional(spec: PipelineSpec, fields: Sequence[str]) -> Mapping[str, str]:
    """The parameters with a default of the functions that stages run, and their stages.

    Datasets may set them; what an input must have, or a template reads, is the client's to say all the same.
    """
    templates = (used_fields(stage) for stage in spec.stages if stage.python is None)
    read = frozenset(fields).union(*templates)
    functions = [stage for stage in spec.stages if stage.python is not None]
    return {name: stage.name for stage in functions for name in used_fields(stage) if name not in read}


def parsed(body: bytes) -> JSON:
    """Return the JSON of a body; Problem where it is none."""
    try:
        return read_json(body, once=True)
    except RepeatedKey as error:
        raise Problem(400, "invalid_input", f"request: {error}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise Problem(400, "not_json", f"the body must be JSON: {error}") from None


def chat_request(body: bytes) -> ChatRequest:
    """Return the chat request of a body.

    Raises:
        Problem: It is no JSON, or not what the protocol asks for.
    """
    try:
        return ChatRequest.model_validate(parsed(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place, message = _place(first["loc"]), first["msg"]
        if first["loc"][0:3:2] == ("messages", "content"):  # told once, not for each type that it may have
            place, message = _place(first["loc"][:3]), _TEXT_ONLY
        raise Problem(400, "invalid_request", f"{place}: {message}", param=place) from None
    except RecursionError:
        raise Problem(400, "not_json", "the body is nested too deep") from None


def _place(parts: Sequence[str | int]) -> str:
    return ".".join(map(str, parts)) or "body"
