"""The choice of a policy at the end of a search, by replay of the samples drawn.

The search finds the best fixed allocation; a policy spends the same budget on the queries that need it. Where
a policy that seems best needs samples that were never drawn, it is run on the search examples, within what is
left of the limits, and the choice is made again. Every decision is stored before its cost, so that a resumed
search takes it again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from agenttts.policies.choices import Choices
from agenttts.policies.choose import FEWEST_EXAMPLES, best_choice, read_choices
from agenttts.policies.fits import Limits
from agenttts.results.adaptive import CHOICE, AdaptivePolicy, PolicyChoice
from agenttts.search.events import Note, PhaseStarted
from agenttts.search.planned import PlannedTrial
from agenttts.search.state import SearchWork, Step, tell
from agenttts.search.trial import run_trial
from pipelines.examples import Example
from pipelines.policy import Policy
from pipelines.spec.policyfile import read_policy

MOST_PURCHASES = 3
"""Policies that are run for want of samples; after that the best that is known stands."""
LEAST_KNOWN = 0.95
"""The share of the search examples for which the policy that is chosen at last must be known."""
_CHOSEN, _WANTED = "policy", "policy_wanted"


async def adapt(runtime: Step, step: int) -> AdaptivePolicy | None:
    """Choose a policy for the budget, and draw what it needs on the search examples.

    Args:
        runtime: The graph's runtime, whose context is the work of the search.
        step: The step of the search, for the events.

    Returns:
        The policy; None where none is expected to score better than fixed allocations.
    """
    work, refusal = runtime.context, None
    if not work.settings.seeks_policy:
        return None
    tell(runtime, PhaseStarted(phase="adapt", step=step))
    stored = [e for e in work.store.events(work.run_id) if e.kind in (_CHOSEN, _WANTED)]
    wanted = [read_policy(json.loads(e.detail)["policy"]) for e in stored if e.kind == _WANTED]
    decided = [json.loads(e.detail)["choice"] for e in stored if e.kind == _CHOSEN]
    choice: PolicyChoice | None = None
    bought = list[Policy]()
    while len(bought) < len(wanted) or not decided:
        if len(bought) < len(wanted):
            policy = wanted[len(bought)]
        else:
            choices = await _choices(work)
            last = work.settings.replay or refusal is not None or len(bought) == MOST_PURCHASES
            worth_drawing = None if last or choices is None else choices.wanted(_limits(work))
            if worth_drawing is None or any(worth_drawing.rungs == policy.rungs for policy in bought):
                choice = None if choices is None else best_choice(choices, _limits(work))
                break
            policy = worth_drawing
            work.event(_WANTED, policy=policy.to_dict())
        refusal = await _buy(runtime, policy)
        bought.append(policy)
    if not decided:
        decided = [None if choice is None else CHOICE.dump_python(choice, mode="json")]
        work.event(_CHOSEN, choice=decided[0])
    if decided[0] is None:
        tell(runtime, Note(message="No policy is expected to score better than the fixed allocations."))
        return None
    return AdaptivePolicy(choice=CHOICE.validate_python(decided[0]), budget=work.space.budget_units)


def test_of(work: SearchWork, adaptive: AdaptivePolicy) -> PlannedTrial:
    """Plan the trial of the policy on the test split."""
    return _trial(
        adaptive.policy,
        work.splits.test,
        "test",
        adaptive.choice.cost.mean,
        "The policy, once on the sealed test split.",
    )


async def _buy(runtime: Step, policy: Policy) -> str | None:
    """Run a policy on the search examples; the limit on spending that stopped it, in words."""
    work = runtime.context
    reason = "It seems the best policy, and some of the samples that it needs were never drawn."
    cost = max(work.space.units(rung.allocation) for rung in policy.rungs)
    trial, refusal = await run_trial(runtime, _trial(policy, work.examples, "search", cost, reason))
    work.extra.append(trial)
    return refusal


def _trial(policy: Policy, examples: Sequence[Example], split: str, cost: float, reason: str) -> PlannedTrial:
    return PlannedTrial(
        allocation=policy.rungs[0].allocation,
        examples=examples,
        purpose="policy",
        proposer="policy",
        reason=reason,
        split=split,
        policy=policy,
        budget_units=cost,
        optional=split == "test",
    )


async def _choices(work: SearchWork) -> Choices | None:
    """Read all that is banked for the search examples; None where nothing can be chosen from."""
    best = work.choice().best
    if best is None or len(work.examples) < FEWEST_EXAMPLES:
        return None
    return await read_choices(
        work.spec,
        work.store,
        work.examples,
        measure=work.space.measure.name,
        seed=work.settings.seed,
        best_fixed=best.allocation,
    )


def _limits(work: SearchWork) -> Limits:
    return Limits(
        mean=work.space.budget_units,
        dearest=work.settings.max_units_per_query,
        least_known=LEAST_KNOWN,
    )
