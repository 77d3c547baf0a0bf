"""The part of a report about what changed in a search: prices that were measured, prompts that were new."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from agenttts.results.prices import REPRICED
from datastore.store import Store

ADDED = "prompt_added"


@dataclass(frozen=True, kw_only=True)
class _Price:
    stage: str
    option: str
    what: str


@dataclass(frozen=True, kw_only=True)
class _Repriced:
    changes: tuple[_Price, ...]

    def lines(self) -> list[str]:
        return [f"Priced anew, {one.stage} {one.option}: {one.what}." for one in self.changes]


@dataclass(frozen=True, kw_only=True)
class _Added:
    step: int
    proposer: str
    stage: str
    name: str
    text: str
    reason: str

    def lines(self) -> list[str]:
        by = f"In step {self.step} {self.proposer} added the prompt {self.name} to {self.stage}"
        return [f"{by}: {self.reason.rstrip('.')}. It reads: {self.text}"]


_ADAPTERS: dict[str, TypeAdapter[_Repriced] | TypeAdapter[_Added]] = {
    REPRICED: TypeAdapter(_Repriced),
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
                lines += _ADAPTERS[event.kind].validate_json(event.detail).lines()
            except ValidationError:
                continue  # another version wrote it
    return tuple(lines)
