"""The end of a search: the confirmation of the finalists, the test split, and the outcome.

The trials that look best on a part of the examples are completed, and finalists that miss examples run again;
samples in the bank are not drawn anew. Fresh examples are bought for those that can't be told apart
(`fresh`), and the winner is chosen (`agenttts.results.choosing`). A policy may be chosen then (`adapt`).
Winner, best default, recommendation and policy are scored once on the test split. No proposer sees those
scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from agenttts.proposers.base import finalists, leader
from agenttts.results.adaptive import tested_policy
from agenttts.results.conclusion import conclude, summarise_metrics
from agenttts.results.cost import cost_of
from agenttts.results.fresh import SPLIT
from agenttts.results.negotiated import load_negotiated
from agenttts.results.outcome import Outcome
from agenttts.results.ranking import ranked, to_complete
from agenttts.search.adapt import adapt, test_of
from agenttts.search.events import Note, PhaseStarted, RunStopped
from agenttts.search.fresh import next_purchase
from agenttts.search.parts import planned_trial
from agenttts.search.planned import PlannedTrial
from agenttts.search.redone import is_failed
from agenttts.search.state import SearchState, SearchWork, Step, tell
from agenttts.search.trial import run_search_trial, run_trial, stored_trial
from datastore.records import RunStatus
from pipelines.allocation import Allocation

_FINALISTS = 3


async def confirm(state: SearchState, runtime: Step) -> SearchState:
    """Score finalists that miss examples again, buy fresh examples, then score the chosen on the test split.

    What the test phase is expected to cost stays reserved until it begins. A limit that is reached before
    ends the purchases, not the confirmation.

    Args:
        state: The state of the graph.
        runtime: The graph's runtime, whose context is the work of the search.

    Returns:
        The change of the state: why the search ended, when a limit on spending stopped the confirmation.
    """
    work, ended = runtime.context, state.get("ended")
    tell(runtime, PhaseStarted(phase="confirm", step=state["step"]))
    work.reserve()
    refusal = await _complete(runtime, state["step"])
    if refusal is not None:
        ended = ended or refusal
    work.reserve()  # for what could not be tested before
    for planned in _planned(work, state["step"]):
        trial, refusal = await run_trial(runtime, planned)
        work.extra.append(trial)
        if refusal is not None:
            ended = ended or refusal
            break
    work.adaptive = await adapt(runtime, state["step"])
    work.spend_reserve()  # it was for the test phase
    limits = work.settings.limits
    is_limited = any(cap is not None for cap in (limits.tokens, limits.flops, limits.usd, limits.minutes))
    for planned in _tests(work):
        planned = replace(planned, in_parts=is_limited and not work.settings.replay)
        trial, refusal = await run_trial(runtime, planned)
        work.extra.append(trial)
        if refusal is not None:
            ended = f"{ended or 'stopped'}; {refusal}"
    return {} if ended is None else {"ended": ended}


async def _complete(runtime: Step, step: int) -> str | None:
    """Let the default and the trial that look best grow to all examples; the limit that stopped it, in words.

    Only complete trials can win, and the proposer may not have seen to it that these are. Which trial looks
    best is the proposer's word, where it has one.
    """
    work, attempted = runtime.context, set[int]()
    named = leader(work.proposer, work.view(step + 1))
    while len(attempted) < 2:
        waiting = to_complete(work.trials, named)
        trial = next((t for t in waiting if t.number not in attempted), None)
        if trial is None:
            return None
        attempted.add(trial.number)
        reason = f"It looks best on {trial.n_run} examples; only a trial on all of them can win."
        planned = planned_trial(work, trial.allocation, None, "confirmation", reason)
        refusal = planned and await run_search_trial(runtime, replace(planned, optional=True))
        if isinstance(refusal, str):
            return refusal
    return None


def _planned(work: SearchWork, step: int) -> Iterator[PlannedTrial]:
    """Generate the trials of the confirmation on the search split; each is planned when those before it are
    done.
    """
    for finalist in ranked(work.trials)[:_FINALISTS]:
        if finalist.n_missing and not work.settings.replay:
            reason = f"Trial {finalist.number} misses {finalist.n_missing} examples; another try at those."
            yield _again(work, finalist.allocation, reason)
    for allocation in finalists(work.proposer, work.view(step + 1)):
        reason = "Samples paid for answer it in full, and it may beat every trial."
        yield replace(_again(work, allocation, reason), proposer=work.proposer.name)
    while (purchase := next_purchase(work.choice(), work.fresh, work.extra)) is not None:
        again = _again(work, purchase.trial.allocation, purchase.reason)
        planned = replace(again, examples=purchase.examples, split=SPLIT, optional=True)
        if work.ledger.reached() is not None and stored_trial(work, planned) is None:
            return
        yield planned


def _tests(work: SearchWork) -> Iterator[PlannedTrial]:
    """Generate the trials on the test split."""
    choice = work.choice()
    needed = {trial.allocation for trial in (choice.best, choice.baseline) if trial is not None}
    for allocation, role in tested_allocations(work).items():
        reason = f"The {role}, once on the sealed test split."
        yield replace(
            _again(work, allocation, reason),
            examples=work.splits.test,
            purpose="test",
            optional=allocation not in needed,
        )
    if work.adaptive is not None:
        yield test_of(work, work.adaptive)


def tested_allocations(work: SearchWork) -> dict[Allocation, str]:
    """Return the fixed allocations that are scored on the test split, with what they are.

    Args:
        work: The work of the search.
    """
    roles = dict[Allocation, str]()
    choice = work.choice()
    recommended = None if choice.recommended is None else choice.recommended.trial
    for trial, role in (
        (choice.best, "winner"),
        (choice.baseline, "best default"),
        (recommended, "recommended allocation"),
    ):
        if trial is not None:
            roles.setdefault(trial.allocation, role)
    if work.adaptive is not None and work.adaptive.choice.fixed is not None:
        fixed, role = work.adaptive.choice.fixed, "best fixed allocation that is no dearer on search examples"
        roles[fixed] = f"{roles[fixed]} and {role}" if fixed in roles else role
    return roles


def _again(work: SearchWork, allocation: Allocation, reason: str) -> PlannedTrial:
    return PlannedTrial(
        allocation=allocation,
        examples=work.examples,
        purpose="confirm",
        proposer="confirmation",
        reason=reason,
    )


def _unscored(work: SearchWork, outcome: Outcome) -> str | None:
    """Why a score is missing without which the run is not complete; None where none is."""
    if outcome.best is None:
        error = next((trial.error for trial in reversed(work.trials) if trial.error), outcome.stopped_because)
        return f"no trial has a score: {error}"
    failed = next((trial for trial in work.extra if trial.purpose == "test" and is_failed(trial)), None)
    return None if failed is None else f"the score on the test split is missing: {failed.error}"


async def finish(state: SearchState, runtime: Step) -> SearchState:
    """Store the outcome and mark the run as complete, or as stopped where a score is missing."""
    work = runtime.context
    trials = [*work.trials, *work.extra]
    tested = [t for t in work.extra if t.purpose == "test" and t.score is not None and work.spec.metrics]
    test_metrics = {
        t.allocation: summarise_metrics(
            work.spec, work.store, work.run_id, t, work.splits.test, work.settings.seed
        )
        for t in tested
    }
    adaptive = None
    if work.adaptive is not None:
        tested_on = tested_policy(
            work.store,
            work.run_id,
            trials,
            tested_allocations(work),
            work.space.measure,
            work.settings.seed,
        )
        adaptive = replace(work.adaptive, tested=tested_on)
    outcome = conclude(
        work.run_id,
        trials,
        work.space.measure,
        budget_units=work.space.budget_units,
        cost=cost_of(work.store, work.run_id, work.spec, trials),
        seed=work.settings.seed,
        ended=state.get("ended"),
        goal=work.settings.goal,
        margin=work.settings.margin,
        n_test_split=len(work.splits.test),
        test_metrics=test_metrics,
        health=work.meter.health(),
        negotiated=load_negotiated(work.store, work.run_id),
        adaptive=adaptive,
    )
    now = work.clock()
    work.event("finished", reason=state.get("ended"))
    unscored = _unscored(work, outcome)
    status: RunStatus = "complete" if unscored is None else "stopped"
    work.store.finish_run(work.run_id, status, json.dumps(outcome.to_json_dict()), now)
    if unscored is not None:
        tell(runtime, Note(message=unscored))
        tell(runtime, RunStopped.of(work.run_id, work.store.path, status, unscored))
    tell(runtime, PhaseStarted(phase="finish", step=state["step"]))
    return {}
