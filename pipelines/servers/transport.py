"""Requests and answers over HTTP: connections of aiohttp, proxies, redirects, the size of answers.

aiohttp is spoken to directly, as a request through the `openai` client costs twice the CPU time. What is
sent, and when, is in `clients`.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

import aiohttp

from pipelines.errors import ConfigurationError, DrawFailed
from pipelines.servers.streamed import Assembly, TextStream

KEEPALIVE_S = 4.0  # uvicorn closes idle connections after 5 s


class AnswerTooLarge(DrawFailed):
    """An answer is longer than its limit; reading it was given up."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(f"an answer of more than {most_bytes / 2**20:.0f} MiB", transient=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came, of any status but a redirect."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the variable of the environment that names it."""

    url: str
    variable: str

    def __str__(self) -> str:
        return f"the proxy of {self.variable} ({without_credentials(self.url)})"


class Transport:
    """Connections to one server. Made anywhere, used and closed on one event loop.

    Args:
        base_url: What paths are added to; its user and password, and its query, go with every request.
        api_key: Sent as a bearer token; None: the URL's user and password, else a stand-in.
        connections: The most that are open at once.
        environ: Where proxies are looked for; local addresses are reached without one.

    Raises:
        ConfigurationError: The environment names a proxy that can't be used.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None, connections: int, environ: Mapping[str, str]
    ) -> None:
        parts = urlsplit(base_url)
        self._parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        self.address = without_credentials(base_url)
        self.proxy = proxy_for(base_url, environ)
        token = f"Bearer {api_key or 'none'}"
        if api_key is None and parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            token = f"Basic {base64.b64encode(pair.encode()).decode()}"
        self._headers = {"Authorization": token, "Content-Type": "application/json"}
        self._connections = connections
        self._urls: dict[str, str] = {}
        self._opened: aiohttp.ClientSession | None = None

    def url(self, path: str, *, root: bool = False) -> str:
        """The URL of a path under the base URL, or beside its /v1."""
        key = f"{root}{path}"
        if key not in self._urls:
            parts = self._parts
            base = parts.path.rstrip("/")
            base = base.removesuffix("/v1") if root else base
            self._urls[key] = urlunsplit((parts.scheme, parts.netloc, base + path, parts.query, ""))
        return self._urls[key]

    async def post(self, url: str, body: bytes, most_bytes: int, stream: TextStream | None = None) -> Answer:
        """The answer to a JSON body, its text also to `stream` while it comes.

        AnswerTooLarge, ConfigurationError for a redirect, else aiohttp's.
        """
        return await self._send("POST", url, body, most_bytes, stream)

    async def get(self, url: str, most_bytes: int) -> Answer:
        """As `post`."""
        return await self._send("GET", url, None, most_bytes)

    async def aclose(self) -> None:
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=KEEPALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                headers=self._headers,
                trust_env=False,
            )
        return self._opened

    async def _send(
        self, method: str, url: str, body: bytes | None, most_bytes: int, stream: TextStream | None = None
    ) -> Answer:
        proxy = None if self.proxy is None else self.proxy.url
        async with self._session().request(
            method, url, data=body, allow_redirects=False, proxy=proxy
        ) as response:
            if 300 <= response.status < 400:
                raise ConfigurationError(_redirected(self.address, response.headers.get("Location")))
            if (response.content_length or 0) > most_bytes:
                response.close()
                raise AnswerTooLarge(most_bytes)
            if response.content_length is not None and "Content-Encoding" not in response.headers:
                return Answer(response.status, response.headers, await response.read())
            content, n_bytes = bytearray(), 0
            is_streamed = response.status < 300 and response.content_type == "text/event-stream"
            assembly = Assembly(stream) if stream is not None and is_streamed else None
            async for part in response.content.iter_any():
                n_bytes += len(part)
                if n_bytes > most_bytes:
                    response.close()
                    raise AnswerTooLarge(most_bytes)
                if assembly is None:
                    content += part
                else:
                    assembly.feed(part)
            whole = bytes(content) if assembly is None else assembly.content()
            return Answer(response.status, response.headers, whole)


def without_credentials(url: str) -> str:
    """The URL without a user, password, query or fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy that the environment names for a URL; None for none.

    Loopback addresses and what NO_PROXY names (hosts, their subdomains, networks such as 10.0.0.0/8) have
    none.

    Raises:
        ConfigurationError: It is of a kind that can't be used, such as socks.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host) or _is_exempt(host, parts.port, environ):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            value = environ.get(variable, "").strip()
            if value:
                return _usable(Proxy(value if "://" in value else f"http://{value}", variable), host)
    return None


def _usable(proxy: Proxy, host: str) -> Proxy:
    try:
        parts = urlsplit(proxy.url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if good:
        return proxy
    scheme = proxy.url.partition("://")[0]
    raise ConfigurationError(
        f"{proxy.variable} names a {scheme} proxy, which can't be used for {host}; unset {proxy.variable}, "
        f"add {host} to NO_PROXY, or name an http proxy"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_exempt(host: str, port: int | None, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY names the host."""
    listed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    address = _address(host)
    for entry in (part.strip().lower() for part in listed.split(",")):
        if entry == "*":
            return True
        if address is not None:
            try:
                if address in ipaddress.ip_network(entry.strip("[]"), strict=False):
                    return True
            except ValueError:
                pass
        name, _, only_port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
        name = name.lstrip("*").lstrip(".")
        if name and (host == name or host.endswith(f".{name}")) and only_port in ("", str(port)):
            return True
    return False


def _redirected(address: str, location: str | None) -> str:
    target = without_credentials(location) if location else "a place that it does not name"
    return f"{address} redirects to {target}, which is not followed; correct base_url"
