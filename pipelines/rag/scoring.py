"""What reranking writes, and how much of the evidence retrieval brings."""

from __future__ import annotations

from collections.abc import Collection

from pipelines.examples import Example
from pipelines.retrieve_answer.parsing import numbers_up_to

_MOST_PASSAGES = 1000


def passage_numbers(text: str, example: Example) -> list[int]:
    """Parse the numbers of passages that a text names; the prompts leave out those that have no passage.

    Args:
        text: What the model wrote.
        example: The example, whose fields are not read.

    Returns:
        The distinct numbers, from 1, ascending; empty if the text says "none".

    Raises:
        ValueError: The text names no number and does not say "none".
    """
    return numbers_up_to(_MOST_PASSAGES, text)


def evidence_recall(passages: Collection[str], example: Example) -> float:
    """Compute the share of the supporting texts that are among the retrieved passages.

    Args:
        passages: The output of retrieval.
        example: The example with its `candidates`, and the numbers of the supporting ones as `evidence`.
    """
    supporting = [example["candidates"][number - 1] for number in example["evidence"]]
    return sum(text in passages for text in supporting) / len(supporting)
