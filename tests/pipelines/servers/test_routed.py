"""Replicas behind a router are counted, and get as many requests more."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pipelines.servers.clients import ModelClients
from pipelines.servers.routed import count_replicas
from tests.agenttts.small_specs import small_spec
from tests.servers import ScriptedServer


@contextmanager
def router(body: object) -> Iterator[str]:
    """A server that answers /list_workers as vllm-router 0.1.17 does; its address."""

    class Listing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps(body).encode()
            self.send_response(200 if self.path == "/list_workers" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Listing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


async def test_replicas_are_counted(server: ScriptedServer) -> None:
    """A router says how many workers it has; servers, hosted APIs and closed ports count as one server."""
    with router({"urls": ["http://10.0.0.1:1", "http://10.0.0.2:1", "http://10.0.0.3:1"]}) as url:
        urls = [url, url, server.base_url, "https://api.example.com/v1", "http://127.0.0.1:9/v1"]
        assert await count_replicas(urls, {}) == {url: 3}
    for other in ({"urls": 3}, [1, 2], {}):
        with router(other) as url:
            assert await count_replicas([url], {}) == {}


async def test_requests_at_once_grow_with_replicas() -> None:
    """Those of a router's address are as many times `max_in_flight` as it has replicas."""
    spec = small_spec(base_url="http://127.0.0.1:9/v1")
    clients = ModelClients(
        spec, rng=random.Random(0), max_in_flight=10, replicas={"http://127.0.0.1:9/v1": 3}
    )
    assert clients.most_in_flight == 30
    await clients.aclose()
