"""Trials on a part of the examples: one that grows keeps its number, its row in the store and its scores.

A trial takes the examples in the run's one order and is scored on the first of them. A resumed run goes
through its decisions once more: where the store has a trial on more examples than a decision asked for, the
trial is cut back to those, so that prices, limits and proposers see what they saw then.
"""

from __future__ import annotations

from agenttts.results.trials import TrialResult, result_of, trial_id
from agenttts.search.planned import PlannedTrial, row_of
from agenttts.search.state import SearchWork
from agenttts.search.tally import Tally
from datastore import records
from pipelines.allocation import Allocation


def planned_trial(
    work: SearchWork, allocation: Allocation, n_examples: int | None, proposer: str, reason: str
) -> PlannedTrial | None:
    """Plan a trial of the search, or the growth of the one that the allocation has.

    Args:
        work: The work of the search.
        allocation: The allocation.
        n_examples: How many examples, the first ones, it is to be scored on; None for all.
        proposer: The name of the proposer.
        reason: Why, in words.

    Returns:
        The trial to run; None where the allocation has been scored on as many examples, or has failed.
    """
    earlier = next((trial for trial in work.trials if trial.allocation == allocation), None)
    n = len(work.examples) if n_examples is None else n_examples
    if earlier is not None and (earlier.status != "partial" or earlier.n_run >= n):
        return None
    is_default = allocation in work.space.defaults() if earlier is None else earlier.purpose == "baseline"
    return PlannedTrial(
        allocation=allocation,
        examples=work.examples,
        n_examples=n,
        grows=earlier,
        purpose="baseline" if is_default else "search",
        proposer=proposer,
        reason=reason,
    )


def cut(work: SearchWork, trial: TrialResult, planned: PlannedTrial, n_run: int) -> TrialResult:
    """Return a stored trial as it was when it had been scored on fewer examples.

    Args:
        work: The work of the search.
        trial: The trial.
        planned: The trial as it is planned.
        n_run: The number of examples that it had been scored on.
    """
    row = row_of(work.store, work.run_id, trial.number)
    tally = Tally(row, work.spec, planned.examples, n_run)
    tally.restore(n_run, work.store)
    rate = work.settings.max_error_rate
    earlier = tally.trial(rate, n_run, partial=n_run < len(planned.examples))
    return result_of(earlier, trial.allocation, tally.scores(n_run), tally.stage_scores(), tally.costs())


def new_results(work: SearchWork, planned: PlannedTrial, trial: TrialResult) -> list[records.StageResult]:
    """Return the stage results that a trial did not have before it grew; of another trial all.

    Args:
        work: The work of the search.
        planned: The trial as it was planned.
        trial: The trial as it ended.
    """
    before = set() if planned.grows is None else planned.grows.scores.keys()
    new = trial.scores.keys() - before
    results = work.store.stage_results(trial_id(work.run_id, trial.number))
    return [result for result in results if result.example_id in new]
