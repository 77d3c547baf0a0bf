"""The winner's curse: the best of many scores is too high by luck, so rivals are scored on further examples.

A share of the search split is held back from the trials. When the search is over, the best allocation and
those that can't be told apart from it are scored on the examples held back; the best over both parts wins.
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
    """The examples of the trials and those of the re-test, both in order; none of the latter at a share of 0.

    UserError for a share outside 0 to 0.5, or one that leaves either part without an example.
    """
    if not 0 <= share <= 0.5:
        raise UserError(f"the share held back for the re-test is 0 to 0.5, got {share:g}")
    count = math.floor(share * len(examples))
    if share and not count:
        raise UserError(f"a share of {share:g} of {len(examples)} search examples is none; raise it")
    drawn = seeded_order(examples, lambda example: example.id, seed)[:count]
    held = {example.id for example in drawn}
    return [e for e in examples if e.id not in held], [e for e in examples if e.id in held]


def rivals(ranked: Sequence[TrialResult], seed: int) -> list[TrialResult]:
    """The best trial and those not told apart from it, best first, at most MOST_RIVALS."""
    found = list(ranked[:1])
    for trial in ranked[1:]:
        rng = stream_rng(seed, Stream.RETEST, trial.number)
        if paired_difference(trial.scores, found[0].scores, rng).high >= 0:
            found.append(trial)
    return found[:MOST_RIVALS]


def pooled(searched: Sequence[TrialResult], extra: Sequence[TrialResult]) -> list[TrialResult]:
    """Those re-tested, with the scores of both parts; as they were where none was."""
    again = {t.allocation: t for t in extra if t.split == SPLIT and t.score is not None}
    both = []
    for trial in searched:
        if trial.allocation in again:
            scores = {**trial.scores, **again[trial.allocation].scores}
            known = [score for score in scores.values() if score is not None]
            both.append(replace(trial, scores=scores, score=math.fsum(known) / len(known)))
    return both or list(searched)
