"""Records to table rows and back, by field name: Arrow batches in, frozen dataclasses out.

Values are passed as parameters and Arrow columns only; the SQL is composed of names from this file and
`records`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import duckdb
import pyarrow as pa

from datastore import records
from datastore.keys import well_formed

Record = TypeVar("Record")
_BATCH = "_arrow_batch"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Where the records of a class are stored.

    Attributes:
        name: The table.
        key: The fields that identify a row; without any, rows are only added.
        order: The ORDER BY clause of a selection. A row that is replaced keeps its rowid.
    """

    name: str
    key: tuple[str, ...] = ()
    order: str


TABLES: Mapping[type, Table] = {
    records.ModelRecord: Table(name="models", key=("key",), order="name, key"),
    records.Prompt: Table(name="prompts", order="key"),
    records.Sample: Table(name="samples", order='prompt_key, "index"'),
    records.Payment: Table(name="payments", order="rowid"),
    records.Run: Table(name="runs", key=("run_id",), order="rowid"),
    records.Trial: Table(name="trials", key=("trial_id",), order="number, trial_id"),
    records.ExampleScore: Table(name="example_scores", key=("trial_id", "example_id"), order="rowid"),
    records.StageResult: Table(name="stage_results", key=("trial_id", "example_id", "stage"), order="rowid"),
    records.PolicyResult: Table(name="policy_results", key=("trial_id", "example_id"), order="rowid"),
    records.Proposal: Table(name="proposals", key=("run_id", "step", "position"), order="step, position"),
    records.Insight: Table(name="insights", key=("run_id", "step", "position"), order="step, position"),
    records.Tuning: Table(name="tunings", key=("model_key",), order="rowid"),
    records.Preference: Table(name="preferences", key=("key",), order="collection, created_at, key"),
    records.Event: Table(name="events", order="rowid"),
}


def _arrow_type(hint: object) -> pa.DataType:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _arrow_type(next(part for part in typing.get_args(hint) if part is not type(None)))
    if typing.get_origin(hint) is tuple:
        return pa.list_(_arrow_type(typing.get_args(hint)[0]))
    if hint is int:
        return pa.int64()
    return pa.float64() if hint is float else pa.string()


_Columns = tuple[tuple[str, pa.DataType], ...]


def _columns_of(cls: type) -> _Columns:
    hints = typing.get_type_hints(cls)
    return tuple((field.name, _arrow_type(hints[field.name])) for field in fields(cls))


_COLUMNS: Mapping[type, _Columns] = {cls: _columns_of(cls) for cls in TABLES}


def _column(values: list[object], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        return pa.array([well_formed(v) if isinstance(v, str) else v for v in values], kind)


def to_arrow(cls: type[Record], rows: Sequence[Record]) -> pa.Table:
    """Convert records to an Arrow table with the fields of their class as columns.

    Args:
        cls: The records' class, one of `TABLES`.
        rows: The records; lone surrogates in their texts are replaced by U+FFFD.

    Returns:
        The table, with one row for each record.
    """
    columns = _COLUMNS[cls]
    arrays = [_column([getattr(row, name) for row in rows], kind) for name, kind in columns]
    return pa.table(arrays, names=[name for name, _ in columns])


def execute_on(connection: duckdb.DuckDBPyConnection, query: str, batch: pa.Table) -> int:
    """Run an INSERT or UPDATE on a batch of rows.

    Args:
        connection: The connection.
        query: The statement; `{batch}` in it stands for the batch.
        batch: The rows.

    Returns:
        The number of rows that the statement changed.
    """
    connection.register(_BATCH, batch)
    try:
        row = connection.execute(query.format(batch=_BATCH)).fetchone()
    finally:
        connection.unregister(_BATCH)
    return int(row[0]) if row else 0


def insert(connection: duckdb.DuckDBPyConnection, cls: type[Record], rows: Sequence[Record]) -> None:
    """Store records. In a table with a key, a record replaces the row of the same key.

    Args:
        connection: The connection.
        cls: The records' class, one of `TABLES`.
        rows: The records; of several with the same key, the last is stored.
    """
    table = TABLES[cls]
    if table.key:
        rows = list({tuple(getattr(row, name) for name in table.key): row for row in rows}.values())
    if rows:
        verb = "INSERT OR REPLACE" if table.key else "INSERT"
        execute_on(
            connection, f"{verb} INTO {table.name} BY NAME SELECT * FROM {{batch}}", to_arrow(cls, rows)
        )


def select(
    connection: duckdb.DuckDBPyConnection,
    cls: type[Record],
    where: str = "true",
    parameters: Sequence[object] = (),
) -> list[Record]:
    """Return the stored records for which a condition holds, in the table's order.

    Args:
        connection: The connection.
        cls: The records' class, one of `TABLES`.
        where: An SQL condition.
        parameters: The values of the placeholders in the condition.
    """
    table = TABLES[cls]
    columns = _COLUMNS[cls]
    names = ", ".join(f'"{name}"' for name, _ in columns)
    query = f"SELECT {names} FROM {table.name} WHERE {where} ORDER BY {table.order}"
    cells = connection.execute(query, list(parameters)).fetchall()
    lists = [position for position, (_, kind) in enumerate(columns) if pa.types.is_list(kind)]
    if lists:
        cells = [tuple(tuple(v) if i in lists else v for i, v in enumerate(row)) for row in cells]
    keys = [name for name, _ in columns]
    return [cls(**dict(zip(keys, row, strict=True))) for row in cells]
