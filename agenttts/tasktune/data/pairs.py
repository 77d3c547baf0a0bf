"""A pair of inputs and output, as an LLM is told what it is to be and as it writes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from agenttts.tasktune.data.subtask import OUTPUT, SubTask
from datastore.keys import canonical_json
from pipelines.jsonvalues import JSON

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
LAX_PAIR: Mapping[str, JSON] = {
    "type": "object",
    "properties": {"inputs": {"type": "object"}},
    "required": ["inputs", OUTPUT],
}
"""What a pair must be to be looked at; the sub-task's own rules then say what is wrong with it."""


class WrittenPair(TypedDict):
    """A pair as an LLM wrote it, of the form LAX_PAIR."""

    inputs: Mapping[str, JSON]
    output: JSON


def pair_schema(task: SubTask) -> dict[str, JSON]:
    """The JSON schema of a pair: {"inputs": {...}, "output": ...}."""
    output: Mapping[str, JSON] = {"enum": list(task.choices)} if task.choices else {}
    if not output and task.list_valued:
        output = {"type": "array", "items": {"type": "string"}}
    output = getattr(task.parser, "schema_", None) or output or {"type": "string"}
    return {
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


def pair_text(inputs: Mapping[str, object], output: object) -> str:
    """A pair as a prompt shows it."""
    return canonical_json({"inputs": inputs, OUTPUT: output})


def task_text(task: SubTask) -> str:
    """A sub-task as a prompt describes it to who is to write or judge pairs: what to do, inputs, examples."""
    language = f" Write in {', '.join(task.languages)} (ISO 639-1)." if task.languages else ""
    examples = "".join(f"\nExample: {pair_text(e.inputs, e.output)}" for e in task.examples)
    closed = f" The output is one of: {', '.join(task.choices)}." if task.choices else ""
    inputs = ", ".join(f"{name} ({kind})" for name, kind in task.inputs.items())
    return f"Sub-task {task.name}: {task.instruction}{closed}{language}\nInputs: {inputs}{examples}\n"
