"""Shorten long values before a template sees them, as the spec plans it, and note what was dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pipelines.spec.stage import StageSpec
from pipelines.spec.stage_parts import TruncateSpec

_MARK = "…"
Item = TypeVar("Item")


def truncated(stage: StageSpec, variables: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """Shorten the variables of a template by the stage's `truncate` rules.

    Returns:
        The variables with long values shortened, and a note for each value that lost something, such as
        `candidates 100 → 60 items`.
    """
    shortened, notes = dict(variables), list[str]()
    for rule in stage.truncate:
        value = shortened.get(rule.field)
        if isinstance(value, str):
            shortened[rule.field] = text = _shorter(value, rule.chars, rule.drop)
            if text != value:
                notes.append(f"{rule.field} {len(value)} → {len(text)} characters")
        elif isinstance(value, list):
            shortened[rule.field], note = _fewer(value, rule)
            notes += [f"{rule.field} {note}"] if note else []
    return shortened, notes


def _fewer(values: Sequence[object], rule: TruncateSpec) -> tuple[list[object], str | None]:
    shorter = [_shorter(v, rule.item_chars, "end") if isinstance(v, str) else v for v in values]
    cut = sum(len(_text(a)) < len(_text(b)) for a, b in zip(shorter, values, strict=True))
    n_items = len(values) if rule.items is None else min(rule.items, len(values))
    if rule.chars is not None:
        n_items = _fitting([len(_text(value)) for value in shorter], n_items, rule.chars, rule.drop)
    remaining = _some(shorter, n_items, rule.drop)
    if rule.chars is not None and remaining and isinstance(remaining[0], str):
        remaining = [_shorter(remaining[0], rule.chars, "end"), *remaining[1:]]
        cut += len(remaining) == 1 and remaining[0] not in shorter
    changes = [f"{len(values)} → {n_items} items"] * (n_items < len(values)) + [f"{cut} items cut"] * bool(
        cut
    )
    return remaining, ", ".join(changes) or None


def _fitting(lengths: Sequence[int], most: int, chars: int, drop: str) -> int:
    """The largest number of remaining items with at most `chars` characters together; at least 1."""
    low, high = min(1, most), most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(_some(lengths, middle, drop)) <= chars else (low, middle - 1)
    return low


def _some(values: Sequence[Item], count: int, drop: str) -> list[Item]:
    if drop == "start":
        return list(values[len(values) - count :])
    first = count if drop == "end" else (count + 1) // 2
    return [*values[:first], *values[len(values) - (count - first) :]]


def _shorter(text: str, chars: int | None, drop: str) -> str:
    if chars is None or len(text) <= chars:
        return text
    room = max(0, chars - len(_MARK))
    if drop == "start":
        return _MARK + text[len(text) - room :]
    first = room if drop == "end" else (room + 1) // 2
    return text[:first] + _MARK + text[len(text) - (room - first) :]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
