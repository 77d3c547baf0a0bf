"""The router of a model's replicas: vllm-router, at the model's own address on this machine.

It sends a request whose replica fails to another, asks each replica for its health every two seconds, and is
told of replicas that come and go.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import httpx2

from pipelines.errors import MissingDependency
from pipelines.extras import install_command
from pipelines.servers.commands import ServeCommand, commands
from pipelines.servers.group import free_port
from pipelines.spec.pipeline import PipelineSpec

logger = logging.getLogger(__name__)

_CHANGE_S = 30.0
_OPTIONS = (
    *("--policy", "round_robin"),
    *("--worker-startup-check-interval", "1"),
    *("--health-check-interval-secs", "2"),
    *("--health-failure-threshold", "2"),
    *("--cb-timeout-duration-secs", "5"),
    *("--request-timeout-secs", "3600"),
)


def router_command(spec: PipelineSpec, model: str, workers: Sequence[str]) -> ServeCommand:
    """Return the command of the router that answers at a model's own address.

    Args:
        spec: The spec.
        model: The key of a base model.
        workers: The root URLs of its replicas.

    """
    program = _program() or "vllm-router"
    (server,) = commands(spec, [model], device="cpu")
    argv = list(server.argv)
    host, port = (argv[argv.index(option) + 1] for option in ("--host", "--port"))
    options = [*_OPTIONS, "--prometheus-port", str(free_port())]
    return ServeCommand(
        models=(f"router-{model}",),
        argv=(program, "--host", host, "--port", port, "--worker-urls", *workers, *options),
        env={},
        health_url=f"http://127.0.0.1:{port}/health",
    )


def require_router() -> None:
    """MissingDependency when vllm-router is not installed."""
    if _program() is None:
        raise MissingDependency(
            f"replicas need vllm-router, which is not installed; run: {install_command('ray')}"
        )


def _program() -> str | None:
    beside = Path(sys.executable).parent / "vllm-router"
    return str(beside) if beside.exists() else shutil.which("vllm-router")


def change_workers(root: str, gone: str | None, come: str | None) -> None:
    """Tell a router of a replica that has gone, has come, or has come back elsewhere.

    Args:
        root: The router's URL.
        gone: The URL of the replica that is no longer there; None for none.
        come: The URL of the one that is new; None for none.
    """
    for action, url in (("remove_worker", gone), ("add_worker", come)):
        if url is not None:
            try:
                httpx2.post(f"{root}/{action}?url={quote(url, safe='')}", timeout=_CHANGE_S, trust_env=False)
            except httpx2.HTTPError as error:
                logger.warning("%s: %s %s: %s", root, action, url, error)
