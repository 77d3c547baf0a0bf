"""After the last step: confirm the finalists, open the sealed test split once, and say what is claimed.

Finalists that miss examples are run again, the bank sparing what was scored. Where examples were held back,
the best and its rivals are scored on those (`retest`). The best on the search split is the winner; it and the
best default are scored once on the test split. No proposer sees those scores.
"""

from __future__ import annotations

import json

from agenttts.further import further_metrics
from agenttts.nodes import SearchState, SearchWork, Step, run_trial
from agenttts.outcome import baseline_of, cost_of, latest, outcome, ranked, winner_of
from agenttts.proposers.base import finalists
from agenttts.retest import SPLIT, rivals

_FINALISTS = 3


async def confirm(state: SearchState, runtime: Step) -> SearchState:
    """Re-score finalists that miss examples, then the winner and the best default on the test split."""
    work = runtime.context
    runtime.stream_writer({"kind": "phase", "phase": "confirm", "step": state["step"]})
    work.ledger.limits = work.limits  # what was held back is for this
    for finalist in ranked(work.trials)[:_FINALISTS]:
        if finalist.n_missing and not work.replay:
            reason = f"Trial {finalist.number} misses {finalist.n_missing} examples; another try at those."
            trial, refusal = await run_trial(
                runtime,
                finalist.allocation,
                work.examples,
                _next_number(work),
                "confirm",
                "confirmation",
                reason,
            )
            work.extra.append(trial)
            if refusal is not None:
                return {"ended": state.get("ended") or refusal}
    for allocation in finalists(work.proposer, work.view(state["step"] + 1)):
        reason = "Samples paid for answer it in full, and it may beat every trial."
        trial, refusal = await run_trial(
            runtime, allocation, work.examples, _next_number(work), "confirm", work.proposer.name, reason
        )
        work.extra.append(trial)
        if refusal is not None:
            return {"ended": state.get("ended") or refusal}
    for rival in rivals(ranked(latest(work.trials, work.extra)), work.seed) if work.held else ():
        reason = f"Trial {rival.number} on examples held back: the best of many scores is too high by luck."
        trial, refusal = await run_trial(
            runtime,
            rival.allocation,
            work.held,
            _next_number(work),
            "confirm",
            "confirmation",
            reason,
            SPLIT,
        )
        work.extra.append(trial)
        if refusal is not None:
            return {"ended": state.get("ended") or refusal}
    best = winner_of(work.trials, work.extra, work.spec, work.goal)
    baseline = baseline_of(work.trials, work.extra)
    chosen = [t for t in (best, baseline) if t is not None]
    for allocation in dict.fromkeys(t.allocation for t in chosen):
        role = "winner" if best is not None and allocation == best.allocation else "best default"
        reason = f"The {role}, once on the sealed test split."
        trial, refusal = await run_trial(
            runtime, allocation, work.test_examples(), _next_number(work), "test", "confirmation", reason
        )
        work.extra.append(trial)
        if refusal is not None:
            return {"ended": f"{state.get('ended') or 'stopped'}; {refusal}"}
    return {}


async def finish(state: SearchState, runtime: Step) -> SearchState:
    """Store the outcome and end the run."""
    work = runtime.context
    trials = [*work.trials, *work.extra]
    tested = [t for t in work.extra if t.purpose == "test" and t.score is not None and work.spec.metrics]
    further = {
        t.allocation: further_metrics(work.spec, work.store, work.run_id, t, work.test_examples(), work.seed)
        for t in tested
    }
    found = outcome(
        work.run_id,
        trials,
        work.spec,
        budget_units=work.space.budget_units,
        cost=cost_of(work.store, work.run_id, work.spec, trials),
        seed=work.seed,
        ended=state.get("ended"),
        goal=work.goal,
        further=further,
    )
    now = work.clock()
    work.event("finished", reason=state.get("ended"))
    work.store.finish_run(work.run_id, "complete", json.dumps(found), now)
    runtime.stream_writer({"kind": "phase", "phase": "finish", "step": state["step"]})
    return {}


def _next_number(work: SearchWork) -> int:
    return len(work.trials) + len(work.extra)
