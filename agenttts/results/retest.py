"""The re-test: the best of many scores is too high by chance, so rivals are scored on further examples.

A share of the search split is held out: no trial of the search sees it. At the end of the search, the best
allocation and those that differ from it by no more than noise are scored on the held-out examples; the one
with the best score over both parts wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from agenttts.errors import UserError
from agenttts.results.trials import TrialResult
from agenttts.stats import Stream, paired_difference, stream_rng
from pipelines.dataset.splits import seeded_order
from pipelines.examples import Example

SPLIT = "retest"
MOST_RIVALS = 5


def held_back(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Split the search examples into those of the trials and those held out for the re-test.

    Args:
        examples: The search examples.
        share: The share to hold out, 0 to 0.5.
        seed: The seed of the draw.

    Returns:
        The examples of the trials and those of the re-test, both in their order; none of the latter at a
        share of 0.

    Raises:
        UserError: The share is out of range, or it leaves the re-test without an example.
    """
    if not 0 <= share <= 0.5:
        raise UserError(
            f"retest (--retest), the share of the search examples held back, is 0 to 0.5, got {share:g}"
        )
    count = math.floor(share * len(examples))
    if share and not count:
        raise UserError(
            f"retest (--retest): a share of {share:g} of {len(examples)} search examples is none; raise it"
        )
    drawn = seeded_order(examples, lambda example: example.id, seed)[:count]
    held_out_ids = {example.id for example in drawn}
    return [e for e in examples if e.id not in held_out_ids], [e for e in examples if e.id in held_out_ids]


def rivals(ranked: Sequence[TrialResult], seed: int) -> list[TrialResult]:
    """Return the best trial and those that differ from it by no more than noise.

    Args:
        ranked: Trials with a score, best first.
        seed: The run's seed, which the bootstraps draw from.

    Returns:
        The trials, best first, at most MOST_RIVALS.
    """
    rivals_of_best = list(ranked[:1])
    for trial in ranked[1:]:
        rng = stream_rng(seed, Stream.RETEST, trial.number)
        if paired_difference(trial.scores, ranked[0].scores, rng).high >= 0:
            rivals_of_best.append(trial)
    return rivals_of_best[:MOST_RIVALS]


def pooled(searched: Sequence[TrialResult], extra: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the re-tested trials with the scores of both parts.

    Args:
        searched: Trials on the search split.
        extra: Trials of the confirmation, those of the re-test among them.

    Returns:
        The re-tested trials; all of `searched` where none was re-tested.
    """
    again = {t.allocation: t for t in extra if t.split == SPLIT and t.score is not None}
    both = []
    for trial in searched:
        if trial.allocation in again:
            scores = {**trial.scores, **again[trial.allocation].scores}
            known = [score for score in scores.values() if score is not None]
            both.append(replace(trial, scores=scores, score=math.fsum(known) / len(known)))
    return both or list(searched)
