"""The database of a search: a new one is gone again where an error came before anything was kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agenttts.errors import AgentTTSError
from datastore.opening import wal_of
from datastore.store import Store
from pipelines.errors import PipelineError


@contextmanager
def opened(path: Path, clock: Callable[[], float]) -> Iterator[Store]:
    """Open a database for the block.

    One that is new, and holds neither a run nor a sample when an error of the user's ends the block, is
    removed: nobody would know what it is for.

    Args:
        path: The DuckDB file; `~` is expanded.
        clock: Returns the time in Unix seconds.
    """
    path = path.expanduser()
    is_new, is_unused = not path.exists(), False
    try:
        with Store.open(path, clock=clock) as store:
            try:
                yield store
            except (AgentTTSError, PipelineError):
                is_unused = is_new and not store.runs() and store.sql("FROM samples LIMIT 1").empty
                raise
    finally:
        if is_unused:
            path.unlink(missing_ok=True)
            wal_of(path).unlink(missing_ok=True)
