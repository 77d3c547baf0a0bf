"""Recorded tables: the score, and perhaps the cost, of every configuration of a pipeline on every example.

Other selectors publish such grids. A configuration is written `planner=large + solver=small`. A table is
wide, with a row for each configuration and a column for each example, or long:
`configuration,example,score,cost`. Scores are from 0 to 1, costs in US dollars; an empty cell is missing.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agenttts.errors import UserError

_LONG = ("configuration", "example", "score")
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A recorded table.

    Attributes:
        name: What the table is called.
        options: The options of each stage, in the order in which they occur.
        examples: The ids of the examples.
        scores: The scores, of shape [option of the first stage, …, option of the last stage, example]; NaN
            where there is none.
        costs: The US dollars of each cell, of the same shape; None when no costs are known.
    """

    name: str
    options: Mapping[str, tuple[str, ...]]
    examples: tuple[str, ...]
    scores: _Floats
    costs: _Floats | None


@dataclass(frozen=True)
class _Cell:
    """One value of a file, with its place in words."""

    place: str
    configuration: str
    example: str
    text: str


def read_matrix(scores: Path, costs: Path | None = None) -> Matrix:
    """Read a recorded table.

    Args:
        scores: The scores: a CSV file, wide or long, or a Parquet file, long. A long one may have costs too.
        costs: The costs in US dollars, wide as the scores are; None: none, or the long file has them.

    Raises:
        UserError: A file can't be read, a configuration is not written as above or occurs twice, some
            have other stages, a value is not a finite number, a score is above 1, or one has no cost where
            others have.
    """
    score_cells, cost_cells = _read(scores)
    if costs is not None:
        if cost_cells:
            raise UserError(f"{scores}: the table has costs of its own; leave --matrix-cost out")
        cost_cells, _ = _read(costs)
    by_score = _values(score_cells, "a score is a number from 0 to 1", 1.0)
    by_cost = _values(cost_cells, "a cost in US dollars is a number of at least 0", math.inf)
    if not by_score:
        raise UserError(f"{scores}: a table has at least one score, got none")
    free = next((key for key in by_score if cost_cells and key not in by_cost), None)
    if free is not None:
        raise UserError(
            f"{costs or scores}: every cell that has a score has a cost, got none for {free[0]!r}, example "
            f"{free[1]!r}"
        )
    stages: dict[str, dict[str, int]] = {}
    places: dict[str, tuple[int, ...]] = {}
    for cell in score_cells:
        if cell.configuration not in places:
            choices = _choices(cell)
            if places and list(choices) != list(stages):
                raise UserError(
                    f"{cell.place}: every configuration names the stages {', '.join(stages)} in this order, "
                    f"got {cell.configuration!r}"
                )
            known = [stages.setdefault(stage, {}) for stage in choices]
            place = [
                of.setdefault(option, len(of)) for of, option in zip(known, choices.values(), strict=True)
            ]
            places[cell.configuration] = tuple(place)
    examples = {cell.example: None for cell in score_cells}
    columns = {example: i for i, example in enumerate(examples)}
    shape = (*(len(options) for options in stages.values()), len(columns))
    filled = [np.full(shape, np.nan), np.full(shape, np.nan)]
    for array, values in zip(filled, (by_score, by_cost), strict=True):
        for (configuration, example), value in values.items():
            if configuration in places and example in columns:
                array[(*places[configuration], columns[example])] = value
    return Matrix(
        name=scores.stem,
        options={stage: tuple(options) for stage, options in stages.items()},
        examples=tuple(columns),
        scores=filled[0],
        costs=filled[1] if by_cost else None,
    )


def _read(path: Path) -> tuple[list[_Cell], list[_Cell]]:
    """Return the cells of a file, and those of its column of costs where it is long."""
    if path.suffix == ".parquet":
        import pandas as pd

        try:
            frame = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: a table is a CSV or Parquet file: {error}") from None
        lines = [frame.columns.tolist(), *frame.astype(object).where(frame.notna(), "").to_numpy().tolist()]
        rows = [[str(value) for value in line] for line in lines]
    else:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.reader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: a table is a CSV or Parquet file: {error}") from None
    if len(rows) < 2:
        raise UserError(f"{path}: a table has a header and at least one row, got {len(rows)} rows")
    header = rows[0]
    if tuple(header[:3]) == _LONG:
        if header[3:] not in ([], ["cost"]):
            raise UserError(f"{path}: after the score comes cost, or nothing, got {', '.join(header[3:])}")
        columns = [_column(path, rows, i) for i in (2, 3) if i < len(header)]
        return columns[0], columns[1] if len(columns) > 1 else []
    if path.suffix == ".parquet":
        raise UserError(
            f"{path}: the columns are {', '.join(_LONG)} and perhaps cost, got {', '.join(header)}"
        )
    return list(_wide(path, rows)), []


def _wide(path: Path, rows: Sequence[Sequence[str]]) -> Iterator[_Cell]:
    header = rows[0]
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise UserError(
                f"{path}: row {number} has a value for each of the {len(header)} columns, got {len(row)}"
            )
        for example, text in zip(header[1:], row[1:], strict=True):
            yield _Cell(f"{path}: row {number}, column {example!r}", row[0], example, text)


def _column(path: Path, rows: Sequence[Sequence[str]], column: int) -> list[_Cell]:
    cells = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise UserError(
                f"{path}: row {number} has a value for each of the {len(rows[0])} columns, got {len(row)}"
            )
        place = f"{path}: row {number}, column {rows[0][column]!r}"
        cells.append(_Cell(place, row[0], row[1], row[column]))
    return cells


def _values(cells: Sequence[_Cell], law: str, most: float) -> dict[tuple[str, str], float]:
    values: dict[tuple[str, str], float] = {}
    seen = set[tuple[str, str]]()
    for cell in cells:
        key = cell.configuration, cell.example
        if key in seen:
            raise UserError(f"{cell.place}: a configuration has one value for each example, got {key} twice")
        seen.add(key)
        if not cell.text.strip():
            continue
        try:
            value = float(cell.text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not 0 <= value <= most:
            raise UserError(f"{cell.place}: {law}, or empty, got {cell.text!r}")
        values[key] = value
    return values


def _choices(cell: _Cell) -> dict[str, str]:
    parts = [part.partition("=") for part in cell.configuration.split(" + ")]
    choices = {stage.strip(): option.strip() for stage, equals, option in parts if equals}
    if len(choices) != len(parts) or not all(choices) or not all(choices.values()):
        raise UserError(
            f"{cell.place}: a configuration is stage=option + stage=option, got {cell.configuration!r}"
        )
    return choices
