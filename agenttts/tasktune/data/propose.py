"""`agenttts tune tasks`: an LLM reads documents of a domain and proposes sub-tasks, for a person to review.

First the sub-tasks of each document, with worked examples from it; then near-duplicates are merged; then each
one is checked against its document: its example must parse, score 1, and be what the LLM itself answers when
it sees the document again without it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

from pydantic import ValidationError

from agenttts.errors import UserError
from agenttts.llm import JsonChat, prompt_text
from agenttts.tasktune.data.cleaning import near_index, sketch
from agenttts.tasktune.data.subtask import SubTask, SubTasks
from agenttts.tasktune.data.writing import passages
from pipelines.dataset.rows import Row
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.stages import metrics
from pipelines.stages.parsers import Parsed, parse

_OUTPUTS: Mapping[str, Mapping[str, JSON]] = {
    "text": {"metric": "rouge_l"},
    "list": {"parser": {"kind": "lines"}, "metric": "set_f1"},
    "choice": {"metric": "accuracy"},
}
_LONGEST = 6000  # characters of a document
_ALIKE = 0.5
_REACHED = 0.5  # the score from which the LLM's second answer counts as its first
_PROPOSAL: Mapping[str, JSON] = {
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
_ANSWER: Mapping[str, JSON] = {
    "type": "object",
    "properties": {"answerable": {"type": "boolean"}, "output": {}},
    "required": ["answerable", "output"],
    "additionalProperties": False,
}


class _Input(TypedDict):
    name: str
    type: str


class _Proposal(TypedDict):
    """One sub-task as the LLM proposes it."""

    name: str
    instruction: str
    inputs: Sequence[_Input]
    output: str
    choices: Sequence[str]
    language: str
    example: Mapping[str, JSON]


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """What came of the proposals.

    Attributes:
        tasks: The sub-tasks.
        left_out: The name of each proposal that was left out, and why.
    """

    tasks: SubTasks
    left_out: Sequence[tuple[str, str]]


async def propose_subtasks(
    domain: str, documents: Sequence[Row], chat: JsonChat, *, per_document: int = 4
) -> Proposed:
    """Have an LLM propose sub-tasks of a domain.

    Args:
        domain: What the domain is, in a sentence.
        documents: Sample documents with their text under `text`; the first 6,000 characters are read.
        chat: The LLM.
        per_document: How many sub-tasks are asked for from each document.

    Raises:
        UserError: No sub-task is left, or the documents hold no text.
    """
    texts = [
        passages(str(doc.fields["text"]), _LONGEST)[0] for doc in documents if str(doc.fields["text"]).strip()
    ]
    if not texts:
        raise UserError("the documents hold no text")
    proposals = await asyncio.gather(*(_proposals(chat, domain, text, per_document) for text in texts))
    left_out: list[tuple[str, str]] = []
    candidates: list[tuple[SubTask, str]] = []
    for text, of_document in zip(texts, proposals, strict=True):
        if isinstance(of_document, str):
            left_out.append(("?", of_document))
            continue
        for proposal in of_document:
            task = _subtask(proposal)
            if isinstance(task, SubTask):
                candidates.append((task, text))
            else:
                left_out.append((proposal["name"], task))
    distinct, similar = _without_similar(candidates)
    problems = await asyncio.gather(*(_unanswerable(chat, task, text) for task, text in distinct))
    left_out += similar
    left_out += [(t.name, why) for (t, _), why in zip(distinct, problems, strict=True) if why is not None]
    good = [task for (task, _), why in zip(distinct, problems, strict=True) if why is None]
    if not good:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out) or "the LLM proposed none"
        raise UserError(f"no sub-task is left: {reasons}")
    return Proposed(tasks=SubTasks(domain=domain, subtasks=tuple(good)), left_out=left_out)


async def _proposals(chat: JsonChat, domain: str, text: str, count: int) -> Sequence[_Proposal] | str:
    """The proposals for one document, or why there are none."""
    messages = [
        {
            "role": "system",
            "content": "You analyse the work of a field into small, well-defined sub-tasks, each with its "
            "own input and output, that a small language model can be tuned for. Answer with JSON only.",
        },
        {
            "role": "user",
            "content": f"Domain: {domain}\n\nA document of it:\n\n{text}\n\n"
            f"Name up to {count} sub-tasks whose output follows from such a document: a name, a complete "
            "instruction, the inputs (the document's text, or parts of it), the kind of output (text, list, "
            "or choice with its choices; else choices is []), the language (ISO 639-1), and a worked "
            "example from this document.",
        },
    ]
    try:
        answer = await chat.ask(messages, _PROPOSAL)
    except ValueError as error:
        return str(error)
    return cast("Sequence[_Proposal]", answer["subtasks"])


def _subtask(proposal: _Proposal) -> SubTask | str:
    """The proposal as a SubTask, or why it is none."""
    name = re.sub(r"\W+", "_", proposal["name"].strip().lower()).strip("_")
    choices = list(dict.fromkeys(proposal["choices"])) if proposal["output"] == "choice" else []
    data = {
        "name": name if re.match(r"[^\W\d]", name) else f"task_{name}",
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
    output = task.examples[0].output
    try:
        score = _score(task, task.written(output))
    except (TypeError, ValueError):
        score = None
    if score != 1.0:
        return f"its example's output is none by its own rules: {prompt_text(output)[:80]}"
    return task


def _without_similar(
    candidates: Sequence[tuple[SubTask, str]],
) -> tuple[list[tuple[SubTask, str]], list[tuple[str, str]]]:
    """Of nearly equal sub-tasks the first; and which were left out, with the reason."""
    distinct: list[tuple[SubTask, str]] = []
    left_out: list[tuple[str, str]] = []
    index = near_index(_ALIKE)
    for number, (task, text) in enumerate(candidates):
        signature = sketch(f"{task.name} {task.instruction}".casefold())
        similar = index.query(signature)
        if similar or task.name in [other.name for other, _ in distinct]:
            other_name = candidates[min(similar)][0].name if similar else task.name
            left_out.append((task.name, f"nearly the same as {other_name}"))
            continue
        index.insert(number, signature)
        distinct.append((task, text))
    return distinct, left_out


async def _unanswerable(chat: JsonChat, task: SubTask, text: str) -> str | None:
    """Why a sub-task can't be answered from its document; None when it can."""
    example = task.examples[0]
    inputs = "\n".join(f"{name}: {prompt_text(example.inputs[name])}" for name in task.inputs)
    messages = [
        {"role": "system", "content": "Answer from the document alone. Answer with JSON only."},
        {
            "role": "user",
            "content": f"Document:\n{text}\n\nTask: {task.instruction}\n{inputs}\n"
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
        written = task.written(answer["output"])
    except (TypeError, ValueError):
        return "can't be answered in its form"
    score = _score(task, written)
    if score is None or score < _REACHED:
        stated = prompt_text(example.output)
        return f"its example says {stated[:60]!r}, asked again the LLM says {written[:60]!r}"
    return None


def _score(task: SubTask, text: str) -> float | None:
    """The score of an answer to the sub-task's first example."""
    worked = task.examples[0]
    example = Example("example", task.fields(worked.inputs, worked.output))
    parsed = parse(task.parser, text, example)
    return metrics.score(task.metric, parsed.value, example) if isinstance(parsed, Parsed) else None
