"""Whether a run that counts as running is at work, or ended without a word."""

from __future__ import annotations

from datastore.records import Run
from datastore.store import Store

STOPPED_SILENTLY = "stopped without a word"


def is_abandoned(store: Store, run: Run) -> bool:
    """Tell whether a run counts as running although no process writes: it was killed, or its machine stopped.

    Args:
        store: The database, open. One that a process writes is read by its live snapshot.
        run: The run.
    """
    return run.status == "running" and store.read_only and store.as_of is None
