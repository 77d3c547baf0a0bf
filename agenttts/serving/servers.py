"""The commands of a pipeline's servers, each with its GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agenttts.serving.defaults import CONCURRENCY
from agenttts.serving.machine import Gpu, detect_gpus
from agenttts.serving.needs import server_needs
from agenttts.serving.placement import Placed, Placement, most_replicas, place
from agenttts.serving.remedies import DoesNotFit
from agenttts.serving.router import router_command
from pipelines.errors import ServerError
from pipelines.servers.commands import Device, ServeCommand, commands, has_gpu, moved
from pipelines.servers.group import free_port
from pipelines.spec.pipeline import PipelineSpec


@dataclass(frozen=True, kw_only=True)
class PlannedServers:
    """How servers are started.

    Attributes:
        commands: A command for each server, in the spec's order; of replicas, in the placement's.
        placement: Where they run; None on a CPU, and on GPUs whose sizes can't be read.
        routers: Where models have replicas, the router of each, at the model's own address.
    """

    commands: tuple[ServeCommand, ...]
    placement: Placement | None
    routers: tuple[ServeCommand, ...] = ()


def planned_servers(
    spec: PipelineSpec,
    models: Iterable[str] | None = None,
    *,
    device: Device = "auto",
    gpus: Sequence[Gpu] | None = None,
    n_sequences: int = CONCURRENCY,
    n_replicas: int | None = 1,
    environ: Mapping[str, str] = os.environ,
) -> PlannedServers:
    """Plan the servers of models for this machine, or for a stated one.

    Args:
        spec: The spec.
        models: Keys of the models; None for all of the spec.
        device: What they run on; auto is the GPU where there is one.
        gpus: The GPUs to plan for; None for those of this machine. Where none can be read, or on a CPU, there
            is no placement.
        n_sequences: Sequences at once that each KV cache is planned for; fewer where these do not fit.
        n_replicas: Servers for each model; None: as many as leave each a GPU of its own.
        environ: The environment variables, among them CUDA_VISIBLE_DEVICES.

    Raises:
        DoesNotFit: The servers do not fit the GPUs; the message has the arithmetic and what would fit.
        SpecError: A model can't be served from here, or its size can't be read.
    """
    names = None if models is None else list(models)
    if gpus is None and (device == "gpu" or (device == "auto" and has_gpu())):
        gpus = detect_gpus(environ)
    if not gpus:
        if n_replicas != 1:
            raise ServerError(
                "--replicas needs GPUs whose sizes are known; state them, as in --gpus 4x80, or leave it out"
            )
        return PlannedServers(commands=tuple(commands(spec, names, device=device)), placement=None)
    commands(spec, names, device="gpu")  # what can't be served from here is refused before sizes are read
    placement = placed(spec, names, gpus, n_sequences, n_replicas)
    if len({one.need.name for one in placement.servers}) < len(placement.servers):
        return _with_routers(spec, placement)
    started = commands(spec, names, device="gpu", seats=placement.seats)
    return PlannedServers(commands=tuple(started), placement=placement)


def placed(
    spec: PipelineSpec,
    models: Iterable[str] | None,
    gpus: Sequence[Gpu],
    n_sequences: int = CONCURRENCY,
    n_replicas: int | None = 1,
) -> Placement:
    """Return the placement of models' servers on a machine, or on the machines of a cluster.

    Args:
        spec: The spec.
        models: Keys of the models; None for all of the spec.
        gpus: The GPUs.
        n_sequences: Sequences at once that each KV cache is planned for.
        n_replicas: Servers for each model; None: as many as leave each a GPU of its own.

    Raises:
        DoesNotFit: They do not fit.
        SpecError: The size of a model can't be read.
    """
    once = server_needs(spec, models)
    if n_replicas is None:
        n_replicas = most_replicas(once, gpus, n_sequences)
    needs = [need for need in once for _ in range(n_replicas)]
    placement = place(needs, gpus, n_sequences)
    if placement is None:
        raise DoesNotFit(needs, gpus, [stage.models for stage in spec.stages])
    return placement


def command_of(spec: PipelineSpec, seated: Placed) -> ServeCommand:
    """Return the command of one server of a placement, at its model's own address.

    Args:
        spec: The spec.
        seated: The server.
    """
    seats = {seated.need.name: seated.seat}
    (command,) = commands(spec, seated.need.hosted.models, device="gpu", seats=seats)
    return command


def _with_routers(spec: PipelineSpec, placement: Placement) -> PlannedServers:
    """Servers at free ports of this machine, and at each model's own address a router to its replicas."""
    servers: list[ServeCommand] = []
    workers: dict[str, list[str]] = {}
    for seated in placement.servers:
        own = command_of(spec, seated)
        there = moved(own, "127.0.0.1", free_port(), {device: device for device in own.devices})
        urls = workers.setdefault(seated.need.name, [])
        urls.append(there.health_url.removesuffix("/health"))
        name, *adapters = there.models
        servers.append(replace(there, models=(f"{name}-{len(urls)}", *adapters)))
    routers = tuple(router_command(spec, model, urls) for model, urls in workers.items())
    return PlannedServers(commands=tuple(servers), placement=placement, routers=routers)
