"""Drawing in several client processes, where one core does not send requests and read answers fast enough.

`ClientProcesses` stands in the place of `ModelClients`: what is asked of it goes to one of the processes
(`pipelines.runtime.worker`), and what came of it is read from the files of the spool. All else stays in
the search's own process: which samples are missing, what may be spent, and the one writer of the store.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from datastore.errors import StoreError
from pipelines.content import Content
from pipelines.runtime.pending import PendingDraw
from pipelines.runtime.pool import ProcessPool
from pipelines.runtime.spool import DrawRequest, identity
from pipelines.runtime.worker import WorkerSettings
from pipelines.servers.billing import Bill
from pipelines.servers.clients import ModelClients
from pipelines.servers.grace import GRACE_S
from pipelines.servers.patience import Patience
from pipelines.servers.server import OnNotice
from pipelines.servers.streamed import TextStream
from pipelines.servers.wire import Draw, Negotiated
from pipelines.spec import SamplingSpec
from pipelines.spec.pipeline import PipelineSpec


class ClientProcesses(ModelClients):
    """The models of a spec, drawn from by several processes.

    Args:
        spec: The pipeline.
        n: How many processes.
        folder: The spool, which is made and removed again.
        settled: Returns when everything that was given to the store before is durable.
        max_in_flight: Requests at once for each server, of all processes together.
        replicas, rng, patience, environ, on_notice, grace_s: As `ModelClients` has them.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        *,
        n: int,
        folder: Path,
        settled: Callable[[], Awaitable[object]],
        rng: random.Random,
        patience: Patience,
        max_in_flight: int = 64,
        replicas: Mapping[str, int] = MappingProxyType({}),
        environ: Mapping[str, str] = os.environ,
        on_notice: OnNotice | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        notify = _once(on_notice or (lambda line: None))
        super().__init__(
            spec,
            rng=rng,
            patience=patience,
            max_in_flight=max_in_flight,
            replicas=replicas,
            environ=environ,
            on_notice=notify,
            grace_s=grace_s,
        )
        self._identities = {name: identity(spec, name) for name in spec.models}
        self._grace_s = grace_s
        self._n_requests = 0
        n_processes = min(n, max_in_flight)
        settings = [
            WorkerSettings(
                folder=folder.absolute(),
                name="",
                models=self._models,
                patience=patience,
                max_in_flight=(max_in_flight + slot) // n_processes,
                replicas=dict(replicas),
                seed=rng.randrange(2**31),
            )
            for slot in range(n_processes)
        ]
        self._pool = ProcessPool(
            settings,
            settled=settled,
            environ=dict(environ),
            on_negotiated=self._tell_once,
            on_notice=notify,
        )

    async def draw(
        self,
        model: str,
        content: Content,
        sampling: SamplingSpec,
        n: int,
        *,
        first: int = 0,
        logprobs: bool = True,
        bill: Bill | None = None,
        stream: TextStream | None = None,
    ) -> Draw:
        """As `ModelClients.draw`, by one of the processes; a text that is read as it grows by this one."""
        if not logprobs or stream is not None:
            return await super().draw(
                model, content, sampling, n, first=first, logprobs=logprobs, bill=bill, stream=stream
            )
        self.grace.check()
        self._n_requests += 1
        request = DrawRequest(
            number=self._n_requests,
            model=model,
            identity=self._identities[model],
            content=json.dumps(content, ensure_ascii=False),
            sampling=sampling.model_dump_json(),
            n=n,
            first=first,
        )
        future = asyncio.get_running_loop().create_future()
        pending = PendingDraw(request=request, bill=Bill() if bill is None else bill, draw=future)
        self._pool.send([pending])
        task = asyncio.current_task()
        assert task is not None
        task.remove_done_callback(self._keep_unstored)
        task.add_done_callback(self._keep_unstored)
        try:
            return await self.grace.awaited(pending.result(), on_stop=self._pool.stop)
        except asyncio.CancelledError:
            if task.cancelling() > 1:  # to end at once
                self._pool.kill()
            raise

    async def aclose(self) -> None:
        """End the processes, read what they still wrote, and remove the spool where nothing is left."""
        await self._pool.aclose(self._grace_s + 2)
        await super().aclose()

    def _tell_once(self, negotiated: Negotiated) -> None:
        if negotiated not in self._negotiated:
            self.tell(negotiated)

    def _keep_unstored(self, task: asyncio.Task[Any]) -> None:
        """Keep all files from now on if what a task had drawn could not be stored."""
        if not task.cancelled() and isinstance(task.exception(), StoreError):
            self._pool.spool.keep_all()


def _once(notify: OnNotice) -> OnNotice:
    """A handler of notices that passes each line on once in a row, whichever process says it."""
    last: list[str] = []

    def handle(line: str) -> None:
        if line not in last:
            notify(line)
        last[:] = [*last[-7:], line]

    return handle
