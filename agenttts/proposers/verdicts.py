"""Verdicts on insights: a paired test of the two trials that an insight compares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agenttts.proposers.base import Lesson
from agenttts.results.trials import TrialResult
from agenttts.stats import CONFIDENCE, paired_difference
from datastore.records import Verdict


def verdicts(lessons: Sequence[Lesson], trials: Sequence[TrialResult], seed: int) -> list[Verdict]:
    """Judge the claim of each lesson on the scores of the trials.

    The intervals are widened for the number of claims (Bonferroni).

    Args:
        lessons: The lessons to judge.
        trials: The trials that the claims refer to.
        seed: The seed of the bootstrap.

    Returns:
        For each lesson "supported" or "refuted" when the paired interval of its claim excludes 0, else
        "open". A lesson without a claim, or without scores to test it on, is open.
    """
    by_number = {trial.number: trial for trial in trials}
    count = sum(lesson.claim is not None for lesson in lessons)
    confidence = 1 - (1 - CONFIDENCE) / max(1, count)
    return [_verdict(lesson.claim, by_number, seed, confidence) for lesson in lessons]


def _verdict(
    claim: tuple[int, int] | None, trials: dict[int, TrialResult], seed: int, confidence: float
) -> Verdict:
    if claim is None or claim[0] == claim[1] or not set(claim) <= set(trials):
        return "open"
    higher, lower = claim
    rng = np.random.default_rng([seed, higher, lower])
    difference = paired_difference(trials[higher].scores, trials[lower].scores, rng, confidence=confidence)
    return "supported" if difference.low > 0 else "refuted" if difference.high < 0 else "open"
