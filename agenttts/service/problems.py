"""What a request can fail of, in OpenAI's form: a status, a type, a code, and a message of one line."""

from __future__ import annotations

from collections.abc import Mapping

from datastore.errors import StoreError
from pipelines.errors import (
    ConfigurationError,
    CustomCodeFailed,
    DatasetError,
    ReplayMiss,
    ServerDown,
    ServerError,
    SpecError,
)
from pipelines.jsonvalues import JSON
from pipelines.servers.wire import PromptRefused

RETRY_AFTER_S = 1
_UNREAD = (401, 403, 408, 413)
"""Where the body was not read to its end, and the connection is closed instead."""


class Problem(Exception):
    """A request is answered with an error.

    Attributes:
        status: Of HTTP.
        kind: The `type` of OpenAI's errors.
        code: The `code` of OpenAI's errors, for programs.
        param: The field of the request that is at fault; None where none is.
        retry_after_s: Seconds after which it may be sent again; None where that does not help.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(_encodable(" ".join(message.split())))
        self.status = status
        self.kind = kind
        self.code = code
        self.param = None if param is None else _encodable(param)
        self.retry_after_s = retry_after_s

    def to_json_dict(self) -> dict[str, JSON]:
        """Return the body of the answer."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the answer."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return headers | ({"Connection": "close"} if self.status in _UNREAD else {})


def _encodable(text: str) -> str:
    """The text with its lone surrogates, which UTF-8 can't hold, written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def problem_of(error: Exception) -> Problem:
    """Return what a request is told of an error that running the pipeline raised.

    Paths of this machine and what a function says are for the log: clients are told neither.

    Args:
        error: The error.
    """
    message = str(error) or type(error).__name__
    match error:
        case Problem():
            return error
        case PromptRefused():
            return Problem(400, "prompt_refused", message)
        case DatasetError() | SpecError() | RecursionError():
            return Problem(400, "invalid_input", message)
        case ReplayMiss():
            return Problem(422, "not_recorded", message)
        case ServerDown():
            return Problem(
                503, "model_server_down", message, kind="upstream_error", retry_after_s=RETRY_AFTER_S
            )
        case ServerError() | ConfigurationError():
            return Problem(502, "model_server_failed", message, kind="upstream_error")
        case CustomCodeFailed():
            failed = "a function of the pipeline has failed; the service's log says why"
            return Problem(500, "function_failed", failed, kind="pipeline_error")
        case StoreError():
            failed = "what was drawn could not be kept; the service's log says why"
            return Problem(500, "samples_not_kept", failed, kind="server_error")
    return Problem(500, "internal_error", "the service has failed; its log says why", kind="server_error")
