"""The schema's version: making a new file's tables, knowing a file of ours, and bringing an older one up to
date.

`schema.sql` is always the newest schema. `STEPS[n]` is the SQL that turns version n into version n + 1; a
file is migrated step by step in one transaction, when it is opened for writing.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import duckdb

from datastore.errors import ForeignFile, NewerSchema

FORMAT = "sample-store"
STEPS: dict[int, str] = {
    1: "ALTER TABLE insights ADD COLUMN verdict VARCHAR DEFAULT 'open'",
    2: """
    CREATE TABLE tunings (
        model_key VARCHAR PRIMARY KEY, base VARCHAR NOT NULL, path VARCHAR NOT NULL,
        dataset_digest VARCHAR NOT NULL, tasks VARCHAR NOT NULL, settings VARCHAR NOT NULL,
        curve VARCHAR NOT NULL, metrics VARCHAR NOT NULL, seconds DOUBLE NOT NULL,
        peak_bytes BIGINT NOT NULL, created_at DOUBLE NOT NULL
    );
    CREATE TABLE preferences (
        key VARCHAR PRIMARY KEY, collection VARCHAR NOT NULL, first VARCHAR NOT NULL,
        second VARCHAR NOT NULL, label VARCHAR NOT NULL, preferred DOUBLE NOT NULL, source VARCHAR NOT NULL,
        judge VARCHAR NOT NULL, prompt VARCHAR, created_at DOUBLE NOT NULL
    )""",
}


def current_version() -> int:
    """The schema version that this package writes; 1 is the first."""
    return 1 + len(STEPS)


def create(connection: duckdb.DuckDBPyConnection, *, created_at: float) -> None:
    """Make all tables in an empty database. `created_at` is in Unix seconds."""
    connection.execute("BEGIN")
    connection.execute(files("datastore").joinpath("schema.sql").read_text(encoding="utf-8"))
    connection.execute("INSERT INTO schema_version VALUES (?, ?, ?)", [FORMAT, current_version(), created_at])
    connection.execute("COMMIT")


def version_of(connection: duckdb.DuckDBPyConnection, path: Path, *, catalog: str | None = None) -> int:
    """The schema version of an open database (or of one attached as `catalog`).

    Raises ForeignFile when this package did not make it, NewerSchema when a newer version of it did.
    """
    table = "schema_version" if catalog is None else f"{catalog}.main.schema_version"
    foreign = ForeignFile(
        f"{path}: a DuckDB database, but not a sample store; name another file, it was left as it is"
    )
    try:
        rows = connection.execute(f"SELECT format, version FROM {table}").fetchall()
    except (duckdb.CatalogException, duckdb.BinderException):
        raise foreign from None
    if len(rows) != 1 or rows[0][0] != FORMAT:
        raise foreign
    version = int(rows[0][1])
    if version > current_version():
        raise NewerSchema(
            f"{path}: schema versions up to {current_version()} can be read, the file has {version}; "
            "upgrade this program, the file was left as it is"
        )
    return version


def migrate(connection: duckdb.DuckDBPyConnection, version: int) -> None:
    """Bring an open database of `version` up to date, all steps in one transaction or none."""
    if version == current_version():
        return
    connection.execute("BEGIN")
    try:
        for step in range(version, current_version()):
            connection.execute(STEPS[step])
        connection.execute("UPDATE schema_version SET version = ?", [current_version()])
        connection.execute("COMMIT")
    except duckdb.Error:
        connection.execute("ROLLBACK")
        raise
