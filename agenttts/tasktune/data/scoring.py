"""The score of an answer to a row, by its sub-task's parser and metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agenttts.tasktune.data.rows import TaskRow
from agenttts.tasktune.data.subtask import SubTask
from pipelines import metrics
from pipelines.examples import Example
from pipelines.parsers import Parsed, parse


def score_answer(task: SubTask, row: TaskRow, text: str) -> float | None:
    """From 0 to 1; text that does not parse counts as no answer. None where the row has no gold value."""
    example = Example(row.id, row.fields)
    parsed = parse(task.parser, text, example)
    return metrics.score(task.metric, parsed.value if isinstance(parsed, Parsed) else None, example)


def mean_by_task(
    tasks: Mapping[str, SubTask], rows: Sequence[TaskRow], texts: Iterable[str]
) -> dict[str, float]:
    """The mean score of the answers to each sub-task's rows; a sub-task without a scored row is left out."""
    found: dict[str, list[float]] = {}
    for row, text in zip(rows, texts, strict=True):
        score = score_answer(tasks[row.task], row, text)
        if score is not None:
            found.setdefault(row.task, []).append(score)
    return {name: sum(scores) / len(scores) for name, scores in found.items()}
