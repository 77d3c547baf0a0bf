"""Rows from files and the hub, and from documents that an LLM reads. Those of a run are made in `traces`.

What an LLM writes is data: it is checked against the sub-task, never executed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, cast

from agenttts.errors import UserError
from agenttts.llm import JsonChat, Message
from agenttts.tasktune.data.rows import Dropped, Gathered, PreferencePair, TaskRow
from agenttts.tasktune.data.subtask import OUTPUT, SubTask
from datastore.keys import canonical_json
from pipelines.dataset.rows import Row, made_row
from pipelines.jsonvalues import JSON, read_json
from pipelines.spec.variants import JsonParser

_TYPES: Mapping[str, Mapping[str, JSON]] = {
    "text": {"type": "string"},
    "list": {"type": "array", "items": {"type": "string"}},
    "json": {},
    "chat": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "role": {"enum": ["system", "user", "assistant"]},
                "content": {"type": "string"},
            },
            "required": ["role", "content"],
            "additionalProperties": False,
        },
    },
}
_LONGEST_PASSAGE = 6000  # characters
_PAIRS: Mapping[str, JSON] = {
    "type": "object",
    "properties": {
        "pairs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"inputs": {"type": "object"}},
                "required": ["inputs", OUTPUT],
            },
        }
    },
    "required": ["pairs"],
}
"""What an LLM's answer must be to be looked at; each pair is then judged by itself."""


class _WrittenPair(TypedDict):
    inputs: Mapping[str, JSON]
    output: JSON


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


def documents(files: Sequence[Path]) -> list[Row]:
    """Read text files, one document each.

    Args:
        files: The files, in UTF-8.

    Returns:
        Rows with the text under `text`.

    Raises:
        UserError: A file can't be read.
    """
    rows = []
    for file in files:
        try:
            rows.append(made_row(str(file), {"text": file.read_text(encoding="utf-8-sig")}))
        except OSError as error:
            raise UserError(f"{file}: can't be read: {error.strerror}; check the path") from None
        except UnicodeDecodeError:
            raise UserError(f"{file}: must be UTF-8 text") from None
    return rows


def passages(text: str, longest: int) -> list[str]:
    """Cut a document between paragraphs; a paragraph that is too long is cut anywhere.

    Args:
        text: The document.
        longest: The most characters of a passage.
    """
    pieces: list[str] = []
    for block in text.split("\n\n"):
        for start in range(0, max(1, len(block)), longest):
            part = block[start : start + longest].strip()
            if not part:
                continue
            if pieces and len(pieces[-1]) + len(part) + 2 <= longest:
                pieces[-1] += "\n\n" + part
            else:
                pieces.append(part)
    return pieces


async def written_rows(
    task: SubTask,
    docs: Sequence[Row],
    chat: JsonChat,
    *,
    per_passage: int,
    longest: int = _LONGEST_PASSAGE,
) -> Gathered:
    """Have an LLM write pairs of inputs and output from each passage of the documents.

    Args:
        task: The sub-task of the rows.
        docs: The documents, as `documents` reads them.
        chat: The LLM.
        per_passage: How many pairs are asked for from each passage.
        longest: The most characters of a passage.

    Raises:
        UserError: The LLM gives no answer.
    """
    places = [
        (f"{doc.place}#{number}", passage)
        for doc in docs
        for number, passage in enumerate(passages(str(doc.fields["text"]), longest), 1)
    ]
    written = await asyncio.gather(
        *(_from_passage(task, place, passage, chat, per_passage) for place, passage in places)
    )
    return Gathered.of(result for results in written for result in results)


def writing_messages(task: SubTask, passage: str, count: int) -> list[Message]:
    """The chat that asks an LLM for training pairs.

    Args:
        task: The sub-task of the pairs.
        passage: What the pairs must follow from.
        count: How many pairs are asked for.
    """
    language = f" Write in {', '.join(task.languages)} (ISO 639-1)." if task.languages else ""
    examples = "".join(
        f"\nExample: {canonical_json({'inputs': e.inputs, OUTPUT: e.output})}" for e in task.examples
    )
    closed = f" The output is one of: {', '.join(task.choices)}." if task.choices else ""
    return [
        {
            "role": "system",
            "content": "You write training data for a small model. Every pair must follow from the passage "
            "alone, be correct, and differ from the others. Answer with JSON only.",
        },
        {
            "role": "user",
            "content": f"Sub-task {task.name}: {task.instruction}{closed}{language}\n"
            f"Inputs: {', '.join(f'{name} ({kind})' for name, kind in task.inputs.items())}{examples}\n\n"
            f"Write {count} pairs from this passage:\n\n{passage}",
        },
    ]


def pairs_schema(task: SubTask) -> dict[str, JSON]:
    """The JSON schema of what an LLM writes: {"pairs": [{"inputs": {...}, "output": ...}]}."""
    output: Mapping[str, JSON] = {"enum": list(task.choices)} if task.choices else {}
    if not output and task.list_valued:
        output = {"type": "array", "items": {"type": "string"}}
    output = getattr(task.parser, "schema_", None) or output or {"type": "string"}
    pair: dict[str, JSON] = {
        "type": "object",
        "properties": {
            "inputs": {
                "type": "object",
                "properties": {name: dict(_TYPES[kind]) for name, kind in task.inputs.items()},
                "required": list(task.inputs),
                "additionalProperties": False,
            },
            OUTPUT: output,
        },
        "required": ["inputs", OUTPUT],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"pairs": {"type": "array", "items": pair}},
        "required": ["pairs"],
        "additionalProperties": False,
    }


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


async def _from_passage(
    task: SubTask, place: str, passage: str, chat: JsonChat, count: int
) -> list[TaskRow | Dropped]:
    source = f"{place} by {chat.model}"
    try:
        answer = await chat.ask(writing_messages(task, passage, count), pairs_schema(task), _PAIRS)
    except ValueError as error:
        return [Dropped(step="schema", reason=str(error), source=source)]
    return [
        task_row(task, pair["inputs"], pair["output"], source=f"{source}, pair {number}")
        for number, pair in enumerate(cast("Sequence[_WrittenPair]", answer["pairs"]), 1)
    ]
