"""New inputs for a pipeline, read one by one: one that can't be run says why, and the next is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipelines.dataset.needs import row_check
from pipelines.dataset.rows import Row, made_row
from pipelines.errors import DatasetError
from pipelines.examples import Example
from pipelines.jsonvalues import RepeatedKey, read_json
from pipelines.spec.pipeline import PipelineSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class NewInput:
    """One row of new inputs.

    Attributes:
        id: The row's own, text or an integer: that of the dataset's id field, else of the field `id`. Of a
            row without one its number, as text.
        example: What is run; None where the row can't be.
        problem: Why it can't be, in one line; None where it can.
    """

    id: str | int
    example: Example | None
    problem: str | None = None


def read_inputs(spec: PipelineSpec, rows: Iterable[object], *, source: str = "inputs") -> Iterator[NewInput]:
    """Read rows one by one, with the same checks as for a dataset.

    Args:
        spec: The pipeline that they are for.
        rows: Each a mapping of fields. A text or bytes are a line of JSON; empty lines are passed over.
        source: What messages call the rows; lines are named as `source:line`, others as `source: row 3`.

    Yields:
        Each row, with an example or the problem.
    """
    check, id_field = row_check(spec), spec.dataset.id_field
    number = 0
    for position, row in enumerate(rows, 1):
        line = row if isinstance(row, str | bytes) else None
        if line is not None and not line.strip():
            continue
        number += 1
        place = f"{source}: row {number}" if line is None else f"{source}:{position}"
        own_id: str | int = str(number)
        try:
            parsed = made_row(place, row if line is None else _parsed(place, line))
            own_id = _id(parsed, id_field, str(number))
            check(parsed)
        except DatasetError as error:
            yield NewInput(id=own_id, example=None, problem=str(error))
        else:
            yield NewInput(id=own_id, example=Example(str(own_id), parsed.fields))


def _parsed(place: str, line: str | bytes) -> object:
    try:
        text = line.decode("utf-8-sig") if isinstance(line, bytes) else line
        return read_json(text, once=True)
    except RepeatedKey as error:
        raise DatasetError(f"{place}: {error}") from None
    except ValueError as error:
        raise DatasetError(f"{place}: not JSON: {error}; one object per line") from None


def _id(row: Row, id_field: str | None, number: str) -> str | int:
    value = row.fields.get("id" if id_field is None else id_field)
    if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
        return value
    if id_field is None or id_field not in row.fields:
        return number
    raise DatasetError(
        f"{row.place}: the id field {id_field!r} must be text or an integer, got {value!r:.60}"
    )
