"""The live snapshot: a small database beside the real one, for looking at a run that is going on.

It holds every table but prompts, samples and payments. Of these it holds the summary and each run's cost, as
tables with the names of the views. The writer's thread replaces it atomically, every few seconds while
something changes.
"""

from __future__ import annotations

import glob
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import duckdb

from datastore import migrations, opening
from datastore.errors import StoreError, translate
from datastore.openfile import make_file

_log = logging.getLogger(__name__)
_LEFT_OUT = ("prompts", "samples", "payments")
_VIEWS = ("bank_summary", "run_costs")
_INTERVAL_S = 2.0
_MOST_SHARE_OF_TIME = 0.1  # of the writer's thread


def live_path(path: Path) -> Path:
    """Return the path of the live snapshot of the database at `path`: `<stem>.live.duckdb` beside it."""
    return path.with_name(f"{path.stem}.live.duckdb")


class LiveSnapshot:
    """Writes the snapshot of one database, every two seconds at most, and sooner after `hurry`.

    Attributes:
        path: The snapshot's file.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path = live_path(path)
        self._database = path
        self._new = self.path.with_name(f".{self.path.name}.{os.getpid()}.new")
        self._clock = clock
        self._dirty = False
        self._hurry = False
        self._taken_at = float("-inf")  # time.monotonic
        self._took_s = 0.0
        self.discard()
        for left in path.parent.glob(f".{glob.escape(self.path.name)}.*.new*"):  # by a writer that was killed
            left.unlink(missing_ok=True)

    def touch(self) -> None:
        """Record that something was written."""
        self._dirty = True

    def hurry(self) -> None:
        """Record that something was written which a reader is waiting for, such as a trial's end."""
        self._dirty = self._hurry = True

    def write_if_due(self, connection: duckdb.DuckDBPyConnection) -> float | None:
        """Write the snapshot if it is time. A failure is logged, since the data are safe without it.

        Returns:
            The seconds until the next write is due; None when nothing has changed.
        """
        if not self._dirty:
            return None
        wait_s = max(0.2 if self._hurry else _INTERVAL_S, self._took_s / _MOST_SHARE_OF_TIME)
        left_s = self._taken_at + wait_s - time.monotonic()
        if left_s > 0:
            return left_s
        try:
            self.write(connection)
        except StoreError as error:
            _log.warning("no live snapshot: %s", error)
        return None

    def write(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Write the snapshot now, from outside a transaction.

        Raises:
            StoreError: It cannot be written, for example because the disk is full (DiskFull).
        """
        started = time.monotonic()
        self._dirty = self._hurry = False
        try:
            self._fill(connection)
            os.replace(self._new, self.path)
        except (duckdb.Error, OSError) as error:
            raise translate(error, self.path) from error
        finally:
            self._new.unlink(missing_ok=True)
            opening.wal_of(self._new).unlink(missing_ok=True)
            self._taken_at = time.monotonic()
            self._took_s = self._taken_at - started

    def _fill(self, connection: duckdb.DuckDBPyConnection) -> None:
        mode = self._database.stat().st_mode & 0o666
        connection.execute(f"ATTACH {_quoted(self._new)} AS _live")
        try:
            self._new.chmod(mode)
            connection.execute("BEGIN")
            for name in [*_tables(connection), *_VIEWS]:
                connection.execute(f"CREATE TABLE _live.main.{name} AS FROM {name}")
            connection.execute(
                "CREATE TABLE _live.main.snapshot AS SELECT ?::DOUBLE AS as_of", [self._clock()]
            )
            make_file(opening.wal_of(self._new), mode)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):  # a failed commit has rolled back already
                connection.execute("ROLLBACK")
            raise
        finally:
            connection.execute("DETACH _live")

    def discard(self) -> None:
        """Remove the snapshot, once the database itself can be read or its writer is gone."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def read_live(path: Path) -> tuple[duckdb.DuckDBPyConnection, float] | None:
    """Copy the live snapshot of a database to memory.

    Args:
        path: The database file.

    Returns:
        A connection to the copy, and the Unix time at which the snapshot was taken; None when there is no
        snapshot, because the writer has only just started or has ended.

    Raises:
        StoreError: The snapshot cannot be read, or has another schema version.
    """
    live = live_path(path)
    connection = opening.open_in_memory()
    try:
        connection.execute(f"ATTACH {_quoted(live)} AS _live (READ_ONLY)")
        version = migrations.version_of(connection, live, catalog="_live")
        if version != migrations.current_version():
            raise StoreError(
                f"{live}: schema version {version}, this program writes {migrations.current_version()}; "
                "wait until the run has ended"
            )
        migrations.create(connection, created_at=0.0)
        connection.execute("DELETE FROM schema_version")
        for name in _tables(connection):
            connection.execute(f"INSERT INTO {name} BY NAME FROM _live.main.{name}")
        for name in _VIEWS:
            connection.execute(f"DROP VIEW {name}")
            connection.execute(f"CREATE TABLE {name} AS FROM _live.main.{name}")
        row = connection.execute("SELECT as_of FROM _live.main.snapshot").fetchone()
        connection.execute("DETACH _live")
        return connection, float(row[0]) if row else 0.0
    except (duckdb.Error, OSError) as error:
        connection.close()
        if not live.exists():
            return None
        raise translate(error, live) from error
    except BaseException:
        connection.close()
        raise


def _tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    query = "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() AND NOT internal"
    names = [str(row[0]) for row in connection.execute(query).fetchall()]
    return sorted(name for name in names if name not in _LEFT_OUT)


def _quoted(path: Path) -> str:
    text = str(path).replace("'", "''")
    return f"'{text}'"
