"""One question with its candidate sentences, and the JSON-lines files that hold many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question with its candidate sentences.

    Attributes:
        id: The id of the row.
        question: The question.
        candidates: The needed sentences and the distractors, shuffled.
        evidence: The needed sentences, in the order of the hops.
        answer: The answer, a name.
        hops: Number of facts that the question needs.
        level: The hardest phrasing among the evidence: 1 when subject and object are close together, 2 when
            they are further apart or beside a decoy, 3 when the object comes before the subject.
    """

    id: str
    question: str
    candidates: tuple[str, ...]
    evidence: tuple[str, ...]
    answer: str
    hops: int
    level: int


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows to a file, one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def read_rows(path: Path) -> list[Row]:
    """Read the rows that `write_rows` wrote."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        raw["candidates"], raw["evidence"] = tuple(raw["candidates"]), tuple(raw["evidence"])
        rows.append(Row(**raw))
    return rows
