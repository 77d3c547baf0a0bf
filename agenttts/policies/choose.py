"""Choosing a policy from what a store holds, without a call.

Where samples were never drawn, scores and costs are guesses; `PolicyChoice.known` says how many were not.
Such a choice says what is worth drawing: once a run of the policy on the examples has drawn what it lacks,
the choice is made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agenttts.errors import UserError
from agenttts.policies.choices import Choices
from agenttts.policies.family import family, fixed_rungs, votes
from agenttts.policies.fits import Limits
from agenttts.policies.paths import Tables
from agenttts.policies.rates import Rates
from agenttts.results.adaptive import PolicyChoice
from agenttts.space.measure import MeasureName
from pipelines.allocation import Allocation
from pipelines.examples import Example
from pipelines.runtime.payments import SampleBank
from pipelines.spec.pipeline import PipelineSpec

FEWEST_EXAMPLES = 20
"""Of fewer examples a fold has too few to say which policy is better."""


def best_choice(choices: Choices, limits: Limits) -> PolicyChoice | None:
    """Choose the best policy within limits, with its figures.

    Args:
        choices: What there is to choose from.
        limits: What a query may cost, and how well a policy must be known.

    Returns:
        The choice; None where no policy is better than the best fixed allocation, or none is within the
        limits.
    """
    try:
        choice = choices.best(limits)
    except UserError:
        return None
    return None if choice.kind == "fixed" else replace(choice, front=choices.front(limits))


async def read_choices(
    spec: PipelineSpec,
    store: SampleBank,
    examples: Sequence[Example],
    *,
    measure: MeasureName = "units",
    seed: int,
    best_fixed: Allocation | None = None,
    orders: Sequence[int] = (0, 1, 2),
) -> Choices | None:
    """Read what a store holds for the family of policies.

    `Choices.best` chooses for any limits, and `Choices.wanted` says what is worth drawing before.

    Args:
        spec: The pipeline.
        store: The store, with its banks attached.
        examples: The examples to choose on, at least FEWEST_EXAMPLES.
        measure: What budgets are in, units or usd.
        seed: The seed of the folds and the intervals.
        best_fixed: A fixed allocation to compare with, beside those of the family.
        orders: The orders of the samples that scores are averaged over (`orders.sample_order`).

    Returns:
        The choices; None where no stage votes.
    """
    if not votes(spec):
        return None
    tables = Tables(spec, store, examples, rates=Rates.of(spec, measure), orders=orders)
    further = () if best_fixed is None else (best_fixed,)
    await tables.add(fixed_rungs(spec, further))
    policies = family(spec, tables.weighable(), further)
    await tables.add(policies.rungs)
    paths = {rung: tables.path(rung) for rung in policies.rungs}
    return Choices(policies, paths, tables.rates, seed=seed)
