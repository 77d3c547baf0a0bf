"""Rows of tables: files and the hub. An LLM's are made in `writing`, those of a run in `traces`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agenttts.errors import UserError
from agenttts.tasktune.data.rows import Dropped, Gathered, PreferencePair, TaskRow
from agenttts.tasktune.data.subtask import OUTPUT, SubTask
from datastore.keys import canonical_json
from pipelines.dataset.rows import Row
from pipelines.jsonvalues import read_json
from pipelines.spec.variants import JsonParser


def table_rows(
    task: SubTask,
    table: Sequence[Row],
    mapping: Mapping[str, str],
    *,
    rejected: str | None = None,
    weight: str | None = None,
    strip: bool = True,
) -> Gathered:
    """Make rows of a table.

    Args:
        task: The sub-task of the rows.
        table: The rows of the table.
        mapping: The column of an input field, or of the output, where its name differs.
        rejected: The column of a wrong answer, which makes a pair with the output.
        weight: The column that says how often an epoch shows the row.
        strip: Remove white space around outputs.

    Raises:
        UserError: The first row lacks a column, or `mapping` names something else than a field.
    """
    columns = {name: mapping.get(name, name) for name in (*task.inputs, OUTPUT)}
    unknown = set(mapping) - set(columns)
    if unknown:
        raise UserError(
            f"map: {', '.join(sorted(unknown))} is no field of {task.name}; {', '.join(columns)} are"
        )
    further = [column for column in (rejected, weight) if column is not None]
    for row in table[:1]:
        missing = [column for column in (*columns.values(), *further) if column not in row.fields]
        if missing:
            raise UserError(
                f"{row.place}: {task.name} needs the column {missing[0]!r}, the row has "
                f"{', '.join(row.fields)}; name it under map"
            )
    results: list[TaskRow | Dropped] = []
    pairs: list[PreferencePair] = []
    for row in table:
        values = {name: row.fields.get(column) for name, column in columns.items()}
        output = values.pop(OUTPUT)
        made = task_row(task, values, _stripped(task, output) if strip else output, source=row.place)
        if isinstance(made, TaskRow) and weight is not None:
            made = _weighted(made, row.fields.get(weight))
        results.append(made)
        if isinstance(made, TaskRow) and rejected is not None:
            wrong = row.fields.get(rejected)
            pair = _pair(task, made, _stripped(task, wrong) if strip else wrong)
            if isinstance(pair, Dropped):
                results.append(pair)
            else:
                pairs.append(pair)
    return replace(Gathered.of(results), pairs=pairs)


def task_row(
    task: SubTask, inputs: Mapping[str, object], output: object, *, source: str
) -> TaskRow | Dropped:
    """Make a row of a sub-task.

    Args:
        task: The sub-task.
        inputs: A value for each input field.
        output: The gold value. For a parser of JSON a text is read as JSON.
        source: Where it comes from, for a person.

    Returns:
        The row, or why there is none: a field without value, or of another type.
    """
    problem = _input_problem(task, inputs)
    if problem is None and _blank(output):
        problem = "the output is empty"
    if problem is not None:
        return Dropped(step="schema", reason=problem, source=source)
    try:
        messages = task.messages(inputs)
        completion = task.written(output)
        gold = (
            read_json(output) if isinstance(task.parser, JsonParser) and isinstance(output, str) else output
        )
    except (ValueError, TypeError) as error:
        return Dropped(step="schema", reason=str(error), source=source)
    return TaskRow(
        task=task.name,
        messages=tuple(messages),
        completion=completion,
        inputs=dict(inputs),
        fields=task.fields(inputs, gold),
        group=hashlib.sha256(canonical_json(dict(inputs)).encode()).hexdigest()[:16],
        source=source,
    )


def _input_problem(task: SubTask, inputs: Mapping[str, object]) -> str | None:
    """Which input has no value, or one of another type; None when all are right."""
    for name, kind in task.inputs.items():
        value = inputs.get(name)
        if _blank(value):
            return f"input {name} is empty"
        if (kind == "text" and not isinstance(value, str)) or (
            kind == "list" and not isinstance(value, list)
        ):
            return f"input {name} must be a {kind}, got {value!r:.40}"
    return None


def _blank(value: object) -> bool:
    """Whether a value says nothing: None, white space, or a list of such values."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, list) and all(map(_blank, value)))


def _stripped(task: SubTask, value: object) -> object:
    """A text without white space around it, and a list of such texts without blank ones; JSON as it is."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and not isinstance(task.parser, JsonParser):
        items = [item.strip() if isinstance(item, str) else item for item in value]
        return [item for item in items if item != ""]
    return value


def _weighted(row: TaskRow, weight: object) -> TaskRow | Dropped:
    try:
        times = float(weight) if isinstance(weight, int | float | str) else 0.0
    except ValueError:
        times = 0.0
    if times < 1 or not times.is_integer():
        law = f"its weight must be a whole number from 1, got {weight!r:.40}"
        return Dropped(step="schema", reason=law, source=row.source)
    return replace(row, weight=int(times))


def _pair(task: SubTask, row: TaskRow, wrong: object) -> PreferencePair | Dropped:
    """The pair of a row's answer and a wrong one, or why there is none; the row stays."""
    problem = "the rejected answer is empty" if _blank(wrong) else None
    try:
        rejected = "" if problem else task.written(wrong)
    except TypeError as error:
        problem = f"the rejected answer {error}"
    if problem is None and rejected == row.completion:
        problem = "the rejected answer is the chosen one"
    if problem is not None:
        return Dropped(step="pair", reason=problem, source=row.source)
    return PreferencePair(
        task=task.name,
        messages=row.messages,
        chosen=row.completion,
        rejected=rejected,
        group=row.group,
        source=row.source,
    )
