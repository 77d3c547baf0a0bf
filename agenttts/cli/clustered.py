"""`agenttts serve --cluster`: model servers on the machines of a Ray cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agenttts.cli.options import print_json, say
from agenttts.cli.placed import print_placement
from agenttts.cli.running import running

if TYPE_CHECKING:
    from agenttts.serving.machine import Gpu
    from agenttts.serving.placement import Placement
    from pipelines import PipelineSpec


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """What is served where.

    Attributes:
        address: The cluster's address, or auto.
        gpus: The GPUs of each machine; None: each says its own.
        n_replicas: Servers for each model; None: as many as leave each a GPU of its own.
        n_sequences: Sequences at once that each KV cache is planned for.
    """

    address: str
    gpus: tuple[Gpu, ...] | None
    n_replicas: int | None
    n_sequences: int


def serve_on_cluster(
    spec: PipelineSpec,
    models: Sequence[str] | None,
    settings: ClusterSettings,
    *,
    dry_run: bool,
    json: bool,
    log_dir: Path | None,
    timeout_s: float,
) -> None:
    """Start the servers of models on a cluster, and stop them on Ctrl-C.

    Args:
        spec: The pipeline.
        models: Keys of the models; None for all.
        settings: What is served where.
        dry_run: Whether the placement is printed and nothing started.
        json: Whether it is printed as JSON.
        log_dir: The directory of the routers' logs; None for a temporary one.
        timeout_s: Seconds for all servers to become healthy.

    Raises:
        ServerError: No cluster is there, or a server can't be started.
        DoesNotFit: The servers do not fit its GPUs.
    """
    from agenttts.serving.cluster import cluster_gpus, connect, placed_on_cluster
    from agenttts.serving.replicas import ClusterServers

    ray = connect(settings.address)
    placement = placed_on_cluster(
        spec,
        models,
        cluster_gpus(ray, settings.gpus),
        n_replicas=settings.n_replicas,
        n_sequences=settings.n_sequences,
    )
    _print(placement, json=json)
    if dry_run:
        return
    log_dir = log_dir or Path(tempfile.mkdtemp(prefix="agenttts-serve-"))
    servers = ClusterServers(
        ray, spec, placement, log_dir=log_dir, timeout_s=timeout_s, notify=lambda line: say(line, "yellow")
    )
    with running(servers, f"starting {len(placement.servers)} servers"):
        for model, url in servers.base_urls.items():
            say(f"{model}: {url}/v1", "green")


def _print(placement: Placement, *, json: bool) -> None:
    if json:
        print_json([{"models": one.need.hosted.models, **one.to_dict()} for one in placement.servers])
    else:
        print_placement(placement)
