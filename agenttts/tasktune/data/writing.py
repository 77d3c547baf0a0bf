"""Rows that an LLM writes from documents.

What an LLM writes is data: it is checked against the sub-task, never executed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from agenttts.errors import UserError
from agenttts.llm import JsonChat, Message
from agenttts.tasktune.data.pairs import LAX_PAIR, WrittenPair, pair_schema, task_text
from agenttts.tasktune.data.revising import revised_row
from agenttts.tasktune.data.rows import Dropped, Gathered, TaskRow
from agenttts.tasktune.data.sources import task_row
from agenttts.tasktune.data.subtask import SubTask
from pipelines.dataset.rows import Row, made_row
from pipelines.jsonvalues import JSON

_LONGEST_PASSAGE = 6000  # characters
_PAIRS: Mapping[str, JSON] = {
    "type": "object",
    "properties": {"pairs": {"type": "array", "items": dict(LAX_PAIR)}},
    "required": ["pairs"],
}


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
    revise: bool = False,
    longest: int = _LONGEST_PASSAGE,
) -> Gathered:
    """Have an LLM write pairs of inputs and output from each passage of the documents.

    Args:
        task: The sub-task of the rows.
        docs: The documents, as `documents` reads them.
        chat: The LLM.
        per_passage: How many pairs are asked for from each passage.
        revise: Have the LLM criticise each pair, and rewrite those that are not right.
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
        *(_from_passage(task, place, passage, chat, per_passage, revise) for place, passage in places)
    )
    return Gathered.of(result for results in written for result in results)


def writing_messages(task: SubTask, passage: str, count: int) -> list[Message]:
    """The chat that asks an LLM for training pairs.

    Args:
        task: The sub-task of the pairs.
        passage: What the pairs must follow from.
        count: How many pairs are asked for.
    """
    return [
        {
            "role": "system",
            "content": "You write training data for a small model. Every pair must follow from the passage "
            "alone, be correct, and differ from the others. Answer with JSON only.",
        },
        {
            "role": "user",
            "content": f"{task_text(task)}\nWrite {count} pairs from this passage:\n\n{passage}",
        },
    ]


def pairs_schema(task: SubTask) -> dict[str, JSON]:
    """The JSON schema of what an LLM writes: {"pairs": [{"inputs": {...}, "output": ...}]}."""
    return {
        "type": "object",
        "properties": {"pairs": {"type": "array", "items": pair_schema(task)}},
        "required": ["pairs"],
        "additionalProperties": False,
    }


async def _from_passage(
    task: SubTask, place: str, passage: str, chat: JsonChat, count: int, revise: bool
) -> Sequence[TaskRow | Dropped]:
    source = f"{place} by {chat.model}"
    try:
        answer = await chat.ask(writing_messages(task, passage, count), pairs_schema(task), _PAIRS)
    except ValueError as error:
        return [Dropped(step="schema", reason=str(error), source=source)]
    results = [
        task_row(task, pair["inputs"], pair["output"], source=f"{source}, pair {number}")
        for number, pair in enumerate(cast("Sequence[WrittenPair]", answer["pairs"]), 1)
    ]
    if not revise:
        return results
    rows = [result for result in results if isinstance(result, TaskRow)]
    revised = await asyncio.gather(*(revised_row(task, row, passage, chat) for row in rows))
    return [*revised, *(result for result in results if isinstance(result, Dropped))]
