"""Trials that were never run, with the scores that a test wants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agenttts.results.trials import TrialResult
from pipelines.allocation import Allocation


def made_trial(
    number: int, allocation: Allocation, scores: Mapping[str, float], **changes: Any
) -> TrialResult:
    """A complete trial on the search split; changes: other fields."""
    trial = TrialResult(
        number=number,
        allocation=allocation,
        purpose="search",
        split="search",
        proposer="solve",
        reason="",
        status="complete",
        score=math.fsum(scores.values()) / len(scores),
        scores=scores,
        n_scored=len(scores),
        n_missing=0,
        budget_units=1.0,
        flops_per_query=None,
        prompt_tokens=0,
        generated_tokens=0,
        cost_usd=None,
        samples_drawn=0,
        samples_reused=0,
        calls=0,
        stage_scores={},
    )
    return replace(trial, **changes)
