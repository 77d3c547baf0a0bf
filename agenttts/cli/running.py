"""Model servers that run while a command waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from agenttts.cli.options import say, talk


class Servers(Protocol):
    """Servers that start on entering."""

    def __enter__(self) -> object: ...

    def watch(self) -> None:
        """Wait until a server ends by itself, and raise."""

    def stop(self) -> None:
        """End them."""


@contextmanager
def running(servers: Servers, starting: str) -> Iterator[None]:
    """Start servers, run the block, and wait until Ctrl-C or until a server ends by itself.

    Args:
        servers: The servers.
        starting: The text of the status line while they start.
    """
    from rich.text import Text

    with talk().status(Text(starting)):
        servers.__enter__()
    try:
        yield
        say("Press Ctrl-C to stop the servers.", "dim")
        servers.watch()
    except KeyboardInterrupt:
        say("stopping the servers", "dim")
    finally:
        servers.stop()
