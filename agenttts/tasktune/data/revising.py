"""A pair that an LLM wrote goes through two further passes of it: a critique, and a rewrite that heeds it.

Answers are in the sample bank like those of the first pass. A pair that the critique calls right stays as it
is; one whose rewrite does not hold to the sub-task's rules is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from agenttts.llm import JsonChat, Message
from agenttts.tasktune.data.cleaning import schema_problem
from agenttts.tasktune.data.pairs import LAX_PAIR, WrittenPair, pair_schema, pair_text, task_text
from agenttts.tasktune.data.rows import Dropped, TaskRow
from agenttts.tasktune.data.sources import task_row
from agenttts.tasktune.data.subtask import SubTask
from pipelines.jsonvalues import JSON

_CRITIQUE: Mapping[str, JSON] = {
    "type": "object",
    "properties": {"critique": {"type": "string"}, "right": {"type": "boolean"}},
    "required": ["critique", "right"],
    "additionalProperties": False,
}
_CRITIC = (
    "You check training data of a small model. A pair is right when its output is what the sub-task asks of "
    "its inputs, follows from the passage alone, is complete, and is of the form of the examples. Say first, "
    "in a few sentences, what is wrong and how to put it right; then whether the pair is right as it is. "
    "Answer with JSON only."
)
_EDITOR = (
    "You mend training data of a small model. Rewrite the pair so that the critique holds no longer. It must "
    "follow from the passage alone and be correct. Answer with JSON only."
)


async def revised_row(task: SubTask, row: TaskRow, passage: str, chat: JsonChat) -> TaskRow | Dropped:
    """Have an LLM criticise a row that it wrote, and rewrite it where it is not right.

    Args:
        task: The row's sub-task.
        row: The row. One that breaks the sub-task's rules is left to them: it comes back without a question.
        passage: What the row must follow from.
        chat: The LLM.

    Returns:
        The row, as it was or rewritten; or why neither can be used.

    Raises:
        UserError: The LLM gives no answer.
    """
    if schema_problem(task, row) is not None:
        return row
    pair = (
        f"{task_text(task)}\nPassage:\n\n{passage}\n\nPair: {pair_text(row.inputs, row.fields[task.label])}"
    )
    try:
        verdict = await chat.ask(_messages(_CRITIC, pair), _CRITIQUE)
    except ValueError as error:
        return Dropped(step="critique", reason=str(error), source=row.source)
    if verdict["right"]:
        return row
    critique = str(verdict["critique"])
    try:
        answer = await chat.ask(
            _messages(_EDITOR, f"{pair}\n\nCritique: {critique}"), pair_schema(task), LAX_PAIR
        )
    except ValueError as error:
        return Dropped(step="rewrite", reason=str(error), source=row.source)
    written = cast("WrittenPair", answer)
    rewritten = task_row(task, written["inputs"], written["output"], source=f"{row.source}, rewritten")
    if isinstance(rewritten, Dropped):
        problem: str | None = rewritten.reason
    elif rewritten.id == row.id:
        problem = f"the pair is as before, of which the critique says: {critique:.120}"
    else:
        problem = schema_problem(task, rewritten)
    if problem is not None:
        return Dropped(step="rewrite", reason=problem, source=row.source)
    return rewritten


def _messages(system: str, text: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]
