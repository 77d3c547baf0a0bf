"""Rows of HotpotQA and 2WikiMultiHopQA as examples: question, numbered candidates, evidence, answers.

Two forms are read: the published one, with paragraphs and supporting facts, whose candidates are the
sentences with their titles; and one that lists the candidates and the evidence (`ctxs_candidate`, `ctxs_gt`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.stages.parsers import normal_space


def example(row: Mapping[str, Any]) -> dict[str, object]:
    """Build an example from a row.

    Args:
        row: A row in one of the two forms.

    Returns:
        `id`, `question`, `candidates` (distinct texts), `evidence` (numbers of the supporting candidates,
        from 1, ascending) and `answers` (the answer and its aliases).

    Raises:
        ValueError: The row has no question, no answer or no evidence, or evidence that is not a candidate.
    """
    question = normal_space(str(row.get("question") or ""))
    answers = distinct(_listed(row.get("answers", row.get("answer"))))
    if not question or not answers:
        raise ValueError(f"a row needs a question and an answer, got {question!r:.60} and {answers!r:.60}")
    candidates, gold = _as_they_stand(row) if "ctxs_candidate" in row else _sentences(row)
    candidates, gold = distinct(candidates), distinct(gold)
    absent = [text for text in gold if text not in candidates]
    if absent or not gold:
        problem = f"{len(absent)} of {len(gold)} supporting texts are not among the candidates"
        raise ValueError(problem if gold else "no supporting text is named")
    place = {text: number for number, text in enumerate(candidates, 1)}
    return {
        "id": str(row.get("id") or row.get("_id") or question),
        "question": question,
        "candidates": candidates,
        "evidence": sorted(place[text] for text in gold),
        "answers": answers,
    }


def distinct(texts: Iterable[object]) -> list[str]:
    """Return the distinct texts in order, with single spaces and without empty ones."""
    return list(dict.fromkeys(filter(None, (normal_space(str(text)) for text in texts))))


def _as_they_stand(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    return list(row["ctxs_candidate"]), list(row["ctxs_gt"])


def _sentences(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    paragraphs = dict(_pairs(row["context"], "title", "sentences", "content"))
    candidates = [f"{title}: {s.strip()}" for title, texts in paragraphs.items() for s in texts if s.strip()]
    gold = []
    for title, position in _pairs(row["supporting_facts"], "title", "sent_id"):
        texts = paragraphs.get(title, ())
        if not 0 <= position < len(texts):
            raise ValueError(
                f"supporting fact {position} of {title!r} is not among its {len(texts)} sentences"
            )
        gold.append(f"{title}: {texts[position].strip()}")
    return candidates, gold


def _pairs(value: Any, first: str, *seconds: str) -> Sequence[tuple[Any, Any]]:
    """Read pairs: two lists side by side, as on the hub, or a list of pairs, as in the published files.

    Either may be JSON in a text.
    """
    value = json.loads(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        second = next((name for name in seconds if name in value), seconds[0])
        return list(zip(value[first], value[second], strict=True))
    return [(left, right) for left, right in value]


def _listed(value: object) -> list[object]:
    return [] if value is None else value if isinstance(value, list) else [value]
