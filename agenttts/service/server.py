"""The process of the service: its store, its clients, its socket, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from agenttts.answering import STREAM_CACHE_BYTES, MeanCost
from agenttts.errors import UserError
from agenttts.results.spec_bank import attach_spec_bank
from agenttts.service.app import Offer, Service
from agenttts.service.gate import Gate, Limits
from agenttts.service.worker import Worker
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.policy import Policy
from pipelines.runtime.runtime import Runtime
from pipelines.servers.clients import ModelClients
from pipelines.servers.patience import Patience
from pipelines.spec.pipeline import PipelineSpec

FINISH_S = 30
"""Seconds for which requests under way are awaited when the service is stopped."""
KEEP_ALIVE_S = 75
"""Seconds for which an idle connection stays open: longer than proxies keep theirs."""
_BACKLOG = 2048
_LOOK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What is served, and where.

    Attributes:
        spec: The pipeline.
        run_id: The run that chose what is run.
        chosen: What is run on each input.
        mean: What a query of a policy may cost on average; None: its thresholds stand.
        samples: The DuckDB file that keeps samples and traces.
        host: The address to listen on.
        port: The port; 0 for one that is free.
        key: What clients send as a bearer token; None: no key, and 127.0.0.1 only.
        limits: How much is taken.
        patience: How long model servers are waited for; an overload as long as a fault.
        replay: Whether only recorded samples answer.
    """

    spec: PipelineSpec
    run_id: str
    chosen: Allocation | Policy
    mean: MeanCost | None
    samples: Path
    host: str
    port: int
    key: str | None
    limits: Limits
    patience: Patience
    replay: bool = False


def serve(
    settings: ServiceSettings,
    on_ready: Callable[[str], None],
    *,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Serve until Ctrl-C or SIGTERM; requests under way are awaited, and what they drew is kept.

    Args:
        settings: What is served.
        on_ready: Called with the address once it can be asked.
        environ: The environment variables, which hold the model servers' keys.

    Raises:
        UserError: The address can't be used, or is not this machine's alone and there is no key.
        StoreError: The database of the samples can't be written.
        ConfigurationError: A key of a model server is not set.
    """
    if settings.key is None and not _is_loopback(settings.host):
        raise UserError(
            f"--host {settings.host} can be reached from other machines, which needs a key; set the "
            "environment variable that --key-env names, or leave --host out"
        )
    with (
        closing(_listening(settings.host, settings.port)) as listening,
        Store.open(settings.samples, cache_bytes=STREAM_CACHE_BYTES) as store,
    ):
        attach_spec_bank(settings.spec, store)
        asyncio.run(_serve(settings, store, listening, on_ready, environ))


async def _serve(
    settings: ServiceSettings,
    store: Store,
    listening: socket.socket,
    on_ready: Callable[[str], None],
    environ: Mapping[str, str],
) -> None:
    spec, clients = settings.spec, None
    if not settings.replay:
        rng = random.Random(0)
        clients = ModelClients(spec, rng=rng, patience=settings.patience, holds=False, environ=environ)
    port = listening.getsockname()[1]
    runtime = Runtime(spec, store, clients, run_id=None, replay=settings.replay)
    service = Service(
        Worker(runtime, store, settings.run_id, settings.chosen, settings.mean),
        Offer(spec=spec, run_id=settings.run_id, since=int(time.time())),
        Gate(host=_shown(settings.host), port=port, key=settings.key),
        settings.limits,
    )
    config = uvicorn.Config(
        service.app,
        log_level="critical",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=FINISH_S,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.handle_exit, number, None)
    try:
        on_ready(f"http://{_shown(settings.host)}:{port}")
        await server.serve(sockets=[listening])
        while service.n_under_way and time.monotonic() < server.ends_at and not server.force_exit:
            await asyncio.sleep(_LOOK_S)
        await service.end()
    finally:
        if clients is not None:
            await clients.aclose()


class _Server(uvicorn.Server):
    """A server that leaves signals to its caller, which closes what is open after it.

    Attributes:
        ends_at: Until when requests under way are awaited, whose clients are there or not.
    """

    ends_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.ends_at = self.ends_at or time.monotonic() + FINISH_S
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{host}:{port} can't be listened on: {reason}; name others with --host and --port"
        ) from error
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
