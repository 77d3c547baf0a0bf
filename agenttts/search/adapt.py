"""The choice of a policy at the end of a search, by replay of the samples drawn.

The search finds the best fixed allocation; a policy spends the same budget on the queries that need it. Where
a policy that seems best needs samples that were never drawn, it is run on the search examples, within what is
left of the limits, and the choice is made again. Every decision is stored before its cost, so that a resumed
search takes it again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from agenttts.errors import UserError
from agenttts.policies.choice import Choices, PolicyChoice
from agenttts.policies.family import family, fixed_rungs
from agenttts.policies.fits import Limits
from agenttts.policies.measure import Measure as Rates
from agenttts.policies.paths import Tables
from agenttts.results.adaptive import ADAPTIVE, AdaptivePolicy, CostPerQuery
from agenttts.search.evaluate import PlannedTrial
from agenttts.search.events import Note, PhaseStarted
from agenttts.search.state import SearchWork, Step, tell
from agenttts.search.trial import run_trial
from pipelines.examples import Example
from pipelines.policy import Policy
from pipelines.spec.policyfile import read_policy

MOST_PURCHASES = 3
"""Policies that are run for want of samples; after that the best that is known stands."""
_CHOSEN, _WANTED = "policy", "policy_wanted"


async def adapt(runtime: Step, step: int) -> tuple[AdaptivePolicy | None, str | None]:
    """Choose a policy for the budget, and draw what it needs on the search examples.

    Args:
        runtime: The graph's runtime, whose context is the work of the search.
        step: The step of the search, for the events.

    Returns:
        The policy, None where no policy is expected to score better than fixed allocations; and the limit on
        spending that stopped its purchases, in words, None when none did.
    """
    work, refusal = runtime.context, None
    if not work.settings.seeks_policy:
        return None, None
    tell(runtime, PhaseStarted(phase="adapt", step=step))
    stored = [e for e in work.store.events(work.run_id) if e.kind in (_CHOSEN, _WANTED)]
    wanted = [read_policy(json.loads(e.detail)["policy"]) for e in stored if e.kind == _WANTED]
    decided = [json.loads(e.detail)["adaptive"] for e in stored if e.kind == _CHOSEN]
    choice: PolicyChoice | None = None
    for purchase in range(MOST_PURCHASES):
        if purchase < len(wanted):
            policy = wanted[purchase]
        elif decided:
            break
        else:
            choice = await _choice(work)
            if choice is None or choice.kind == "fixed" or choice.known >= 1 or work.settings.replay:
                break
            policy = choice.policy
            work.event(_WANTED, policy=policy.to_dict())
        work.reserve()
        refusal = await _buy(runtime, policy)
        work.spend_reserve()
        if refusal is not None:
            break
    if not decided:
        choice = await _choice(work)
        adaptive = None if choice is None or choice.kind == "fixed" else _described(choice)
        decided = [None if adaptive is None else adaptive.to_json_dict()]
        work.event(_CHOSEN, adaptive=decided[0])
    if decided[0] is None:
        tell(runtime, Note(message="No policy is expected to score better than the fixed allocations."))
        return None, refusal
    return ADAPTIVE.validate_python(decided[0]), refusal


def test_of(work: SearchWork, adaptive: AdaptivePolicy) -> PlannedTrial:
    """Plan the trial of the policy on the test split."""
    return _trial(
        adaptive.policy,
        work.splits.test,
        "test",
        adaptive.cost.mean,
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
    )


async def _choice(work: SearchWork) -> PolicyChoice | None:
    """Choose a policy on everything that is banked for the search examples; None where none is affordable."""
    spec, measure = work.spec, work.space.measure
    rates = Rates.units(spec) if measure.name == "units" else Rates.usd(spec)
    tables = Tables(spec, work.store, work.examples, measure=rates)
    await tables.add(fixed_rungs(spec))
    policies = family(spec, tables.weighable())
    await tables.add(policies.rungs)
    limits = Limits(mean=work.space.budget_units, dearest=work.settings.max_units_per_query)
    try:
        return Choices(tables, policies, seed=work.settings.seed).best(limits)
    except UserError:
        return None


def _described(choice: PolicyChoice) -> AdaptivePolicy:
    difference = choice.fixed_difference
    cost = choice.cost
    return AdaptivePolicy(
        policy=choice.policy,
        kind=choice.kind,
        search_score=choice.search_score,
        cross_fitted_score=choice.cross_fitted_score,
        cost=CostPerQuery(mean=cost.mean, median=cost.median, p95=cost.p95, max=cost.max),
        ended_at=choice.ended_at,
        fixed=None if choice.fixed is None else choice.fixed.rungs[0].allocation,
        fixed_difference=None if difference is None else difference.mean,
        fixed_difference_ci=None if difference is None else (difference.low, difference.high),
    )
