"""Read the rows of a dataset from a file or the hub. `splits` checks that they have what a pipeline needs."""

from __future__ import annotations

import ast
import csv
import datetime
import decimal
import gzip
import io
import json
import math
import reprlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import duckdb

from pipelines.errors import DatasetError
from pipelines.extras import library
from pipelines.jsonvalues import JSON, RepeatedKey, plain, read_json, repeated_at


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a dataset.

    Attributes:
        place: Where the row comes from, for messages: `file:line`, or `file: row 3`; numbers start at 1.
        fields: JSON-able values by field.
    """

    place: str
    fields: Mapping[str, JSON]


csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters refuses long documents


def read_file(file: Path) -> list[Row]:
    """Read the rows of a file, in order.

    Args:
        file: A .json file (a list, or one object per line), a .jsonl or a .csv file, each also as .gz; a
            .parquet file; or a folder that `datasets.Dataset.save_to_disk` wrote. The cells of a CSV are
            separated by commas, or, if its header has no comma, by semicolons or tabs. Cells are text, except
            in a column in which every cell is a list in the syntax of JSON or Python.

    Raises:
        DatasetError: The file can't be read, or its content does not match its suffix.
        MissingDependency: Reading a folder needs the datasets library, which is not installed.
    """
    if file.is_dir():
        return _saved(file)
    readers = {".json": _json, ".jsonl": _lines, ".csv": _csv, ".parquet": _parquet}
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    reader = readers.get(suffix.lower())
    if reader is None or (reader is _parquet and file.suffix == ".gz"):
        raise DatasetError(f"{file}: must end in {', '.join(readers)}, got {file.suffix!r}; convert it")
    try:
        return [made_row(place, row) for place, row in reader(file)]
    except gzip.BadGzipFile:
        raise DatasetError(f"{file}: must be a gzip file") from None
    except OSError as error:
        raise DatasetError(f"{file}: can't be read: {error.strerror or error}; check the path") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{file}: must be UTF-8 text") from None


def read_hub(name: str, config: str | None, split: str) -> Sequence[Row]:
    """Read a split with `datasets.load_dataset`.

    Args:
        name: The name of the dataset on the hub, or a local directory.
        config: The configuration of the dataset; None for its default.
        split: The split, which may be sliced, such as `train[:200]`.

    Returns:
        The rows in order. Each is converted when it is accessed.

    Raises:
        MissingDependency: The datasets library is not installed.
        DatasetError: The dataset can't be loaded.
    """
    datasets = library("datasets", f"dataset {name!r}", extra="datasets")
    try:
        rows: Sequence[object] = datasets.load_dataset(name, config, split=split)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise DatasetError(
            f"dataset {name!r}, split {split!r}: can't be loaded: {reason}; "
            "check name and network, or read a local file (--data)"
        ) from error
    return _HubRows(f"{name}[{split}]", rows)


class _HubRows(Sequence[Row]):
    def __init__(self, place: str, rows: Sequence[object]) -> None:
        self._place, self._rows = place, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index >= len(self):
            raise IndexError(index)
        return made_row(f"{self._place}: row {index + 1}", self._rows[index])


def made_row(place: str, value: object) -> Row:
    """Build a row from a mapping, with JSON-able values.

    Dates and times become ISO text, decimals become floats, UUIDs become text, and numbers that are not
    finite become None.

    Args:
        place: Where the row comes from, for messages.
        value: The mapping of fields.

    Raises:
        DatasetError: The value is not a mapping with texts as keys, or JSON can't express a value in it.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise DatasetError(f"{place}: a row must be a mapping of fields, got {reprlib.repr(value)}")
    fields = {}
    for name, item in value.items():
        try:
            fields[name] = plain(_simplified(item))
        except (ValueError, RecursionError) as error:
            reason = "it is nested too deep" if isinstance(error, RecursionError) else error
            raise DatasetError(
                f"{place}: field {name!r} must be JSON-able: {reason}; leave the field out"
            ) from None
    return Row(place, fields)


def _simplified(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _simplified(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_simplified(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, uuid.UUID) else value


def _json(file: Path) -> list[tuple[str, object]]:
    text = _content(file)
    if not text.lstrip().startswith("["):
        return _json_lines(file, text)
    try:
        rows = read_json(text, once=True)
    except RepeatedKey as error:
        number, line_number = repeated_at(text)
        raise DatasetError(f"{file}:{line_number}: row {number}: {error}") from None
    except ValueError as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DatasetError(f"{file}{line}: must be JSON: {error}") from None
    assert isinstance(rows, list)  # as the text begins with [
    return [(f"{file}: row {number}", row) for number, row in enumerate(rows, 1)]


def _lines(file: Path) -> list[tuple[str, object]]:
    return _json_lines(file, _content(file))


def _content(file: Path) -> str:
    raw = file.read_bytes()
    return (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8-sig")


def _json_lines(file: Path, text: str) -> list[tuple[str, object]]:
    rows = list[tuple[str, object]]()
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append((f"{file}:{number}", read_json(line, once=True)))
            except RepeatedKey as error:
                raise DatasetError(f"{file}:{number}: {error}") from None
            except ValueError as error:
                raise DatasetError(f"{file}:{number}: a line must be one JSON object: {error}") from None
    return rows


def _csv(file: Path) -> list[tuple[str, object]]:
    with io.StringIO(_content(file), newline="") as stream:
        reader = csv.reader(stream, strict=True, delimiter=_delimiter(stream))
        places, cells_of_rows = [], []
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise DatasetError(f"{file}:1: column names must differ, got {', '.join(header)}")
            for cells in reader:
                if not cells:
                    continue
                place = f"{file}:{reader.line_num}"
                if len(cells) != len(header):
                    raise DatasetError(f"{place}: a row must have {len(header)} cells, got {len(cells)}")
                places.append(place)
                cells_of_rows.append(cells)
        except csv.Error as error:
            raise DatasetError(f"{file}:{reader.line_num}: must be CSV: {error}") from None
    columns = [_lists(column) or column for column in zip(*cells_of_rows, strict=True)]
    rows = zip(*columns, strict=True)
    return [(place, dict(zip(header, row, strict=True))) for place, row in zip(places, rows, strict=True)]


def _delimiter(stream: io.StringIO) -> str:
    """The comma, unless the header has none and has semicolons or tabs instead."""
    header = stream.readline()
    stream.seek(0)
    return next((mark for mark in ",;\t" if mark in header), ",")


def _lists(cells: Sequence[str]) -> list[list[object]] | None:
    """Parse the cells of a column as lists in the syntax of JSON or Python; None unless all are lists."""
    values = list[list[object]]()
    for cell in cells:
        if not (cell.startswith("[") and cell.endswith("]")):
            return None
        try:
            value: object = read_json(cell)
        except ValueError:
            try:
                value = ast.literal_eval(cell)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                return None
        if not isinstance(value, list):
            return None
        values.append(value)
    return values


def _parquet(file: Path) -> list[tuple[str, object]]:
    file.open("rb").close()
    try:
        with duckdb.connect() as connection:
            result = connection.execute("SELECT * FROM read_parquet(?)", [[str(file)]])
            names = [column[0] for column in result.description]
            rows = result.fetchall()
    except (duckdb.Error, MemoryError, OverflowError) as error:
        raise DatasetError(f"{file}: must be Parquet: {' '.join(str(error).split())[:200]}") from None
    return [(f"{file}: row {n}", dict(zip(names, row, strict=True))) for n, row in enumerate(rows, 1)]


def _saved(folder: Path) -> list[Row]:
    """Rows of a folder that `Dataset.save_to_disk` wrote; of a DatasetDict, one of its splits' folders."""
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise DatasetError(
            f"{folder}: has several splits; name one: {', '.join(f'{folder}/{s}' for s in splits)}"
        )
    if not (folder / "dataset_info.json").is_file():
        raise DatasetError(
            f"{folder}: a folder must be one that datasets' save_to_disk wrote; name a file in it instead"
        )
    datasets = library("datasets", f"dataset {str(folder)!r}", extra="datasets")
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DatasetError(f"{folder}: can't be loaded: {' '.join(str(error).split())[:300]}") from error
    return [made_row(f"{folder}: row {number}", row) for number, row in enumerate(saved, 1)]
