"""Rows from files and the hub, and from documents that an LLM reads. Those from a run are in `traces`.

What an LLM writes is data: it is checked against the sub-task, never executed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agenttts.errors import UserError
from agenttts.tasktune.chat import JsonChat
from agenttts.tasktune.data.rows import Dropped, Gathered, TaskRow
from agenttts.tasktune.data.subtask import OUTPUT, SubTask
from datastore.keys import canonical_json
from pipelines.tables import Row, made_row

_TYPES: Mapping[str, Mapping[str, Any]] = {
    "text": {"type": "string"},
    "list": {"type": "array", "items": {"type": "string"}},
    "json": {},
}


def table_rows(task: SubTask, table: Sequence[Row], mapping: Mapping[str, str]) -> Gathered:
    """Rows of a table as they are; `mapping` names the column of an input or the output where it differs.

    UserError when the first row lacks a column.
    """
    columns = {name: mapping.get(name, name) for name in (*task.inputs, OUTPUT)}
    unknown = set(mapping) - set(columns)
    if unknown:
        raise UserError(
            f"map: {', '.join(sorted(unknown))} is no field of {task.name}; {', '.join(columns)} are"
        )
    rows: list[TaskRow] = []
    dropped: list[Dropped] = []
    for position, row in enumerate(table):
        missing = [column for column in columns.values() if column not in row.fields]
        if missing and position == 0:
            raise UserError(
                f"{row.place}: {task.name} needs the column {missing[0]!r}, the row has "
                f"{', '.join(row.fields)}; name it under map"
            )
        values = {name: row.fields.get(column) for name, column in columns.items()}
        made = task_row(task, values, values.pop(OUTPUT), source=row.place)
        (rows if isinstance(made, TaskRow) else dropped).append(made)  # type: ignore[arg-type]
    return Gathered(rows=rows, dropped=dropped)


def task_row(task: SubTask, inputs: Mapping[str, Any], output: Any, *, source: str) -> TaskRow | Dropped:
    """A row of a sub-task, or why there is none: a field without value, or of another type."""
    for name, kind in task.inputs.items():
        value = inputs.get(name)
        if value is None or value == "" or value == []:
            return Dropped(step="schema", reason=f"input {name} is empty", source=source)
        if (kind == "text" and not isinstance(value, str)) or (
            kind == "list" and not isinstance(value, list)
        ):
            return Dropped(
                step="schema", reason=f"input {name} must be a {kind}, got {value!r:.40}", source=source
            )
    if output is None or output == "" or output == []:
        return Dropped(step="schema", reason="the output is empty", source=source)
    try:
        messages = task.messages(inputs)
        completion = task.written(output)
    except (ValueError, TypeError) as error:
        return Dropped(step="schema", reason=str(error), source=source)
    return TaskRow(
        task=task.name,
        messages=tuple(messages),
        completion=completion,
        inputs=dict(inputs),
        fields=task.fields(inputs, output),
        group=hashlib.sha256(canonical_json(dict(inputs)).encode()).hexdigest()[:16],
        source=source,
    )


def documents(files: Sequence[Path]) -> list[Row]:
    """Text files, one document each; paragraphs too long for a prompt are cut apart by the caller."""
    found = []
    for file in files:
        try:
            found.append(made_row(str(file), {"text": file.read_text(encoding="utf-8-sig")}))
        except OSError as error:
            raise UserError(f"{file}: can't be read: {error.strerror}; check the path") from None
        except UnicodeDecodeError:
            raise UserError(f"{file}: must be UTF-8 text") from None
    return found


def passages(text: str, longest: int) -> list[str]:
    """A document in pieces of at most so many characters, cut between paragraphs, else between lines."""
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
    task: SubTask, docs: Sequence[Row], chat: JsonChat, *, per_passage: int, longest: int = 6000
) -> Gathered:
    """Input–output pairs that the LLM writes from each passage of the documents."""
    places = [
        (f"{doc.place}#{number}", passage)
        for doc in docs
        for number, passage in enumerate(passages(str(doc.fields["text"]), longest), 1)
    ]
    asked = [_from_passage(task, place, passage, chat, per_passage) for place, passage in places]
    rows: list[TaskRow] = []
    dropped: list[Dropped] = []
    for made in [item for found in await asyncio.gather(*asked) for item in found]:
        (rows if isinstance(made, TaskRow) else dropped).append(made)  # type: ignore[arg-type]
    return Gathered(rows=rows, dropped=dropped)


_PAIRS: Mapping[str, Any] = {
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
"""What is taken of an answer; each pair is then judged by itself."""


async def _from_passage(
    task: SubTask, place: str, passage: str, chat: JsonChat, count: int
) -> list[TaskRow | Dropped]:
    source = f"{place} by {chat.model}"
    try:
        answer = await chat.ask(writing_messages(task, passage, count), pairs_schema(task), _PAIRS)
    except ValueError as error:
        return [Dropped(step="schema", reason=str(error), source=source)]
    return [
        task_row(task, pair["inputs"], pair[OUTPUT], source=f"{source}, pair {number}")
        for number, pair in enumerate(answer["pairs"], 1)
    ]


def writing_messages(task: SubTask, passage: str, count: int) -> list[dict[str, str]]:
    """What asks an LLM for training pairs of a sub-task from one passage."""
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


def pairs_schema(task: SubTask) -> dict[str, Any]:
    """JSON schema of what an LLM writes: {"pairs": [{"inputs": {...}, "output": ...}]}."""
    output: dict[str, Any] = {"enum": list(task.choices)} if task.choices else {}
    if not output:
        output = {"type": "array", "items": {"type": "string"}} if task.list_valued else {}
    parser = task.parser
    schema = getattr(parser, "schema_", None)
    output = schema or output or {"type": "string"}
    pair = {
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
