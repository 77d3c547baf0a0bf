"""Model servers inside a Ray actor: the same processes that `agenttts serve` starts on one machine.

An actor holds the servers that share GPUs. When one of them ends, the actor ends too, and Ray starts it
again, on another machine if need be.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.errors import ServerError
from pipelines.extras import library
from pipelines.servers.commands import ServeCommand, moved
from pipelines.servers.group import ServerGroup, free_port

_AGAIN_S = 5.0


class Replica:
    """The servers of one actor, healthy once it is made.

    Args:
        commands: Their commands. GPUs are named by the machine that they were planned for.
        devices: These GPUs, in the order of those that Ray gives the actor.
        timeout_s: Seconds for all of them to become healthy.
    """

    def __init__(self, commands: Sequence[ServeCommand], devices: Sequence[str], timeout_s: float) -> None:
        ray = library("ray", "a cluster", extra="ray")
        granted = dict(zip(devices, map(str, ray.get_gpu_ids()), strict=True))
        host = ray.util.get_node_ip_address()
        placed = [moved(command, host, free_port(host), granted) for command in commands]
        self._addresses = {one.model: one.health_url.removesuffix("/health") for one in placed}
        self._group = ServerGroup(
            placed, log_dir=Path(tempfile.mkdtemp(prefix="agenttts-serve-")), timeout_s=timeout_s
        )
        try:
            self._group.__enter__()
        except (ServerError, OSError) as error:
            if not ray.get_runtime_context().was_current_actor_reconstructed:
                raise ServerError(f"{host}: {error}") from error
            time.sleep(_AGAIN_S)  # what held the GPU before may need longer to end
            os._exit(1)
        threading.Thread(target=self._end_with_servers, daemon=True).start()

    def addresses(self) -> Mapping[str, str]:
        """Return the root URL of each server, by its model's key."""
        return self._addresses

    def stop(self) -> None:
        """End the servers."""
        self._group.stop()

    def _end_with_servers(self) -> None:
        try:
            self._group.watch()
        except ServerError:
            os._exit(1)
