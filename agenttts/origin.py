"""Where a request to a local server comes from: a browser may send it for a page of another site.

What arrives under a host name that is not the server's own was sent to a name that somebody has made point to
this machine (DNS rebinding).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


def is_own_host(headers: Mapping[str, str], names: Collection[str], port: int) -> bool:
    """Return whether a request was sent to the server under one of its names.

    Args:
        headers: Of the request.
        names: The server's names, as a URL writes them.
        port: Its port.
    """
    host = headers.get("host", "")
    name, stated_port = host, "80"  # which a client leaves out
    if ":" in host and not host.endswith("]"):
        name, _, stated_port = host.rpartition(":")
    return name in names and stated_port == str(port)


def is_from_another_site(headers: Mapping[str, str]) -> bool:
    """Return whether a page of another site has sent a request; to follow a link is something else.

    Args:
        headers: Of the request, sent to the server under a name of its own.
    """
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{headers.get('host', '')}":
        return True
    return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"
