"""Clients of scripted servers that retry within milliseconds, and the sandbox where tests need it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pipelines.servers.server import ServerClient
from pipelines.software.confinement import SandboxUnavailable, confinement
from tests.servers import ScriptedServer


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., ServerClient]]:
    """`connect(server, **settings)` gives a client that retries within milliseconds."""
    clients = []

    def make(server: ScriptedServer, **settings: Any) -> ServerClient:
        client = ServerClient(server.base_url, rng=random.Random(0), **{"backoff_s": 0.001, **settings})
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def sandboxed() -> None:
    """Skips a test where no sandbox can be had."""
    try:
        confinement()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
