"""What a run learned about its servers, stored as events."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from pydantic import TypeAdapter

from agenttts.results.events import stored_events
from datastore.records import Event
from datastore.store import Store
from pipelines.servers.wire import Negotiated

EVENT = "terms_found"
_NEGOTIATED = TypeAdapter(Negotiated)


def load_negotiated(store: Store, run_id: str) -> tuple[Negotiated, ...]:
    """Return what a run learned about its servers, oldest first.

    Args:
        store: The database, open for reading.
        run_id: The run.
    """
    return tuple(stored_events(store, run_id, EVENT, _NEGOTIATED))


def keep_negotiated(store: Store, run_id: str, negotiated: Negotiated, at: float) -> None:
    """Store a finding, unless the run has it already, as a resumed one that finds it again.

    Args:
        store: The database, open for writing.
        run_id: The run.
        negotiated: The finding.
        at: Unix seconds.
    """
    if _identity(negotiated) not in map(_identity, load_negotiated(store, run_id)):
        store.put_event(Event(run_id=run_id, at=at, kind=EVENT, detail=json.dumps(asdict(negotiated))))


def clauses(negotiated: Iterable[Negotiated]) -> list[str]:
    """Put findings into words for a report, without the server's own; what several models share is said once.

    Args:
        negotiated: The findings.

    Returns:
        A clause for each, such as `small takes no temperature: it is not sent, …`.
    """
    models: dict[tuple[str, ...], list[str]] = {}
    for one in negotiated:
        models.setdefault((one.field, one.action, one.consequence), []).append(one.model)
    texts = []
    for (field, action, consequence), names in models.items():
        subject = " and ".join(names)
        if action == "dropped":
            subject += f" take{'s' * (len(names) == 1)} no {field}"
        else:
            subject += f": {field} {action}"
        texts.append(f"{subject}: {consequence}")
    return texts


def _identity(negotiated: Negotiated) -> tuple[str, ...]:
    """All but the server's words, which may hold the number of a request."""
    return negotiated.model, negotiated.field, negotiated.action, negotiated.consequence
