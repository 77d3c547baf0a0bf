"""The server of the pages, on 127.0.0.1."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from agenttts.errors import UserError
from agenttts.ui.access import Access


def serve(application: Callable[[Access], Starlette], port: int, on_ready: Callable[[str], None]) -> None:
    """Serve pages until Ctrl-C.

    Args:
        application: Builds the application that those who have access may read.
        port: The port; 0 for one that is free.
        on_ready: Called with the address to open, with its token, once it can be opened.

    Raises:
        UserError: The port is taken or may not be used.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port} of 127.0.0.1 can't be used: {error.strerror}; name another with --port"
            ) from error
        listening.listen()  # what comes before the application runs waits
        access = Access(port=listening.getsockname()[1])
        config = uvicorn.Config(application(access), log_level="warning", access_log=False, lifespan="off")
        on_ready(access.address)
        uvicorn.Server(config).run(sockets=[listening])
