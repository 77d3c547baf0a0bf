"""The form of an LLM's answer: its JSON schema, and the message that asks for it again."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agenttts.proposers.texts import Message, template
from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation
from pipelines.jsonvalues import JSON
from pipelines.spec.stage import StageSpec


def answer_schema(space: SearchSpace, count: int, *, opening: bool = False) -> dict[str, JSON]:
    """Build the JSON schema of an answer, for servers with structured output.

    The schema does not express the budget, which is checked after the answer.

    Args:
        space: The allocations within the budget.
        count: The largest number of proposals.
        opening: Whether the options are to be rated too, before any trial.

    Returns:
        The schema.
    """
    stages = {stage.name: _choice_schema(stage) for stage in space.stages}
    number = {"type": ["integer", "null"]}
    insight = _object(
        text={"type": "string"},
        trials={"type": "array", "items": {"type": "integer"}},
        higher=number,
        lower=number,
    )
    proposal = _object(allocation=_object(**stages), reason={"type": "string"})
    share: JSON = {"type": "number"}
    rating = _object(one=share, most=share)
    ratings: dict[str, JSON] = {
        stage: _object(**{str(option): rating for option in options})
        for stage, options in space.options.items()
    }
    return _object(
        insights={"type": "array", "items": insight},
        **({"ratings": _object(**ratings)} if opening else {}),
        proposals={"type": "array", "items": proposal, "maxItems": count},
        finished={"type": ["string", "null"]},
    )


def knowledge_schema() -> dict[str, JSON]:
    """Build the JSON schema of the statements that the MLCopilot baseline asks for."""
    return _object(knowledge={"type": "array", "items": {"type": "string"}, "maxItems": 8})


def repair_message(problems: Sequence[str], count: int, accepted: Sequence[Allocation]) -> Message:
    """Build the message that asks for replacements of invalid proposals.

    Args:
        problems: What was wrong with the answer, one problem an entry.
        count: The number of proposals that are still wanted.
        accepted: The allocations that were accepted from the answer.

    Returns:
        The message, with "role" and "content".
    """
    accepted_json = json.dumps([allocation.to_dict() for allocation in accepted]) if accepted else ""
    text = template("agent_repair.j2").render(problems=problems, count=count, accepted=accepted_json)
    return {"role": "user", "content": text}


def _choice_schema(stage: StageSpec) -> dict[str, JSON]:
    verifiers: dict[str, JSON] = (
        {"verifier": {"type": ["string", "null"], "enum": [None, *stage.verifiers]}}
        if stage.verifiers
        else {}
    )
    names = dict.fromkeys(option.model for option in stage.options)
    prompts: dict[str, JSON] = (
        {"prompt": {"type": ["string", "null"], "enum": list(stage.prompt_names)}} if stage.prompts else {}
    )
    return _object(
        model={"type": "string", "enum": list(names)},
        **verifiers,
        **prompts,
        n_samples={"type": "integer", "minimum": 1, "maximum": stage.max_samples},
    )


def _object(**properties: JSON) -> dict[str, JSON]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
