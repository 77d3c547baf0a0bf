"""A policy that was chosen by replay, with what it is estimated to score and cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from agenttts.policies.nodes import Floats
from agenttts.stats import Difference, Interval
from pipelines.allocation import Allocation
from pipelines.policy import Policy
from pipelines.spec.policyfile import read_policy

_Policy = Annotated[Policy, PlainValidator(read_policy), PlainSerializer(Policy.to_dict)]
_Allocation = Annotated[Allocation, PlainValidator(Allocation.from_dict), PlainSerializer(Allocation.to_dict)]


@dataclass(frozen=True, kw_only=True)
class CostPerQuery:
    """The distribution of the cost of queries, in the measure of the budget."""

    mean: float
    median: float
    p95: float
    max: float

    @classmethod
    def of(cls, costs: Floats) -> CostPerQuery:
        """Summarise costs, of any shape and at least one."""
        median, p95 = np.quantile(costs, (0.5, 0.95))
        return cls(mean=float(costs.mean()), median=float(median), p95=float(p95), max=float(costs.max()))


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """A point of the figure of scores against cost.

    Attributes:
        kind: fixed, weighted, stopping or cascade, with all simpler kinds.
        cost: Mean realised cost per query, cross-fitted.
        score: Mean score, cross-fitted.
    """

    kind: str
    cost: float
    score: float


@dataclass(frozen=True, kw_only=True)
class ReliabilityPoint:
    """Queries of about the same confidence after the first rung, cross-fitted.

    Attributes:
        confidence: Their mean confidence.
        score: Their mean score.
        share: Their share of all queries.
    """

    confidence: float
    score: float
    share: float


@dataclass(frozen=True, kw_only=True)
class PolicyChoice:
    """A policy chosen within a budget, and what it is estimated to score.

    Attributes:
        policy: The policy, with confidences fitted on all examples of the choice.
        kind: fixed, weighted, stopping or cascade.
        search_score: The mean score on the examples of the choice, which is too high.
        cross_fitted_score: The mean score of examples that took no part in the choice.
        cost: Per query, on the examples of the choice.
        ended_at: For each rung, the share of the queries that end there.
        known: The share of the examples for which every sample that the policy needs in the first order was
            drawn. Scores of examples that no order knows are filled in.
        fixed: The best fixed allocation that costs no more than the policy; None where none is so cheap.
        fixed_score: Its mean score, cross-fitted, chosen for each fold anew.
        fixed_difference: The policy's scores minus the fixed allocation's, both cross-fitted.
        n_policies: How many policies were compared.
        reliability: How well confidence tells the score of a cascade's first rung; empty for one rung.
        front: Scores against cost of each kind.
    """

    policy: _Policy
    kind: str
    search_score: float
    cross_fitted_score: Interval
    cost: CostPerQuery
    ended_at: tuple[float, ...]
    known: float
    fixed: _Allocation | None
    fixed_score: Interval | None
    fixed_difference: Difference | None
    n_policies: int
    reliability: tuple[ReliabilityPoint, ...] = ()
    front: tuple[FrontPoint, ...] = ()


CHOICE: TypeAdapter[PolicyChoice] = TypeAdapter(PolicyChoice)
"""Writes a choice as JSON and reads it."""
