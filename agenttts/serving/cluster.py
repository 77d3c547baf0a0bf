"""Which machines of a Ray cluster model servers run on: as on one machine, with a number of replicas each.

Servers that share GPUs are a slot: they run in one actor, so that they start one after the other.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from agenttts.serving.machine import Gpu, detect_gpus
from agenttts.serving.placement import Placed, Placement
from agenttts.serving.servers import command_of, placed
from pipelines.errors import ServerError
from pipelines.extras import library
from pipelines.servers.commands import ServeCommand
from pipelines.spec.pipeline import PipelineSpec

_CONNECT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Servers that share GPUs of one machine, and so one actor.

    Attributes:
        commands: Their commands.
        devices: Their GPUs, as the machine names them that they were planned for.
        node: That machine, by Ray's id.
    """

    commands: tuple[ServeCommand, ...]
    devices: tuple[str, ...]
    node: str


def connect(address: str) -> Any:
    """Connect to a Ray cluster, and return the library.

    Args:
        address: HOST:PORT of the cluster's head; auto for the one that this machine belongs to.

    Raises:
        MissingDependency: ray is not installed.
        ServerError: No cluster answers there.
    """
    ray = library("ray", "a cluster", extra="ray")
    if not ray.is_initialized():
        try:
            _require_listener(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise ServerError(
                f"no Ray cluster at {address!r}: {' '.join(str(error).split())[:200]}; start one: "
                "ray start --head here, then ray start --address HOST:6379 on each other machine"
            ) from None
    return ray


def _require_listener(address: str) -> None:
    """OSError where nothing listens at HOST:PORT, which Ray says after minutes; ValueError for others."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()


def cluster_gpus(ray: Any, stated: Sequence[Gpu] | None = None) -> tuple[Gpu, ...]:
    """Return the GPUs of all machines of a cluster.

    Args:
        ray: The library, connected.
        stated: The GPUs of each machine; None: each is asked for its own.
    """
    strategies = ray.util.scheduling_strategies
    gpus: list[Gpu] = []
    for node in ray.nodes():
        n_gpus = int(node["Resources"].get("GPU", 0)) if node["Alive"] else 0
        if not n_gpus:
            continue
        there: Sequence[Gpu] = stated or ()
        if stated is None:
            affinity = strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            listing = ray.remote(_own_gpus).options(num_cpus=0, scheduling_strategy=affinity)
            there = ray.get(listing.remote())
        gpus += [replace(gpu, node=node["NodeID"]) for gpu in there[:n_gpus]]
    return tuple(gpus)


def _own_gpus() -> tuple[Gpu, ...]:
    """The GPUs of the machine that this runs on, those that Ray hides from a task without GPUs too."""
    return detect_gpus({key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"})


def placed_on_cluster(
    spec: PipelineSpec,
    models: Sequence[str] | None,
    gpus: Sequence[Gpu],
    *,
    n_replicas: int | None,
    n_sequences: int,
) -> Placement:
    """Return the placement of a number of replicas of each server on the GPUs of a cluster.

    Args:
        spec: The spec.
        models: Keys of the models; None for all of the spec.
        gpus: The cluster's GPUs.
        n_replicas: Servers for each model; None: as many as leave each a GPU of its own.
        n_sequences: Sequences at once that each KV cache is planned for.

    Raises:
        DoesNotFit: They do not fit.
    """
    if not gpus:
        raise ServerError(
            "the cluster has no GPU that can be read; state those of each machine, as in --gpus 4x80"
        )
    return placed(spec, models, gpus, n_sequences, n_replicas)


def slots(spec: PipelineSpec, placement: Placement) -> list[Slot]:
    """Group the servers of a placement by the GPUs that they share, directly or by others.

    Args:
        spec: The spec.
        placement: The placement.
    """
    groups: list[tuple[set[Gpu], list[Placed]]] = []
    for seated in placement.servers:
        touching = [group for group in groups if group[0].intersection(seated.gpus)]
        groups = [group for group in groups if group not in touching]
        of_slot = set(seated.gpus).union(*(gpus for gpus, _ in touching))
        groups.append((of_slot, [*(one for _, servers in touching for one in servers), seated]))
    return [
        Slot(
            commands=tuple(command_of(spec, seated) for seated in servers),
            devices=tuple(gpu.device for gpu in placement.gpus if gpu in of_slot),
            node=servers[0].gpus[0].node,
        )
        for of_slot, servers in groups
    ]
