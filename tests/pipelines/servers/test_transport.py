"""Which proxy a server is reached through, and what is said of one that can't be used."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from pipelines.errors import ConfigurationError, DrawFailed
from pipelines.servers.patience import Patience
from pipelines.servers.server import ServerClient
from pipelines.servers.transport import Transport, proxy_for
from pipelines.spec.models import SamplingSpec
from tests.servers import ScriptedServer

CHAT = {"messages": [{"role": "user", "content": "which colour is it"}]}
SOCKS = {"ALL_PROXY": "socks://127.0.0.1:1/"}


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("http://127.0.0.1:8000/v1", {**SOCKS, "http_proxy": "http://p:1"}, None),
        ("http://localhost:8000/v1", SOCKS, None),
        ("http://[::1]:8000/v1", SOCKS, None),
        ("http://10.1.2.3/v1", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://10.1.2.3/v1", {"HTTP_PROXY": "p:1"}, "http://p:1"),
        ("http://10.1.2.3/v1", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://api.host.org/v1", {"HTTP_PROXY": "http://p:1"}, None),
        ("https://api.host.org/v1", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.host.org/v1", {"https_proxy": "http://p:1", "no_proxy": "x.org, .host.org"}, None),
        ("https://api.host.org/v1", {"https_proxy": "http://p:1", "no_proxy": "ost.org"}, "http://p:1"),
        ("https://api.host.org/v1", {"https_proxy": "http://p:1", "NO_PROXY": "*"}, None),
    ],
)
def test_which_proxy_is_used(url: str, environ: dict[str, str], proxy: str | None) -> None:
    """Loopback and what NO_PROXY names go without; others through the one for their scheme, or for all."""
    found = proxy_for(url, environ)
    assert (None if found is None else found.url) == proxy


@pytest.mark.parametrize("value", ["socks://127.0.0.1:1/", "socks5h://p:1", "http://p:x"])
def test_a_proxy_that_can_not_be_used(value: str) -> None:
    """One line names the variable and the host."""
    with pytest.raises(ConfigurationError, match=r"ALL_PROXY names a .* can't be used for far.org"):
        ServerClient("http://far.org/v1", rng=random.Random(0), environ={"ALL_PROXY": value})


async def test_a_dead_proxy_is_named() -> None:
    """A connection that fails through a proxy says so, with the variable and without a password."""
    environ = {"HTTP_PROXY": "http://me:secret@127.0.0.1:9/"}
    patience = Patience(retry_s=0)
    client = ServerClient("http://far.invalid/v1", rng=random.Random(0), patience=patience, environ=environ)
    with pytest.raises(DrawFailed, match=r"the proxy of HTTP_PROXY \(http://127.0.0.1:9/\)") as caught:
        await client.draw("m", CHAT, SamplingSpec(), 1)
    await client.aclose()
    assert "secret" not in str(caught.value)


async def test_a_local_server_is_reached_past_a_socks_proxy(
    server: ScriptedServer, connect: Callable[..., ServerClient]
) -> None:
    """What desktops set for all programs does not keep a local server away."""
    client = connect(server, environ=SOCKS)
    assert len((await client.draw("small", CHAT, SamplingSpec(max_tokens=8), 1)).samples) == 1


def test_where_paths_go() -> None:
    """Paths stand before a query of the base URL; user and password are not in the URL that is sent."""
    transport = Transport("https://a:b@host/x/v1?version=2", api_key=None, connections=1, environ={})
    assert transport.url("/models") == "https://host/x/v1/models?version=2"
    assert transport.url("/tokenize", root=True) == "https://host/x/tokenize?version=2"
