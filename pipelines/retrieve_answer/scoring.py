"""HotpotQA's official metrics (Yang et al. 2018, hotpot_evaluate_v1), the best over an example's answers.

2WikiMultiHopQA uses the same metrics, with aliases.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.stages import metrics

_CLOSED = ("yes", "no", "noanswer")


def exact_match(output: JSON, example: Example) -> float:
    """Return 1 when the output equals one of the answers after normalisation, else 0."""
    return metrics.squad_exact_match(output, example["answers"])


def answer_f1(output: JSON, example: Example) -> float:
    """Compute the F1 over tokens, the best over the answers.

    If the output or the answer is yes, no or noanswer, it is 0 unless both are equal.
    """
    answer = metrics.normal_answer("" if output is None else str(output))
    return max(_f1(answer, metrics.normal_answer(alias)) for alias in example["answers"])


def evidence_f1(output: JSON, example: Example) -> float:
    """Compute the F1 over the numbers of the supporting candidates; 0 when none is named."""
    return metrics.set_f1(output, example["evidence"]) if output else 0.0


def evidence_exact_match(output: Sequence[int] | None, example: Example) -> float:
    """Return 1 when exactly the supporting candidates are named, else 0."""
    return float(output is not None and set(output) == set(example["evidence"]))


def _f1(answer: str, gold: str) -> float:
    if answer != gold and (answer in _CLOSED or gold in _CLOSED):
        return 0.0
    if not answer or not gold:
        return 0.0
    return metrics.squad_f1(answer, gold)
