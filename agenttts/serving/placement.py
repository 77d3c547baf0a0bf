"""Which GPUs each server gets: first-fit-decreasing over the GPUs of a machine.

The largest server is seated first. It is split over as few GPUs as have room for it: powers of two that
divide its heads, of GPUs of one size. A first try takes the emptiest GPUs, so that none is idle, of a machine
that has no replica of the model yet; where that leaves a later server without room, the next takes the first
GPUs that fit, which packs them. What no try seats is tried again with room for half as many sequences at
once, down to one of the full context. Memory that remains goes to the KV caches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agenttts.serving.defaults import CONCURRENCY
from agenttts.serving.machine import GB, Gpu
from agenttts.serving.needs import GpuBytes, Need
from pipelines.servers.commands import Seat

USABLE_SHARE = 0.92
"""The share of a GPU that servers take at most; vLLM's own default for one server."""
CONTEXT_BYTES = 1e9
"""What a further server on a GPU takes outside its share, for its CUDA context."""
_SHARE_DIGITS = 1000


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A server with its GPUs.

    Attributes:
        need: The server.
        gpus: Its GPUs, of one size.
        planned: What it needs on each of them.
        share: The share of each that it may take.
        n_sequences: Sequences of the expected length that its KV cache holds at once.
    """

    need: Need
    gpus: tuple[Gpu, ...]
    planned: GpuBytes
    share: float
    n_sequences: int

    @property
    def seat(self) -> Seat:
        """What its command is made from."""
        return Seat(devices=tuple(gpu.device for gpu in self.gpus), share=self.share)

    @property
    def cache_bytes(self) -> float:
        """The KV cache on each of its GPUs: all of its share that nothing else takes."""
        return max(0.0, self.share * self.gpus[0].memory_bytes - self.planned.weights - self.planned.own)

    def to_dict(self) -> dict[str, object]:
        """Return the seat as JSON-able data, sizes in GB on each GPU; the node is a cluster's."""
        return {
            "node": self.gpus[0].node or None,
            "gpus": [gpu.device for gpu in self.gpus],
            "tensor_parallel_size": len(self.gpus),
            "gpu_memory_utilization": self.share,
            "weights_gb": round(self.planned.weights / GB, 3),
            "weights_are_estimated": self.need.size.is_estimated,
            "kv_cache_gb": round(self.cache_bytes / GB, 3),
            "own_gb": round(self.planned.own / GB, 3),
            "context_tokens": self.need.context_tokens,
            "sequences_at_once": self.n_sequences,
        }


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A machine with all servers seated.

    Attributes:
        gpus: The machine.
        servers: The servers, the largest first.
        planned_sequences: Sequences at once that every KV cache has room for; 1 where some have room for no
            more than one sequence of the full context.
    """

    gpus: tuple[Gpu, ...]
    servers: tuple[Placed, ...]
    planned_sequences: int

    @property
    def idle(self) -> tuple[Gpu, ...]:
        """The GPUs that no server takes."""
        occupied = {gpu for one in self.servers for gpu in one.gpus}
        return tuple(gpu for gpu in self.gpus if gpu not in occupied)

    @property
    def seats(self) -> dict[str, Seat]:
        """The seat of each server, by its base model."""
        return {placed.need.name: placed.seat for placed in self.servers}


def usable_bytes(gpu: Gpu) -> float:
    """Return what servers may take of a GPU, as long as there is one.

    Args:
        gpu: The GPU.
    """
    return min(USABLE_SHARE * gpu.memory_bytes, gpu.free_bytes - CONTEXT_BYTES)


def place(needs: Sequence[Need], gpus: Sequence[Gpu], n_sequences: int = CONCURRENCY) -> Placement | None:
    """Seat servers on the GPUs of a machine.

    Args:
        needs: The servers.
        gpus: The machine.
        n_sequences: Sequences at once that each server is to have room for.

    Returns:
        The placement; None when they do not fit, even with room for one sequence each.
    """
    while True:
        for spread in (True, False):
            seated = _seated(needs, gpus, n_sequences, spread=spread)
            if seated is not None:
                servers = tuple(_with_share(one, seated) for one in seated)
                return Placement(gpus=tuple(gpus), servers=servers, planned_sequences=n_sequences)
        if n_sequences == 1:
            return None
        n_sequences //= 2


def most_replicas(needs: Sequence[Need], gpus: Sequence[Gpu], n_sequences: int = CONCURRENCY) -> int:
    """Return how many servers of each model a machine has room for with no GPU shared by two of them.

    Args:
        needs: A server of each model.
        gpus: The machine.
        n_sequences: Sequences at once that each server is to have room for.

    Returns:
        The number, 1 at least: where even one of each share GPUs, or do not fit.
    """
    n = 1
    if not needs:
        return n
    while (placement := place([need for need in needs for _ in range(n + 1)], gpus, n_sequences)) is not None:
        occupied = [gpu for one in placement.servers for gpu in one.gpus]
        if len(set(occupied)) < len(occupied) or placement.planned_sequences < n_sequences:
            break
        n += 1
    return n


def _seated(
    needs: Sequence[Need], gpus: Sequence[Gpu], n_sequences: int, *, spread: bool
) -> list[Placed] | None:
    """Seat the servers with what they need at least; None when one finds no room."""
    room = {gpu: usable_bytes(gpu) + CONTEXT_BYTES for gpu in gpus}
    seated: list[Placed] = []
    for need in sorted(needs, key=lambda need: -_size(need, gpus, n_sequences)):
        twins = [gpu.node for one in seated if one.need is need for gpu in one.gpus]
        order = sorted(gpus, key=lambda gpu: (twins.count(gpu.node), -room[gpu])) if spread else gpus
        placed = _first_fit(need, order, room, n_sequences)
        if placed is None:
            return None
        for gpu in placed.gpus:
            room[gpu] -= placed.planned.total + CONTEXT_BYTES
        seated.append(placed)
    return seated


def _size(need: Need, gpus: Sequence[Gpu], n_sequences: int) -> float:
    return need.gpu_bytes(gpus[0], 1, n_sequences).total if gpus else 0.0


def _first_fit(
    need: Need, order: Sequence[Gpu], room: Mapping[Gpu, float], n_sequences: int
) -> Placed | None:
    """The server on the fewest GPUs of one machine and one size that have room, the first in this order."""
    for split in need.splits:
        for kind in dict.fromkeys((gpu.node, gpu.memory_bytes) for gpu in order):
            alike = [gpu for gpu in order if (gpu.node, gpu.memory_bytes) == kind]
            planned = need.gpu_bytes(alike[0], split, n_sequences)
            fitting = [gpu for gpu in alike if room[gpu] >= planned.total + CONTEXT_BYTES][:split]
            if len(fitting) == split:
                chosen = tuple(sorted(fitting, key=list(room).index))
                return Placed(need=need, gpus=chosen, planned=planned, share=0.0, n_sequences=n_sequences)
    return None


def _with_share(placed: Placed, seated: Sequence[Placed]) -> Placed:
    """The server with its share: what it needs, and of what remains its part by the KV caches' sizes.

    A split server has one share for all of its GPUs, the least that it gets on one.
    """
    size = placed.gpus[0].memory_bytes
    share = placed.need.fixed_share
    if share is None:
        extra = min(_part(placed, gpu, seated) for gpu in placed.gpus)
        share = math.floor((placed.planned.total + extra) / size * _SHARE_DIGITS) / _SHARE_DIGITS
    complete = replace(placed, share=share)
    of_one = placed.need.cache_bytes(placed.need.sequence_tokens, len(placed.gpus))
    n = int(complete.cache_bytes / of_one) if of_one else placed.n_sequences
    return replace(complete, n_sequences=max(1, n))


def _part(placed: Placed, gpu: Gpu, seated: Sequence[Placed]) -> float:
    """The server's part of the memory of a GPU that no server needs."""
    neighbours = [one for one in seated if gpu in one.gpus]
    needed = sum(one.planned.total for one in neighbours) + CONTEXT_BYTES * (len(neighbours) - 1)
    caches = sum(one.planned.cache for one in neighbours if one.need.fixed_share is None)
    return max(0.0, usable_bytes(gpu) - needed) * placed.planned.cache / caches if caches else 0.0
