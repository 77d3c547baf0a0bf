"""Measures of question answering over graphs: any gold answer hit, and F1 over the answers named.

Answers are compared as SQuAD compares text. The answer stage names one answer or several, "A | B".
"""

from __future__ import annotations

from pipelines.examples import Example
from pipelines.stages import metrics


def hits_at_1(output: object, example: Example) -> float:
    """1 when the answer named first is one of the gold answers."""
    said = named(output)
    return float(bool(said) and said[0] in _gold(example))


def answers_f1(output: object, example: Example) -> float:
    """2·|both| / (|named| + |gold|) over distinct answers; 0 when none is named."""
    said, gold = set(named(output)), _gold(example)
    return 2 * len(said & gold) / (len(said) + len(gold)) if said else 0.0


def named(output: object) -> list[str]:
    """The answers of an output, normalised, in order, without empty ones."""
    parts = [] if output is None else str(output).split("|")
    return list(dict.fromkeys(filter(None, (metrics.normal_answer(part) for part in parts))))


def _gold(example: Example) -> set[str]:
    return {metrics.normal_answer(str(answer)) for answer in example["answers"]}
