"""Examples: the rows of a dataset, each with an id. `pipelines.dataset` reads and checks them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Example(Mapping[str, Any]):
    """One row of a dataset, readable like the mapping of its fields: `example["question"]`.

    Attributes:
        id: The id, unique within a split.
        fields: JSON-able values by field.
    """

    id: str
    fields: Mapping[str, Any]

    def __getitem__(self, field: str) -> Any:
        return self.fields[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Example) and self.id == other.id and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.id)
