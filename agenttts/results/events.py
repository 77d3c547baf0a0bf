"""Reading the events of a run that hold a dataclass each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from datastore.store import Store

T = TypeVar("T")


def stored_events(store: Store, run_id: str, kind: str, adapter: TypeAdapter[T]) -> Iterator[T]:
    """Yield what the events of one kind hold, in the order in which they were stored.

    An event that another version wrote in another form is passed over.

    Args:
        store: The database, open for reading.
        run_id: The run.
        kind: The kind of the events.
        adapter: Reads the detail of an event.
    """
    for event in store.events(run_id):
        if event.kind == kind:
            try:
                yield adapter.validate_json(event.detail)
            except ValidationError:
                continue
