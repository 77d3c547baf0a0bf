"""Trials that have failed for missing examples: they are no result, and a resumed run runs them again."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agenttts.errors import TrialsFailed
from agenttts.results.ranking import SEARCHING
from agenttts.results.trials import TrialResult
from agenttts.settings import SearchLimits
from datastore import records
from datastore.store import Store

MOST_FAILED = 5
"""Failed trials in a row, after which the search stops."""
LIMIT = "stopped by a limit"
"""How the error of a trial begins that a limit on spending has stopped."""
NOT_RECORDED = "not recorded"
"""How the error of a trial begins that recorded samples do not answer."""


def is_failed(trial: TrialResult | records.Trial) -> bool:
    """Return whether a trial has no score for want of answers, not because a limit or a replay ended it.

    Args:
        trial: The trial.
    """
    error = trial.error or ""
    return trial.status == "failed" and not error.startswith((LIMIT, NOT_RECORDED))


def trials_to_keep(store: Store, run_id: str, limits: SearchLimits, n_examples: int) -> list[records.Trial]:
    """Return the trials of a run that are not run again when it is resumed.

    Failed trials of the search are run again as far as the limit on trials leaves room beside those with a
    score, each on as many examples as before.

    Args:
        store: The store of the run.
        run_id: The run.
        limits: The limits of the search, as it is resumed.
        n_examples: The number of examples of a complete trial.
    """
    ended = [trial for trial in store.trials(run_id) if trial.status != "running"]
    searched = [trial for trial in ended if trial.purpose in SEARCHING]
    n_cells = sum(trial.n_scored + trial.n_missing for trial in searched if trial.status != "failed")
    room = math.inf if limits.trials is None else limits.trials * n_examples - n_cells
    again = {trial.number for trial in ended if is_failed(trial) and trial.purpose not in SEARCHING}
    for trial in filter(is_failed, searched):
        room -= trial.n_scored + trial.n_missing
        if room >= 0:
            again.add(trial.number)
    return [trial for trial in ended if trial.number not in again]


def require_scores(trials: Sequence[TrialResult]) -> None:
    """Check that the last trials of a search have not all failed.

    Args:
        trials: The trials of the search, in order.

    Raises:
        TrialsFailed: They have.
    """
    last = trials[-MOST_FAILED:]
    if len(last) == MOST_FAILED and all(is_failed(trial) for trial in last):
        raise TrialsFailed(
            f"{MOST_FAILED} trials in a row have no score, the last since {last[-1].error}; mend that and go "
            "on with --resume"
        )
