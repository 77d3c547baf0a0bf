"""What `agenttts run` tells of a policy at work: what its queries cost, and whether they are as expected."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agenttts.cli.options import say
from agenttts.space.measure import amount_text
from pipelines.policy import Policy

if TYPE_CHECKING:
    from agenttts.result import MeanCost

_FEWEST, _DRIFT = 20, 0.05  # outcomes from which, and by how much, a fall of the confidence is told
_HARDER = 1.1  # times the mean cost on the test split, from which inputs are called harder


def lowered(policy: Policy, outputs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether any query was decided on by lower thresholds than the policy's own.

    Args:
        policy: The policy.
        outputs: What `run_inputs` returned.
    """
    return any(output["thresholds"] != list(policy.thresholds) for output in outputs)


def tell_pace(
    policy: Policy, outputs: Sequence[Mapping[str, Any]], mean: MeanCost, expected: float | None
) -> None:
    """Say what the queries cost where thresholds gave way, the mean was missed, or the inputs are harder.

    Args:
        policy: The policy.
        outputs: What `run_inputs` returned, at least one.
        mean: What a query may cost on average.
        expected: What a query cost on the test split, in the same measure; None where it is not known.
    """
    key = "units" if mean.measure == "units" else "cost_usd"
    costs = [output[key] or 0.0 for output in outputs]
    spent = statistics.fmean(costs)
    facts = []
    if lowered(policy, outputs):
        lowest = map(min, zip(*(output["thresholds"] for output in outputs), strict=True))
        moved = (f"{own:g} to {low:.2g}" for own, low in zip(policy.thresholds, lowest, strict=True))
        facts.append(f"thresholds were lowered from {', '.join(moved)}")
    missed = spent > mean.amount * (1 + 1e-9)
    if missed:
        facts.append(f"the mean was not held: {_why_missed(policy, outputs, costs, mean)}")
    harder = expected is not None and _unheld(policy, outputs, costs) > _HARDER * expected
    if harder and expected is not None:
        certified = amount_text(expected, mean.measure)
        facts.append(f"these inputs are harder than those of the test split, {certified} a query")
    if facts:
        say(
            f"{amount_text(spent, mean.measure)} a query, at most {amount_text(mean.amount, mean.measure)} "
            f"wanted: {'; '.join(facts)}",
            "yellow" if missed or harder else "dim",
        )


def _why_missed(
    policy: Policy, outputs: Sequence[Mapping[str, Any]], costs: Sequence[float], mean: MeanCost
) -> str:
    from pipelines.runtime.pace import AT_ONCE

    if not policy.thresholds:
        return "a policy of one rung has no thresholds to lower"
    first = [cost for cost, output in zip(costs, outputs, strict=True) if output["n_rungs"] == 1]
    if first and statistics.fmean(first) > mean.amount:
        least = amount_text(statistics.fmean(first), mean.measure)
        return f"the first rung, which every query takes, costs {least} alone"
    if len(outputs) <= AT_ONCE:
        return f"thresholds move from query {AT_ONCE + 1} on, and there were {len(outputs)}"
    return f"{len(outputs)} queries are too few for lower thresholds to make up for the dear ones"


def _unheld(policy: Policy, outputs: Sequence[Mapping[str, Any]], costs: Sequence[float]) -> float:
    """Return the mean cost had the thresholds stayed: a spared query costs what those that went on did."""
    further = [cost for cost, output in zip(costs, outputs, strict=True) if output["n_rungs"] > 1]
    dear = statistics.fmean(further) if further else 0.0
    return statistics.fmean(
        max(cost, dear) if _spared(policy, output) else cost
        for cost, output in zip(costs, outputs, strict=True)
    )


def _spared(policy: Policy, output: Mapping[str, Any]) -> bool:
    own = [*policy.thresholds, 0.0][output["n_rungs"] - 1]
    return output["confidence"] is not None and output["confidence"] < own


def tell_drift(expected: float, outputs: Sequence[Mapping[str, Any]]) -> None:
    """Say so where the outcomes are less sure than on the test split, by more than sampling explains.

    Args:
        expected: The mean confidence on the test split, by the policy's own thresholds.
        outputs: What `run_inputs` returned, by the same thresholds.
    """
    sure = [output["confidence"] for output in outputs if output["confidence"] is not None]
    if len(sure) < _FEWEST:
        return
    mean = statistics.fmean(sure)
    noise = statistics.stdev(sure) / math.sqrt(len(sure))
    if expected - mean > max(_DRIFT, 2 * noise):
        say(
            f"the outcomes are less sure than on the test split: mean confidence {mean:.2f} after "
            f"{expected:.2f}; these inputs differ from those that the certificate speaks of",
            "yellow",
        )
