"""How the servers of a search are doing, stored as events while it runs: a few words for who looks at it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from datastore.records import Event
from datastore.store import Store
from pipelines.servers.clients import ModelClients
from pipelines.servers.health import ServerHealth

EVENT = "servers"
EVERY_S = 10.0
_HEALTH = TypeAdapter(tuple[ServerHealth, ...])


@dataclass(frozen=True, kw_only=True)
class StoredHealth:
    """How the servers were doing.

    Attributes:
        at: Unix seconds.
        servers: Each server.
    """

    at: float
    servers: Sequence[ServerHealth]


class ServerWatch:
    """Stores how the servers of a run are doing, every ten seconds at most, and at once when one goes down.

    Args:
        store: The database.
        run_id: The run.
        clients: The clients of the servers.
        clock: Unix seconds.
    """

    def __init__(self, store: Store, run_id: str, clients: ModelClients, clock: Callable[[], float]) -> None:
        self._store, self._run_id, self._clients, self._clock = store, run_id, clients, clock
        self._kept_at = float("-inf")

    def keep_if_due(self) -> None:
        """Store it, where ten seconds have passed."""
        if self._clock() - self._kept_at >= EVERY_S:
            self.keep()

    def keep(self) -> None:
        """Store it now."""
        self._kept_at = self._clock()
        detail = json.dumps([asdict(server) for server in self._clients.health()])
        self._store.put_event(Event(run_id=self._run_id, at=self._kept_at, kind=EVENT, detail=detail))


def load_health(store: Store, run_id: str) -> StoredHealth | None:
    """Return how the servers of a run were doing last; None where it is not known.

    Args:
        store: The database, open for reading.
        run_id: The run.
    """
    for event in reversed(store.events(run_id)):
        if event.kind == EVENT:
            try:
                return StoredHealth(at=event.at, servers=_HEALTH.validate_json(event.detail))
            except ValidationError:
                return None
    return None
