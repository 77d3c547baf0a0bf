"""Model servers on a Ray cluster: an actor for each slot, a router for each model.

Ray reserves GPUs by a placement group for each actor, on the planned machine as long as that is there, and
starts an actor again whose machine or server is lost. The replicas of a model answer at the model's own
address on this machine, so that the pipeline file stays as it is. Only HTTP goes over the network; the search
stays one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from agenttts.serving.actor import Replica
from agenttts.serving.cluster import slots
from agenttts.serving.placement import Placement
from agenttts.serving.router import change_workers, require_router, router_command
from pipelines.errors import ServerError
from pipelines.servers.group import ServerGroup
from pipelines.spec.pipeline import PipelineSpec

_POLL_S = 0.5
_ROUTER_S = 60.0
_STOP_S = 30.0


class ClusterServers:
    """`with ClusterServers(...) as servers: servers.watch()` keeps servers on a cluster for the block.

    Args:
        ray: The library, connected.
        spec: The spec.
        placement: Where the servers run.
        log_dir: The directory of the routers' logs; the servers' own are on their machines.
        timeout_s: Seconds for all servers to become healthy.
        notify: Is called with a line when a replica is lost, and when it is back.

    Attributes:
        base_urls: The root URL of each model's router.
    """

    def __init__(
        self,
        ray: Any,
        spec: PipelineSpec,
        placement: Placement,
        *,
        log_dir: Path,
        timeout_s: float,
        notify: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._ray = ray
        self._spec = spec
        self._slots = slots(spec, placement)
        self._log_dir = log_dir
        self._timeout_s = timeout_s
        self._notify = notify
        self._groups: list[Any] = []
        self._actors: list[Any] = []
        self._answers: list[Any] = []  # one pending call for each actor
        self._known: list[Mapping[str, str]] = []  # the addresses that the routers have of each actor
        self._routers: ServerGroup | None = None
        self.base_urls: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def watch(self) -> None:
        """Tell the routers of every replica that is lost or back, until a router ends (ServerError)."""
        assert self._routers is not None
        while True:
            self._routers.require_running()
            self.refresh()
            time.sleep(_POLL_S)

    def refresh(self) -> None:
        """Tell the routers what has changed since the last time."""
        for position, actor in enumerate(self._actors):
            now = self._now(position, actor)
            if now is None:
                continue
            before = self._known[position]
            self._known[position] = now
            for model in before.keys() | now.keys():
                gone, come = before.get(model), now.get(model)
                if gone != come:
                    self._change(model, gone, come)

    def stop(self) -> None:
        """End servers and routers, and give the GPUs back."""
        if self._routers is not None:
            self._routers.stop()
        stopping = [actor.stop.remote() for actor in self._actors]
        if stopping:
            self._ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_S)
        for actor in self._actors:
            self._ray.kill(actor)
        for group in self._groups:
            self._ray.util.remove_placement_group(group)
        self._actors, self._groups, self._routers = [], [], None

    def _start(self) -> None:
        require_router()
        ray = self._ray
        deadline = time.monotonic() + self._timeout_s
        for slot in self._slots:
            bundle = {"GPU": len(slot.devices), "CPU": 1}
            group = ray.util.placement_group([bundle], strategy="STRICT_PACK", _soft_target_node_id=slot.node)
            self._groups.append(group)
        if not all(group.wait(max(1.0, deadline - time.monotonic())) for group in self._groups):
            raise ServerError(
                f"the cluster did not give the GPUs within {self._timeout_s:g} s; is it in use?"
            )
        for slot, group in zip(self._slots, self._groups, strict=True):
            seat = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, 0)
            options = {"num_cpus": 1, "num_gpus": len(slot.devices), "max_restarts": -1, "max_concurrency": 4}
            actor = ray.remote(Replica).options(scheduling_strategy=seat, **options)
            self._actors.append(actor.remote(slot.commands, slot.devices, self._timeout_s))
        self._answers = [actor.addresses.remote() for actor in self._actors]
        try:
            self._known = ray.get(self._answers, timeout=max(1.0, deadline - time.monotonic()))
        except ray.exceptions.RayError as error:
            raise ServerError(f"a server did not start: {_last_line(error)}") from None
        self._answers = [actor.addresses.remote() for actor in self._actors]
        self._start_routers()

    def _start_routers(self) -> None:
        workers: dict[str, list[str]] = {}
        for addresses in self._known:
            for model, url in addresses.items():
                workers.setdefault(model, []).append(url)
        routers = [router_command(self._spec, model, urls) for model, urls in workers.items()]
        self.base_urls = {
            model: router.health_url.removesuffix("/health")
            for model, router in zip(workers, routers, strict=True)
        }
        self._routers = ServerGroup(routers, log_dir=self._log_dir, timeout_s=_ROUTER_S)
        self._routers.__enter__()

    def _now(self, position: int, actor: Any) -> Mapping[str, str] | None:
        """The addresses of an actor: none while it is lost; None while nothing new is known."""
        ray, answer = self._ray, self._answers[position]
        ready, _ = ray.wait([answer], timeout=0)
        if not ready:
            return None
        self._answers[position] = actor.addresses.remote()
        try:
            addresses: Mapping[str, str] = ray.get(answer)
        except ray.exceptions.ActorDiedError as error:
            raise ServerError(f"a replica can't be started again: {_last_line(error)}") from None
        except ray.exceptions.RayError:
            return {}
        return addresses

    def _change(self, model: str, gone: str | None, come: str | None) -> None:
        """Tell a model's router that a replica has gone, has come, or has come back elsewhere."""
        change_workers(self.base_urls[model], gone, come)
        if come is None:
            self._notify(f"{model}: the replica at {gone} is lost; Ray starts it again")
        else:
            self._notify(f"{model}: a replica answers at {come}")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rpartition("ServerError: ")[2][:300] if lines else type(error).__name__
