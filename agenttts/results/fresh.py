"""Fresh examples: a share of the search split that no trial of the search sees.

The best of many scores is too high by luck. At the end of a search the few trials that can't be told apart
are scored on examples that knew nothing of them (`agenttts.search.fresh`), and the choice is made on both
parts (`agenttts.results.choosing`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from agenttts.errors import UserError
from agenttts.results.trials import TrialResult
from pipelines.allocation import Allocation
from pipelines.dataset.splits import seeded_order
from pipelines.examples import Example

SPLIT = "fresh"
SHARE = 0.25
"""The share that is kept out unless another is asked for."""
FEWEST = 100
"""Of fewer search examples none is kept out unless a share is asked for: the search needs them more."""


def kept_out(
    examples: Sequence[Example], share: float | None, seed: int
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Split the search examples into those of the trials and the fresh ones.

    Args:
        examples: The search examples.
        share: The share to keep out, 0 to 0.5; None: SHARE, and none of fewer than FEWEST examples.
        seed: The seed of the draw.

    Returns:
        The examples of the trials and the fresh ones, both in their order.

    Raises:
        UserError: The share is out of range, or it keeps out no example.
    """
    if share is None:
        share = SHARE if len(examples) >= FEWEST else 0.0
    if not 0 <= share <= 0.5:
        raise UserError(
            f"fresh (--fresh), the share of the search examples kept out, is 0 to 0.5, got {share:g}"
        )
    count = math.floor(share * len(examples))
    if share and not count:
        raise UserError(
            f"fresh (--fresh): a share of {share:g} of {len(examples)} search examples is none; raise it"
        )
    drawn = seeded_order(examples, lambda example: example.id, seed)[:count]
    fresh_ids = {example.id for example in drawn}
    return [e for e in examples if e.id not in fresh_ids], [e for e in examples if e.id in fresh_ids]


def together(first: TrialResult, second: TrialResult) -> TrialResult:
    """Combine two trials of one allocation on different examples, as one row of a table.

    Args:
        first: The trial whose number and reason are kept.
        second: The other trial.
    """
    scores = {**first.scores, **second.scores}
    known = [score for score in scores.values() if score is not None]
    return replace(
        first,
        status="complete" if known else second.status,
        scores=scores,
        score=math.fsum(known) / len(known) if known else None,
        n_scored=len(known),
        n_missing=first.n_missing + second.n_missing,
        samples_drawn=first.samples_drawn + second.samples_drawn,
        samples_reused=first.samples_reused + second.samples_reused,
    )


def fresh_scores(extra: Iterable[TrialResult]) -> Mapping[Allocation, Mapping[str, float | None]]:
    """Collect the scores on fresh examples by allocation.

    Args:
        extra: The trials of the confirmation.
    """
    by_allocation: dict[Allocation, dict[str, float | None]] = {}
    for trial in extra:
        if trial.split == SPLIT and trial.policy is None:
            by_allocation.setdefault(trial.allocation, {}).update(trial.scores)
    return {allocation: scores for allocation, scores in by_allocation.items() if scores}
