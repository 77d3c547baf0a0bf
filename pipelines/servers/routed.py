"""How many servers answer at an address: one, or the replicas that a router there sends requests to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

import aiohttp

from pipelines.errors import ConfigurationError, DrawFailed
from pipelines.servers.transport import Transport

_ANSWER_S = 2.0
_MOST_BYTES = 1 << 20


async def count_replicas(base_urls: Iterable[str], environ: Mapping[str, str]) -> dict[str, int]:
    """Ask the servers at addresses without TLS whether they are routers (vllm-router) of replicas.

    Args:
        base_urls: The addresses.
        environ: Where proxies are looked for.

    Returns:
        The replicas behind each router; other addresses are left out.
    """
    plain_urls = [url for url in dict.fromkeys(base_urls) if urlsplit(url).scheme == "http"]
    counts = await asyncio.gather(*(_workers(url, environ) for url in plain_urls))
    return {url: count for url, count in zip(plain_urls, counts, strict=True) if count > 1}


async def _workers(base_url: str, environ: Mapping[str, str]) -> int:
    """The workers of the router at an address; 0 where there is none, or no server at all."""
    try:
        transport = Transport(base_url, api_key=None, connections=1, environ=environ)
    except ConfigurationError:  # said when the clients are made
        return 0
    try:
        async with asyncio.timeout(_ANSWER_S):
            answer = await transport.get(transport.url("/list_workers", root=True), _MOST_BYTES)
        listed = json.loads(answer.content) if answer.status == 200 else None
        urls = listed.get("urls") if isinstance(listed, dict) else None
        return len({url for url in urls if isinstance(url, str)}) if isinstance(urls, list) else 0
    except (aiohttp.ClientError, OSError, ValueError, RecursionError, DrawFailed, ConfigurationError):
        return 0
    finally:
        await transport.aclose()
