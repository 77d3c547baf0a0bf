"""Metrics of question answering over graphs: Hits@1, and F1 over all answers.

Answers are compared as SQuAD compares texts. An output has one answer or several, written "A | B".
"""

from __future__ import annotations

from pipelines.examples import Example
from pipelines.stages import metrics


def hits_at_1(output: object, example: Example) -> float:
    """Return 1 when the first answer of the output is one of the gold answers, else 0."""
    answers = named(output)
    return float(bool(answers) and answers[0] in _gold(example))


def answers_f1(output: object, example: Example) -> float:
    """Compute 2·|both| / (|output| + |gold|) over distinct answers; 0 when the output has none."""
    answers, gold = set(named(output)), _gold(example)
    return 2 * len(answers & gold) / (len(answers) + len(gold)) if answers else 0.0


def named(output: object) -> list[str]:
    """Return the distinct answers of an output, normalised and in order, without empty ones."""
    parts = [] if output is None else str(output).split("|")
    return list(dict.fromkeys(filter(None, (metrics.normal_answer(part) for part in parts))))


def _gold(example: Example) -> set[str]:
    return {metrics.normal_answer(str(answer)) for answer in example["answers"]}
