"""HotpotQA's official measures (Yang et al. 2018, hotpot_evaluate_v1), best over an example's answers.

2WikiMultiHopQA's evaluation is the same with aliases.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.stages import metrics

_CLOSED = ("yes", "no", "noanswer")


def exact_match(output: JSON, example: Example) -> float:
    """1 when the answer equals one of the answers after normalisation."""
    return metrics.exact_match(output, example["answers"])


def answer_f1(output: JSON, example: Example) -> float:
    """Token F1; an answer of yes, no or noanswer that is not equal counts nothing, on either side."""
    said = metrics.normal_answer("" if output is None else str(output))
    return max(_f1(said, metrics.normal_answer(alias)) for alias in example["answers"])


def evidence_f1(output: JSON, example: Example) -> float:
    """F1 of the supporting candidates."""
    return metrics.set_f1(output, example["evidence"]) if output else 0.0


def evidence_exact_match(output: Sequence[int] | None, example: Example) -> float:
    """1 when the candidates named are the supporting ones, no more and no less."""
    return float(set(output or ()) == set(example["evidence"]))


def _f1(said: str, right: str) -> float:
    if said != right and (said in _CLOSED or right in _CLOSED):
        return 0.0
    if not said or not right:
        return 0.0
    return metrics.token_f1(said, right)
