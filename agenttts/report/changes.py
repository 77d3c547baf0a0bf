"""The part of a report about what changed in a search: prices that were measured, prompts that were new."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from agenttts.proposers.base import NewPrompt
from agenttts.results.prices import REPRICED, REPRICED_EVENT, Repriced
from datastore.store import Store

ADDED = "prompt_added"


@dataclass(frozen=True)
class _Added(NewPrompt):
    step: int
    proposer: str


_ADAPTERS: dict[str, TypeAdapter[Repriced] | TypeAdapter[_Added]] = {
    REPRICED: REPRICED_EVENT,
    ADDED: TypeAdapter(_Added),
}


def change_lines(store: Store, run_id: str) -> tuple[str, ...]:
    """Describe what changed the choices of a search and their prices, in the order in which it did.

    Args:
        store: The database, open for reading.
        run_id: The run.

    Returns:
        A sentence for each change.
    """
    lines = list[str]()
    for event in store.events(run_id):
        if event.kind in _ADAPTERS:
            try:
                lines += _lines(_ADAPTERS[event.kind].validate_json(event.detail))
            except ValidationError:
                continue  # another version wrote it
    return tuple(lines)


def _lines(event: Repriced | _Added) -> list[str]:
    if isinstance(event, Repriced):
        return [f"Priced anew, {change}." for change in event.changes]
    by = f"In step {event.step} {event.proposer} added the prompt {event.name} to {event.stage}"
    return [f"{by}: {event.reason.rstrip('.')}. It reads: {event.text}"]
