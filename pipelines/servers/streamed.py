"""An answer that comes in parts, as server-sent events: its text is passed on while it grows.

In the end the parts are put together as the answer that comes whole, so that everything behind the transport
reads one form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


class TextStream:
    """Where the text of one sample goes while a server generates it.

    Args:
        on_text: Called with each further piece of the text, as the model writes it.

    Attributes:
        has_begun: Whether a piece has come: the sample can't be drawn anew without anybody noticing.
    """

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self.has_begun = False

    def add(self, text: str) -> None:
        """Pass a piece on; an empty one is none."""
        if text:
            self.has_begun = True
            self._on_text(text)


class Assembly:
    """Reads the events of one answer with one choice.

    Args:
        stream: Gets the text of the choice.
    """

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream
        self._left = bytearray()
        self._answer = dict[str, Any]()
        self._texts = dict[str, str]()
        self._logprobs = list[Any]()
        self._choice: dict[str, Any] | None = None
        self._is_chat = True
        self._is_done = False

    def feed(self, data: bytes) -> None:
        """Read the bytes that came next.

        Raises:
            aiohttp.ClientPayloadError: They are no events of an answer.
        """
        self._left += data
        *lines, rest = self._left.split(b"\n")
        self._left = bytearray(rest)
        for line in lines:
            if line.startswith(b"data:"):
                self._read(bytes(line[5:].strip()))

    def content(self) -> bytes:
        """Return the JSON of the answer as it would have come whole.

        Raises:
            aiohttp.ClientPayloadError: The events ended before the answer did, which says how it ended.
        """
        ended = self._is_done if self._choice is None else self._choice["finish_reason"] is not None
        if not ended and not self._failed:
            raise aiohttp.ClientPayloadError("the events ended before the answer did")
        if self._choice is not None and not self._failed:
            whole: dict[str, Any] = {**self._choice, "logprobs": self._whole_logprobs()}
            if self._is_chat:
                whole["message"] = {"role": "assistant", "content": None, **self._texts}
            else:
                whole["text"] = self._texts.get("content", "")
            self._answer["choices"] = [whole]
        return json.dumps(self._answer).encode()

    @property
    def _failed(self) -> bool:
        return bool(self._answer.get("error"))

    def _whole_logprobs(self) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return {"content" if self._is_chat else "token_logprobs": self._logprobs}

    def _read(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._is_done = True
            return
        try:
            event = json.loads(data)
            self._answer |= {k: v for k, v in event.items() if k != "choices" and v is not None}
            for choice in event.get("choices") or ():
                self._add(choice)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise aiohttp.ClientPayloadError("an event that is no part of an answer") from error

    def _add(self, choice: Mapping[str, Any]) -> None:
        if choice.get("index"):
            return
        delta = choice.get("delta")
        self._is_chat = delta is not None or "text" not in choice
        texts = (delta or {}) if self._is_chat else {"content": choice["text"]}
        for name in _TEXTS:
            if isinstance(texts.get(name), str):
                self._texts[name] = self._texts.get(name, "") + texts[name]
        if (delta or {}).get("tool_calls"):
            self._texts.setdefault("tool_calls", "parts of a call")
        by_token = choice.get("logprobs") or {}
        self._logprobs += by_token.get("content" if self._is_chat else "token_logprobs") or ()
        reason = choice.get("finish_reason") or (self._choice or {}).get("finish_reason")
        self._choice = {"index": 0, "finish_reason": reason}
        if isinstance(texts.get("content"), str):
            self._stream.add(texts["content"])
