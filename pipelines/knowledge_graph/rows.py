"""Rows of ComplexWebQuestions and WebQSP with triples as examples: question, numbered triples, answers.

Two forms are read. With `graph`, `q_entity` and `a_entity`, as published by RoG, the evidence consists of the
triples on shortest paths from the question's entities to the answers. With `gt_triples` and `2hop_triples`,
as built by Generate-on-Graph, the evidence is given.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.retrieve_answer.rows import distinct

MOST_TRIPLES = 100
Triple = tuple[str, str, str]


def example(row: Mapping[str, Any]) -> dict[str, object]:
    """Build an example from a row.

    The candidates are the evidence and other triples, at most 100 in all. The row's id decides which others
    are chosen and in which order all of them stand.

    Args:
        row: A row in one of the two forms.

    Returns:
        `id`, `question`, `candidates` (texts "head | relation | tail"), `evidence` (numbers of the supporting
        candidates, from 1, ascending) and `answers`.

    Raises:
        ValueError: The row has no question, no answer, no triples or no evidence, or more than 100 triples as
            evidence.
    """
    question = str(row.get("question") or row.get("ProcessedQuestion") or "").strip()
    answers = distinct(_answers(row))
    if not question or not answers:
        raise ValueError(f"a row needs a question and an answer, got {question!r:.60} and {answers!r:.60}")
    name = str(row.get("id") or row.get("ID") or row.get("QuestionId") or question)
    graph, evidence = _triples(row)
    gold = list(dict.fromkeys(_text(triple) for triple in evidence))
    if not gold:
        raise ValueError("no triple leads to the answer")
    if len(gold) > MOST_TRIPLES:
        raise ValueError(f"{len(gold)} triples lead to the answer, at most {MOST_TRIPLES} are shown")
    others = sorted({_text(triple) for triple in graph} - set(gold), key=lambda text: _rank(name, text))
    shown = sorted(
        [*gold, *others[: MOST_TRIPLES - len(gold)]], key=lambda text: _rank(f"{name}|place", text)
    )
    place = {text: number for number, text in enumerate(shown, 1)}
    return {
        "id": name,
        "question": question,
        "candidates": shown,
        "evidence": sorted(place[text] for text in gold),
        "answers": answers,
    }


def _answers(row: Mapping[str, Any]) -> Iterable[str]:
    if "Parses" in row:  # WebQSP as published
        for parse in row["Parses"]:
            yield from (answer["EntityName"] or answer["AnswerArgument"] for answer in parse["Answers"])
        return
    answers = row.get("answer", row.get("answers")) or []
    yield from answers if isinstance(answers, list) else [answers]


def _triples(row: Mapping[str, Any]) -> tuple[Sequence[Triple], Sequence[Triple]]:
    if "graph" in row:
        graph = [_triple(value) for value in row["graph"]]
        return graph, on_shortest_paths(graph, row["q_entity"], row["a_entity"])
    if "gt_triples" in row:
        gold = [_triple(value) for value in row["gt_triples"]]
        return [_triple(value) for value in row.get("2hop_triples") or ()], gold
    raise ValueError("a row needs triples: graph with q_entity and a_entity, or gt_triples")


def on_shortest_paths(graph: Sequence[Triple], starts: Sequence[str], ends: Sequence[str]) -> list[Triple]:
    """Return the triples on shortest paths from any start to each end; triples count in both directions.

    Args:
        graph: The triples (head, relation, tail).
        starts: The entities at which paths start.
        ends: The entities at which paths end. Ends that no path reaches are ignored.

    Returns:
        The distinct triples on the paths.
    """
    from_starts = _distances(graph, starts)
    on_paths: dict[Triple, None] = {}
    for end in ends:
        if end not in from_starts:
            continue
        to_end = _distances(graph, [end])
        for head, relation, tail in graph:
            for near, far in ((head, tail), (tail, head)):
                length = from_starts.get(near, len(graph)) + 1 + to_end.get(far, len(graph))
                if length == from_starts[end]:
                    on_paths[head, relation, tail] = None
    return list(on_paths)


def _distances(graph: Sequence[Triple], starts: Sequence[str]) -> dict[str, int]:
    neighbours = defaultdict(set)
    for head, _, tail in graph:
        neighbours[head].add(tail)
        neighbours[tail].add(head)
    distances = dict.fromkeys(starts, 0)
    edge = list(distances)
    while edge:
        further = {near for entity in edge for near in neighbours[entity]} - set(distances)
        distances |= dict.fromkeys(further, distances[edge[0]] + 1)
        edge = list(further)
    return distances


def _triple(value: Any) -> Triple:
    if len(value) != 3:
        raise ValueError(f"a triple has three parts, got {value!r:.60}")
    head, relation, tail = (str(part) for part in value)
    return head, relation, tail


def _text(triple: Triple) -> str:
    return " | ".join(" ".join(part.split()) for part in triple)


def _rank(name: str, text: str) -> bytes:
    return hashlib.sha256(f"{name}|{text}".encode()).digest()
