"""A row of a task's dataset, wherever it came from, a pair of a right and a wrong answer, and scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agenttts.llm import Message
from agenttts.tasktune.data.subtask import SubTask
from datastore.keys import canonical_json
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.stages import metrics
from pipelines.stages.parsers import Parsed, parse


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """A request and a right answer to it.

    Attributes:
        task: The name of the sub-task.
        messages: The chat up to the answer.
        completion: The answer, to the letter.
        inputs: What the chat was made of, by field; rows are compared by it.
        fields: What parser and metric look at, the gold value included.
        group: Rows of one group stay in one split.
        source: Where the row came from, for a person.
        weight: How often an epoch shows the row.
        flags: What was noticed about the row, such as kinds of personal data.
        id: A digest of sub-task, chat and answer.
    """

    task: str
    messages: tuple[Message, ...]
    completion: str
    inputs: Mapping[str, object]
    fields: Mapping[str, object]
    group: str
    source: str
    weight: int = 1
    flags: tuple[str, ...] = ()
    id: str = field(init=False)

    def __post_init__(self) -> None:
        key = canonical_json([self.task, list(self.messages), self.completion])
        object.__setattr__(self, "id", hashlib.sha256(key.encode()).hexdigest()[:16])

    def to_record(self) -> dict[str, JSON]:
        """The row as the dataset on disk has it; its fields, which differ from row to row, as JSON text."""
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
    """Two answers to one request.

    Attributes:
        task: The name of the sub-task.
        messages: The chat up to the answer.
        chosen: The right answer.
        rejected: The wrong answer.
        group: The group of the row that the pair belongs to.
        source: Where the pair came from, for a person.
    """

    task: str
    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    group: str
    source: str

    def to_record(self) -> dict[str, JSON]:
        """The pair as the dataset on disk has it."""
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
    """A row, or what should have become one, that is not in the dataset.

    Attributes:
        step: The check that dropped it.
        reason: Why.
        source: Where it came from.
    """

    step: str
    reason: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What a source gave.

    Attributes:
        rows: Its rows.
        pairs: Its pairs of a right and a wrong answer.
        dropped: What did not become a row.
    """

    rows: Sequence[TaskRow] = ()
    pairs: Sequence[PreferencePair] = ()
    dropped: Sequence[Dropped] = ()

    @classmethod
    def of(cls, results: Iterable[TaskRow | Dropped]) -> Gathered:
        """Sort what a source made into rows and what was dropped."""
        rows: list[TaskRow] = []
        dropped: list[Dropped] = []
        for result in results:
            if isinstance(result, TaskRow):
                rows.append(result)
            else:
                dropped.append(result)
        return cls(rows=rows, dropped=dropped)


def score_answer(task: SubTask, row: TaskRow, text: str) -> float | None:
    """Score an answer to a row by its sub-task's parser and metric.

    Args:
        task: The row's sub-task.
        row: The row.
        text: The answer. A text that does not parse counts as no answer.

    Returns:
        From 0 to 1; None where the row has no gold value.
    """
    example = Example(row.id, row.fields)
    parsed = parse(task.parser, text, example)
    return metrics.score(task.metric, parsed.value if isinstance(parsed, Parsed) else None, example)


def mean_by_task(
    tasks: Mapping[str, SubTask], rows: Sequence[TaskRow], texts: Iterable[str]
) -> dict[str, float]:
    """The mean score of the answers to each sub-task's rows.

    Args:
        tasks: The sub-tasks by name.
        rows: The rows.
        texts: The answer to each row, in the same order.

    Returns:
        Scores by the name of the sub-task. One without a row that can be scored is left out.
    """
    by_task: dict[str, list[float]] = {}
    for row, text in zip(rows, texts, strict=True):
        score = score_answer(tasks[row.task], row, text)
        if score is not None:
            by_task.setdefault(row.task, []).append(score)
    return {name: sum(scores) / len(scores) for name, scores in by_task.items()}
