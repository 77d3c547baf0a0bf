"""One question with its candidate sentences, and the JSON-lines files that hold many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question with its candidate sentences.

    `evidence` lists the needed sentences in hop order; `candidates` holds them and the
    distractors, shuffled. `level` is the hardest phrasing among the evidence: 1 subject and
    object close together, 2 further apart or beside a decoy, 3 object before subject.
    """

    id: str
    question: str
    candidates: tuple[str, ...]
    evidence: tuple[str, ...]
    answer: str
    hops: int
    level: int


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def read_rows(path: Path) -> list[Row]:
    """The inverse of `write_rows`."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        raw["candidates"], raw["evidence"] = tuple(raw["candidates"]), tuple(raw["evidence"])
        rows.append(Row(**raw))
    return rows
