"""The insights that a report shows: the strongest, none twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from agenttts.results.trials import INTERVAL_SEED, TrialResult
from agenttts.stats import paired_difference
from datastore.records import Insight

MOST = 8
_BY_VERDICT = ("supported", "refuted", "open")


def strongest(insights: Sequence[Insight], trials: Iterable[TrialResult]) -> tuple[Insight, ...]:
    """Return at most eight insights, the strongest first.

    Supported ones come before refuted ones and these before open ones; of one verdict those whose trials
    differ most, against the width of the interval of the difference. Of insights in the same words an
    inherited one that was tested here is kept, which names its run, and one that was not tested comes last.

    Args:
        insights: All insights of a run.
        trials: Its trials.
    """
    by_number = {trial.number: trial for trial in trials}
    once: dict[str, Insight] = {}
    for insight in sorted(insights, key=_freshness):
        if not any(words == insight.text or insight.text.endswith(f": {words}") for words in once):
            once[insight.text] = insight
    ranked = sorted(
        once.values(),
        key=lambda i: (_BY_VERDICT.index(i.verdict), -_strength(i, by_number), i.step, i.position),
    )
    return tuple(ranked[:MOST])


def _freshness(insight: Insight) -> tuple[bool, bool, int, int]:
    """Inherited insights that were tested here first, then the run's own, then those that were not tested."""
    return insight.step == 0, not insight.proposer.startswith("inherited"), insight.step, insight.position


def _strength(insight: Insight, trials: dict[int, TrialResult]) -> float:
    """The difference of the cited trials that differ most, in widths of its interval; 0 without two."""
    known = (trials[n] for n in insight.trials if n in trials)
    cited = [trial for trial in known if trial.score is not None]
    if len(cited) < 2:
        return 0.0
    low, *_, high = sorted(cited, key=lambda trial: trial.score or 0.0)
    difference = paired_difference(high.scores, low.scores, np.random.default_rng(INTERVAL_SEED))
    return difference.mean / max(1e-9, difference.high - difference.low)
