"""An LLM as judge: of one answer by itself, and of two side by side, asked in both orders."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agenttts.tasktune.chat import JsonChat
from agenttts.tasktune.data.rows import TaskRow
from agenttts.tasktune.data.subtask import SubTask

_VERDICT = {
    "type": "object",
    "properties": {"correct": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["correct", "reason"],
    "additionalProperties": False,
}
_PREFERENCE = {
    "type": "object",
    "properties": {"better": {"enum": ["A", "B", "tie"]}},
    "required": ["better"],
    "additionalProperties": False,
}
Preference = Literal["first", "second", "tie"]


async def judge_rows(task: SubTask, rows: Sequence[TaskRow], chat: JsonChat) -> dict[str, str | None]:
    """By row id why the judge refuses the answer; None where it accepts it."""

    async def one(row: TaskRow) -> tuple[str, str | None]:
        asked = _prompt(task, row.messages, [("Answer", row.completion)]) + "\nIs the answer correct?"
        try:
            verdict = await chat.ask(_messages(asked), _VERDICT)
        except ValueError as error:
            return row.id, f"the judge gave no verdict: {error}"
        return row.id, None if verdict["correct"] else f"the judge: {verdict['reason']:.120}"

    return dict(await asyncio.gather(*(one(row) for row in rows)))


async def prefer(
    task: SubTask, messages: Sequence[Mapping[str, str]], first: str, second: str, chat: JsonChat
) -> Preference:
    """Which answer the judge prefers when asked in both orders; a tie where the orders disagree."""
    if first == second:
        return "tie"
    orders = ((first, second), (second, first))
    said = []
    for a, b in orders:
        asked = _prompt(task, messages, [("Answer A", a), ("Answer B", b)]) + "\nWhich answer is better?"
        try:
            said.append((await chat.ask(_messages(asked), _PREFERENCE))["better"])
        except ValueError:
            return "tie"
    if said == ["A", "B"]:
        return "first"
    return "second" if said == ["B", "A"] else "tie"


def _prompt(task: SubTask, messages: Sequence[Mapping[str, str]], answers: Sequence[tuple[str, str]]) -> str:
    chat = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
    shown = "\n\n".join(f"{name}:\n{text}" for name, text in answers)
    return f"Task: {task.instruction}\n\nRequest:\n{chat}\n\n{shown}\n"


def _messages(text: str) -> list[dict[str, Any]]:
    system = "You judge answers strictly, by what the request says alone. Answer with JSON only."
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]
