"""A row of a task's dataset, wherever it came from, and a pair of a right and a wrong answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datastore.keys import canonical_json

Message = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """What is asked, and a right answer.

    messages: the chat; completion: the answer to the letter. inputs: what the chat was made of, by field, for
    comparing rows. fields: what parser and metric look at, the gold value included. group: rows of one group
    stay in one split. weight: how often an epoch shows the row. source: where it came from.
    """

    task: str
    messages: tuple[Message, ...]
    completion: str
    inputs: Mapping[str, Any]
    fields: Mapping[str, Any]
    group: str
    source: str
    weight: int = 1
    flags: tuple[str, ...] = ()
    id: str = field(init=False)

    def __post_init__(self) -> None:
        key = canonical_json([self.task, list(self.messages), self.completion])
        object.__setattr__(self, "id", hashlib.sha256(key.encode()).hexdigest()[:16])

    def to_record(self) -> dict[str, Any]:
        """As the dataset on disk has it: nested values that differ from row to row as JSON text."""
        return {
            "id": self.id,
            "task": self.task,
            "messages": [dict(message) for message in self.messages],
            "completion": self.completion,
            "fields": json.dumps(self.fields, ensure_ascii=False),
            "weight": self.weight,
            "group": self.group,
            "flags": list(self.flags),
            "source": self.source,
        }


@dataclass(frozen=True, kw_only=True)
class PreferencePair:
    """Two answers to one prompt, the first right, the second wrong."""

    task: str
    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    group: str
    source: str

    def to_record(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "messages": [dict(message) for message in self.messages],
            "chosen": self.chosen,
            "rejected": self.rejected,
            "group": self.group,
            "source": self.source,
        }


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A row, or what should have become one, that is not in the dataset: at which step, and why."""

    step: str
    reason: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What a source gave."""

    rows: Sequence[TaskRow] = ()
    pairs: Sequence[PreferencePair] = ()
    dropped: Sequence[Dropped] = ()
