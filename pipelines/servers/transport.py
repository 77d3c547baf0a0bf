"""The HTTP client under the `openai` client: aiohttp's connections, and requests built without detours.

Building a request in full (parsing its URL three times, merging headers, cookies and parameters that are not
there) costs more than sending it. What is sent, and when, is in `clients`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import openai

if TYPE_CHECKING:
    _Base = httpx2.AsyncClient
else:
    _Base = openai.DefaultAioHttpClient


class PlainHttpClient(_Base):
    """A client for one server. connections: the most that are open at once. timeout_s: for each step."""

    def __init__(self, *, connections: int, timeout_s: float) -> None:
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        super().__init__(limits=limits, timeout=timeout_s)
        self._timeouts = httpx2.Timeout(timeout_s).as_dict()
        self._parsed: dict[str, httpx2.URL] = {}

    def build_request(self, method: str, url: Any, *args: Any, **parts: Any) -> httpx2.Request:
        """The request itself, where the caller gives all of it: body and headers, and no more."""
        given = {name for name, part in parts.items() if part is not None}
        if args or not isinstance(url, str) or given != {"content", "headers", "timeout"}:
            return super().build_request(method, url, *args, **parts)
        if url not in self._parsed:
            self._parsed[url] = httpx2.URL(url)
        extensions = {"timeout": self._timeouts}
        content, headers = parts["content"], parts["headers"]
        return httpx2.Request(
            method, self._parsed[url], headers=headers, content=content, extensions=extensions
        )
