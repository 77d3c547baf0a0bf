"""Insights of earlier runs on the same pipeline, which a new run starts from.

They start as open, since they may not hold at another budget or seed. Once the new run has tried both
allocations that an insight compares, the insight is tested again on the new run's own trials.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agenttts.proposers.base import Lesson
from agenttts.results.trials import TrialResult
from datastore.records import Insight, Run
from datastore.store import Store
from pipelines.allocation import Allocation

_CITED = re.compile(r" \(trials \d+(, \d+)*\)")  # as texts of earlier versions cite trials of their own run


@dataclass(frozen=True)
class Inherited:
    """A supported insight of an earlier run.

    Attributes:
        run_id: The earlier run.
        text: The insight, in words.
        higher: The allocation that the insight says scores higher.
        lower: The allocation that it says scores lower.
    """

    run_id: str
    text: str
    higher: Allocation
    lower: Allocation

    @property
    def source(self) -> str:
        """The origin of the insight, as the store names it."""
        return f"inherited from {self.run_id}"

    def tested_again(self, trials: Sequence[TrialResult]) -> Lesson | None:
        """Return the insight as a claim about the trials of this run.

        Args:
            trials: The trials of this run.

        Returns:
            The lesson; None until both allocations have a score.
        """
        numbers = {t.allocation: t.number for t in trials if t.status == "complete" and t.score is not None}
        if not {self.higher, self.lower} <= set(numbers):
            return None
        claim = (numbers[self.higher], numbers[self.lower])
        return Lesson(self.text, tuple(sorted(claim)), claim)


def inherited(store: Store, run: Run) -> list[Inherited]:
    """Return the supported insights of an earlier run.

    Args:
        store: The store of the runs.
        run: The new run.

    Returns:
        The insights of the newest run of the same spec that was complete before the new one began; empty when
        there is no such run.
    """
    earlier = [
        r
        for r in store.runs()
        if r.spec_digest == run.spec_digest
        and r.status == "complete"
        and r.finished_at is not None
        and r.finished_at <= run.started_at
        and r.run_id != run.run_id
    ]
    if not earlier:
        return []
    newest = max(earlier, key=lambda r: (r.finished_at or 0.0, r.run_id))
    trials = {t.number: t for t in store.trials(newest.run_id)}
    insights: dict[str, Inherited] = {}
    for insight in store.insights(newest.run_id):
        scored = [trials[n] for n in insight.trials if n in trials and trials[n].status == "complete"]
        if insight.verdict == "supported" and len(scored) >= 2:
            by_score = sorted(scored, key=lambda t: t.score or 0.0)
            lower, higher = (Allocation.from_json(t.allocation) for t in (by_score[0], by_score[-1]))
            text = _CITED.sub("", insight.text)
            insights[text] = Inherited(newest.run_id, text, higher, lower)
    return list(insights.values())


def open_insights(run_id: str, insights: Sequence[Inherited]) -> list[Insight]:
    """Return inherited insights in the form that a run stores before its first step, all of them open."""
    return [
        Insight(
            run_id=run_id,
            step=0,
            position=i,
            proposer=insight.source,
            text=f"From run {insight.run_id}, not tested here yet: {insight.text}",
            trials=(),
            verdict="open",
        )
        for i, insight in enumerate(insights)
    ]
