"""Chats as people keep them: lists of messages, ShareGPT's conversations, Alpaca's rows, preferred answers.

Each becomes rows with a chat and the answer to it. Of a chat with several answers each is a row of its own,
after all that came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from agenttts.errors import UserError
from agenttts.llm import Message
from agenttts.tasktune.data.rows import Dropped
from agenttts.tasktune.data.subtask import as_chat
from pipelines.dataset.rows import Row
from pipelines.jsonvalues import JSON

ChatFormat: TypeAlias = Literal["messages", "sharegpt", "alpaca", "preferences"]
_Fields: TypeAlias = Mapping[str, JSON]
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
"""ShareGPT's names of roles, where they differ."""


@dataclass(frozen=True, kw_only=True)
class ChatNames:
    """What a row with a chat is called: by the sub-task, and by what else is read of it.

    Attributes:
        chat: The sub-task's input that holds the chat.
        output: The field of the answer.
        rejected: The field of a wrong answer.
        kept: Columns that a chat's rows keep, such as a weight.
    """

    chat: str
    output: str
    rejected: str
    kept: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class _Answered:
    """A chat that ends with the user, its answer, and a wrong answer where there is one."""

    chat: Sequence[Message]
    output: str
    rejected: str | None = None


def chat_rows(
    table: Sequence[Row], form: ChatFormat, mapping: Mapping[str, str], names: ChatNames
) -> tuple[list[Row], list[Dropped]]:
    """Make rows of a sub-task out of chats.

    Args:
        table: The rows as they are on disk.
        form: How they hold their chats.
        mapping: The column of a field of the form, where its name differs.
        names: What the fields of the new rows are called.

    Returns:
        The new rows, and those that hold no chat, with the reason.

    Raises:
        UserError: The first row lacks a column, or `mapping` names something else than a field of the form.
    """
    needed, optional, read = _FORMS[form]
    unknown = set(mapping) - {*needed, *optional}
    if unknown:
        known = ", ".join((*needed, *optional))
        raise UserError(f"map: {', '.join(sorted(unknown))} is no field of the format {form}; {known} are")
    for row in table[:1]:
        columns = [*(mapping.get(name, name) for name in needed), *names.kept]
        absent = next((column for column in columns if column not in row.fields), None)
        if absent is not None:
            raise UserError(
                f"{row.place}: the format {form} needs the column {absent!r}, the row has "
                f"{', '.join(row.fields)}; name it under map"
            )
    rows: list[Row] = []
    dropped: list[Dropped] = []
    for row in table:
        fields = {name: row.fields.get(mapping.get(name, name)) for name in (*needed, *optional)}
        kept = {column: row.fields.get(column) for column in names.kept}
        try:
            answered = read(fields)
        except ValueError as error:
            dropped.append(Dropped(step="schema", reason=str(error), source=row.place))
            continue
        rows += [_row(row.place, number, one, names, kept) for number, one in enumerate(answered, 1)]
    return rows, dropped


def _row(place: str, number: int, one: _Answered, names: ChatNames, kept: _Fields) -> Row:
    chat: JSON = [dict(message) for message in one.chat]
    fields: dict[str, JSON] = {**kept, names.chat: chat, names.output: one.output}
    if one.rejected is not None:
        fields[names.rejected] = one.rejected
    return Row(place if number == 1 else f"{place}, answer {number}", fields)


def _of_messages(fields: _Fields) -> list[_Answered]:
    return _answers(_with_system(as_chat(fields["messages"]), fields["system"]))


def _of_sharegpt(fields: _Fields) -> list[_Answered]:
    turns = fields["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"conversations must be a list of turns, got {turns!r:.40}")
    chat = as_chat(
        [
            {"role": _ROLES.get(str(turn.get("from")), turn.get("from")), "content": turn.get("value")}
            for turn in turns
            if isinstance(turn, dict)
        ]
    )
    return _answers(_with_system(chat, fields["system"]))


def _of_alpaca(fields: _Fields) -> list[_Answered]:
    """Earlier turns under `history` are context: pairs of an instruction and its answer."""
    earlier = fields["history"] or []
    if not isinstance(earlier, list) or not all(
        isinstance(turn, list) and len(turn) == 2 for turn in earlier
    ):
        raise ValueError(f"history must be a list of pairs, got {earlier!r:.40}")
    instruction, more = fields["instruction"], fields["input"] or ""
    if not isinstance(instruction, str) or not isinstance(more, str):
        raise ValueError("instruction and input must be texts")
    request = "\n\n".join(text for text in (instruction.strip(), more.strip()) if text)
    turns = [*(turn for turn in earlier if isinstance(turn, list)), [request, fields["output"]]]
    chat = as_chat(
        [
            {"role": role, "content": content}
            for turn in turns
            for role, content in zip(("user", "assistant"), turn, strict=True)
        ]
    )
    return _answers(_with_system(chat, fields["system"]))[-1:]


def _of_preferences(fields: _Fields) -> list[_Answered]:
    """Answers as texts beside a prompt, or as whole chats that differ in their last answer alone."""
    prompt, chosen, rejected = (fields[name] for name in ("prompt", "chosen", "rejected"))
    before: list[Message] = []
    if prompt is not None:
        before = as_chat([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
    chats = [
        as_chat([{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer)
        for answer in (chosen, rejected)
    ]
    if any(chat[-1]["role"] != "assistant" for chat in chats):
        raise ValueError("chosen and rejected must end with the assistant's answer")
    if chats[0][:-1] != chats[1][:-1]:
        raise ValueError("chosen and rejected must answer the same request")
    chat = _with_system([*(chats[0][:-1] or before), chats[0][-1]], fields["system"])
    (right,) = _answers(chat)[-1:]
    return [_Answered(chat=right.chat, output=right.output, rejected=chats[1][-1]["content"])]


def _with_system(chat: list[Message], system: JSON) -> list[Message]:
    """The chat with a system prompt that has a column of its own; a blank one counts as none."""
    if system is None or (isinstance(system, str) and not system.strip()):
        return chat
    return as_chat([{"role": "system", "content": system}, *(dict(message) for message in chat)])


def _answers(chat: Sequence[Message]) -> list[_Answered]:
    """Each answer of the assistant, with what came before it."""
    answers = [
        _Answered(chat=chat[:i], output=message["content"])
        for i, message in enumerate(chat)
        if message["role"] == "assistant"
    ]
    if not answers:
        raise ValueError("the chat has no answer of the assistant")
    problem = next((one for one in answers if not one.chat or one.chat[-1]["role"] != "user"), None)
    if problem is not None:
        raise ValueError(f"an answer must follow a message of the user, {problem.output!r:.40} does not")
    return answers


_Read: TypeAlias = Callable[[_Fields], list[_Answered]]
_FORMS: Mapping[ChatFormat, tuple[Sequence[str], Sequence[str], _Read]] = {
    "messages": (("messages",), ("system",), _of_messages),
    "sharegpt": (("conversations",), ("system",), _of_sharegpt),
    "alpaca": (("instruction", "output"), ("input", "system", "history"), _of_alpaca),
    "preferences": (("chosen", "rejected"), ("prompt", "system"), _of_preferences),
}
"""For each form the columns that it needs, those that it may have, and how a row is read."""
