"""The commands of a pipeline's servers, each with its GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agenttts.serving.defaults import CONCURRENCY
from agenttts.serving.machine import Gpu, detect_gpus
from agenttts.serving.needs import server_needs
from agenttts.serving.placement import Placement, place
from agenttts.serving.remedies import DoesNotFit
from pipelines.servers.commands import Device, ServeCommand, commands, has_gpu
from pipelines.spec.pipeline import PipelineSpec


@dataclass(frozen=True, kw_only=True)
class PlannedServers:
    """How servers are started.

    Attributes:
        commands: A command for each server, in the spec's order.
        placement: Where they run; None on a CPU, and on GPUs whose sizes can't be read.
    """

    commands: tuple[ServeCommand, ...]
    placement: Placement | None


def planned_servers(
    spec: PipelineSpec,
    models: Iterable[str] | None = None,
    *,
    device: Device = "auto",
    gpus: Sequence[Gpu] | None = None,
    n_sequences: int = CONCURRENCY,
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
        environ: The environment variables, among them CUDA_VISIBLE_DEVICES.

    Raises:
        DoesNotFit: The servers do not fit the GPUs; the message has the arithmetic and what would fit.
        SpecError: A model can't be served from here, or its size can't be read.
    """
    names = None if models is None else list(models)
    if gpus is None and (device == "gpu" or (device == "auto" and has_gpu())):
        gpus = detect_gpus(environ)
    if not gpus:
        return PlannedServers(commands=tuple(commands(spec, names, device=device)), placement=None)
    commands(spec, names, device="gpu")  # what can't be served from here is refused before sizes are read
    placement = placed(spec, names, gpus, n_sequences)
    started = commands(spec, names, device="gpu", seats=placement.seats)
    return PlannedServers(commands=tuple(started), placement=placement)


def placed(
    spec: PipelineSpec,
    models: Iterable[str] | None,
    gpus: Sequence[Gpu],
    n_sequences: int = CONCURRENCY,
    n_replicas: int = 1,
) -> Placement:
    """Return the placement of models' servers on a machine, or on the machines of a cluster.

    Args:
        spec: The spec.
        models: Keys of the models; None for all of the spec.
        gpus: The GPUs.
        n_sequences: Sequences at once that each KV cache is planned for.
        n_replicas: Servers for each model.

    Raises:
        DoesNotFit: They do not fit.
        SpecError: The size of a model can't be read.
    """
    needs = [need for need in server_needs(spec, models) for _ in range(n_replicas)]
    placement = place(needs, gpus, n_sequences)
    if placement is None:
        raise DoesNotFit(needs, gpus, [stage.models for stage in spec.stages])
    return placement
