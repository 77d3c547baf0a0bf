"""`agenttts tune tasks`: an LLM reads documents of a domain and proposes sub-tasks, for a person to review.

First each document's sub-tasks, with worked examples from it; then near-duplicates are merged; then each one
is checked against the documents: its examples must parse, score 1, and be what the LLM itself answers when it
sees the document again without them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agenttts.errors import UserError
from agenttts.tasktune.chat import JsonChat, shown
from agenttts.tasktune.data.cleaning import near_index, sketch
from agenttts.tasktune.data.sources import passages
from agenttts.tasktune.data.subtask import SubTask, SubTasks
from pipelines import metrics
from pipelines.examples import Example
from pipelines.parsers import Parsed, parse
from pipelines.tables import Row

_OUTPUTS: Mapping[str, Mapping[str, Any]] = {
    "text": {"metric": "rouge_l"},
    "list": {"parser": {"kind": "lines"}, "metric": "set_f1"},
    "choice": {"metric": "accuracy"},
}
_LONGEST = 6000
_ALIKE = 0.5
_PROPOSAL = {
    "type": "object",
    "properties": {
        "subtasks": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "instruction": {"type": "string"},
                    "inputs": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"name": {"type": "string"}, "type": {"enum": ["text", "list"]}},
                            "required": ["name", "type"],
                            "additionalProperties": False,
                        },
                    },
                    "output": {"enum": list(_OUTPUTS)},
                    "choices": {"type": "array", "items": {"type": "string"}},
                    "language": {"type": "string"},
                    "example": {
                        "type": "object",
                        "properties": {"inputs": {"type": "object"}, "output": {}},
                        "required": ["inputs", "output"],
                        "additionalProperties": False,
                    },
                },
                "required": ["name", "instruction", "inputs", "output", "choices", "language", "example"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["subtasks"],
    "additionalProperties": False,
}
_ANSWER = {
    "type": "object",
    "properties": {"answerable": {"type": "boolean"}, "output": {}},
    "required": ["answerable", "output"],
    "additionalProperties": False,
}


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """The sub-tasks, and which proposals were left out, with the reason."""

    tasks: SubTasks
    left_out: Sequence[tuple[str, str]]


async def propose_subtasks(
    domain: str, documents: Sequence[Row], chat: JsonChat, *, per_document: int = 4
) -> Proposed:
    """Sub-tasks of a domain, from its description and sample documents. UserError when none is left."""
    read = [
        passages(str(doc.fields["text"]), _LONGEST)[0] for doc in documents if str(doc.fields["text"]).strip()
    ]
    if not read:
        raise UserError("the documents hold no text")
    answers = await asyncio.gather(
        *(_asked(chat, domain, passage, per_document) for passage in read), return_exceptions=False
    )
    left_out: list[tuple[str, str]] = []
    made: list[tuple[SubTask, str]] = []
    for passage, answer in zip(read, answers, strict=True):
        for proposal in answer:
            task = _made(proposal)
            if isinstance(task, SubTask):
                made.append((task, passage))
            else:
                left_out.append((str(proposal.get("name", "?")), task))
    kept: list[tuple[SubTask, str]] = []
    index = near_index(_ALIKE)
    for number, (task, passage) in enumerate(made):
        text = sketch(f"{task.name} {task.instruction}".casefold())
        like = index.query(text)
        named = [t.name for t, _ in kept]
        if like or task.name in named:
            other = made[min(like)][0].name if like else task.name
            left_out.append((task.name, f"nearly the same as {other}"))
            continue
        index.insert(number, text)
        kept.append((task, passage))
    checked = await asyncio.gather(*(_unanswerable(chat, task, passage) for task, passage in kept))
    good = [task for (task, _), reason in zip(kept, checked, strict=True) if reason is None]
    left_out += [(t.name, reason) for (t, _), reason in zip(kept, checked, strict=True) if reason is not None]
    if not good:
        told = "; ".join(f"{name}: {reason}" for name, reason in left_out) or "the LLM proposed none"
        raise UserError(f"no sub-task is left: {told}")
    return Proposed(tasks=SubTasks(domain=domain, subtasks=tuple(good)), left_out=left_out)


async def _asked(chat: JsonChat, domain: str, passage: str, count: int) -> list[dict[str, Any]]:
    messages = [
        {
            "role": "system",
            "content": "You analyse the work of a field into small, well-defined sub-tasks, each with its "
            "own input and output, that a small language model can be tuned for. Answer with JSON only.",
        },
        {
            "role": "user",
            "content": f"Domain: {domain}\n\nA document of it:\n\n{passage}\n\n"
            f"Name up to {count} sub-tasks whose output follows from such a document: a name, a complete "
            "instruction, the inputs (the document's text, or parts of it), the kind of output (text, list, "
            "or choice with its choices; else choices is []), the language (ISO 639-1), and a worked "
            "example from this document.",
        },
    ]
    try:
        found: list[dict[str, Any]] = (await chat.ask(messages, _PROPOSAL))["subtasks"]
    except ValueError as error:
        return [{"name": "?", "problem": str(error)}]
    return found


def _made(proposal: Mapping[str, Any]) -> SubTask | str:
    """The proposal as a SubTask, or why it is none."""
    if "problem" in proposal:
        return str(proposal["problem"])
    name = re.sub(r"\W+", "_", str(proposal["name"]).strip().lower(), flags=re.ASCII).strip("_")
    choices = list(dict.fromkeys(proposal["choices"])) if proposal["output"] == "choice" else []
    data = {
        "name": name if name and not name[0].isdigit() else f"task_{name}",
        "instruction": proposal["instruction"],
        "inputs": {entry["name"]: entry["type"] for entry in proposal["inputs"]},
        "languages": [proposal["language"]],
        "examples": [proposal["example"]],
        **_OUTPUTS[proposal["output"]],
        **({"choices": choices} if choices else {}),
    }
    if proposal["output"] == "choice" and len(choices) < 2:
        return "a choice needs two choices or more"
    try:
        task = SubTask.model_validate(data)
    except ValidationError as error:
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())[:200]
    example = task.examples[0]
    try:
        score = _score(task, example.inputs, example.output, task.written(example.output))
    except (TypeError, ValueError):
        score = None
    if score != 1.0:
        return f"its example's output is none by its own rules: {shown(example.output)[:80]}"
    return task


async def _unanswerable(chat: JsonChat, task: SubTask, passage: str) -> str | None:
    """Why a sub-task can't be answered from its document; None when it can."""
    example = task.examples[0]
    inputs = "\n".join(f"{name}: {shown(example.inputs[name])}" for name in task.inputs)
    messages = [
        {"role": "system", "content": "Answer from the document alone. Answer with JSON only."},
        {
            "role": "user",
            "content": f"Document:\n{passage}\n\nTask: {task.instruction}\n{inputs}\n"
            + (f"One of: {', '.join(task.choices)}\n" if task.choices else "")
            + "Say whether the document answers it, and the output.",
        },
    ]
    try:
        answer = await chat.ask(messages, _ANSWER)
    except ValueError as error:
        return str(error)
    if not answer["answerable"]:
        return "can't be answered from its document"
    try:
        text = task.written(answer["output"])
    except (TypeError, ValueError):
        return "can't be answered in its form"
    score = _score(task, example.inputs, example.output, text)
    if score is None or score < 0.5:
        return f"its example says {shown(example.output)[:60]!r}, asked again the LLM says {text[:60]!r}"
    return None


def _score(task: SubTask, inputs: Mapping[str, Any], gold: Any, text: str) -> float | None:
    example = Example("example", task.fields(inputs, gold))
    parsed = parse(task.parser, text, example)
    return metrics.score(task.metric, parsed.value, example) if isinstance(parsed, Parsed) else None
