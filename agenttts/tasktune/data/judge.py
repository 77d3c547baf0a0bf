"""An LLM as judge: of one answer by itself, and of two side by side, asked in both orders. Experimental."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal

from agenttts.llm import JsonChat, Message
from agenttts.tasktune.data.rows import TaskRow
from agenttts.tasktune.data.subtask import SubTask
from pipelines.jsonvalues import JSON

_VERDICT: Mapping[str, JSON] = {
    "type": "object",
    "properties": {"correct": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["correct", "reason"],
    "additionalProperties": False,
}
_PREFERENCE: Mapping[str, JSON] = {
    "type": "object",
    "properties": {"better": {"enum": ["A", "B", "tie"]}},
    "required": ["better"],
    "additionalProperties": False,
}
Preference = Literal["first", "second", "tie"]


async def judge_rows(task: SubTask, rows: Sequence[TaskRow], chat: JsonChat) -> dict[str, str | None]:
    """Have an LLM judge whether the answers of rows are correct.

    Args:
        task: The rows' sub-task.
        rows: The rows.
        chat: The LLM.

    Returns:
        By the id of the row why the judge refuses its answer; None where it accepts it.

    Raises:
        UserError: The LLM gives no answer.
    """

    async def verdict_on(row: TaskRow) -> tuple[str, str | None]:
        question = _prompt(task, row.messages, [("Answer", row.completion)]) + "\nIs the answer correct?"
        try:
            verdict = await chat.ask(_messages(question), _VERDICT)
        except ValueError as error:
            return row.id, f"the judge gave no verdict: {error}"
        return row.id, None if verdict["correct"] else f"the judge: {verdict['reason']:.120}"

    return dict(await asyncio.gather(*(verdict_on(row) for row in rows)))


async def prefer(
    task: SubTask, messages: Sequence[Message], first: str, second: str, chat: JsonChat
) -> Preference:
    """Have an LLM prefer between two answers, in both orders.

    Args:
        task: The sub-task.
        messages: The chat up to the answer.
        first: The first answer.
        second: The second answer.
        chat: The LLM.

    Returns:
        The answer that is preferred in both orders; a tie where the orders disagree.

    Raises:
        UserError: The LLM gives no answer.
    """
    if first == second:
        return "tie"
    verdicts = []
    for a, b in ((first, second), (second, first)):
        question = _prompt(task, messages, [("Answer A", a), ("Answer B", b)]) + "\nWhich answer is better?"
        try:
            verdicts.append((await chat.ask(_messages(question), _PREFERENCE))["better"])
        except ValueError:
            return "tie"
    if verdicts == ["A", "B"]:
        return "first"
    return "second" if verdicts == ["B", "A"] else "tie"


def _prompt(task: SubTask, messages: Sequence[Message], answers: Sequence[tuple[str, str]]) -> str:
    chat = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
    answer_texts = "\n\n".join(f"{name}:\n{text}" for name, text in answers)
    return f"Task: {task.instruction}\n\nRequest:\n{chat}\n\n{answer_texts}\n"


def _messages(text: str) -> list[Message]:
    system = "You judge answers strictly, by what the request says alone. Answer with JSON only."
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]
