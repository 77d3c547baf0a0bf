"""The policy that a run chose: what it is estimated to score, and what it came to on the test split.

These are values only. `agenttts.policies` chooses a policy and `agenttts.search.adapt` has it tested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from agenttts.results.trials import TrialResult, mean, trial_id
from agenttts.space.measure import Measure
from agenttts.stats import Difference, Interval, Stream, mean_interval, paired_difference, stream_rng
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.jsonvalues import JSON
from pipelines.policy import Policy
from pipelines.spec.policyfile import read_policy

Bounds = tuple[float, float]
"""Lower and upper end of a 95 % interval."""

_Policy = Annotated[Policy, PlainValidator(read_policy), PlainSerializer(Policy.to_dict)]
_Allocation = Annotated[Allocation, PlainValidator(Allocation.from_dict), PlainSerializer(Allocation.to_dict)]


@dataclass(frozen=True, kw_only=True)
class CostPerQuery:
    """The distribution of the cost of queries, in the measure of the budget.

    Attributes:
        mean: What the budget limits.
        median: The cost that half of the queries do not exceed.
        p95: The cost that 95 % of the queries do not exceed.
        max: The cost of the dearest query.
    """

    mean: float
    median: float
    p95: float
    max: float

    @classmethod
    def of(cls, costs: npt.ArrayLike) -> CostPerQuery:
        """Summarise costs, of any shape and at least one."""
        values = np.asarray(costs, dtype=float)
        median, p95 = np.quantile(values, (0.5, 0.95))
        return cls(
            mean=math.fsum(values.ravel()) / values.size,
            median=float(median),
            p95=float(p95),
            max=float(values.max()),
        )


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A fixed allocation that a policy is compared with on the test split.

    Attributes:
        role: What it is, such as "winner", "best default" or "best fixed allocation that is no dearer on
            search examples".
        allocation: The allocation.
        score: Its mean score there.
        cost: Its realised cost per query there, in the budget's measure; None where it is not known.
        difference: The policy's scores minus its own, paired by example.
        difference_ci: The 95 % interval of that difference.
    """

    role: str
    allocation: _Allocation
    score: float
    cost: float | None
    difference: float
    difference_ci: Bounds


@dataclass(frozen=True, kw_only=True)
class TestedPolicy:
    """What a policy came to on the test split.

    Attributes:
        score: Mean score.
        ci: Its 95 % interval.
        n: The number of examples with a score.
        cost: Realised, per query; None where it is not known.
        confidence: Mean confidence in the outcomes; None where the policy has none.
        ended_at: For each rung, the share of the queries whose last rung it was.
        rivals: The fixed allocations that were scored on the same examples.
    """

    score: float
    ci: Bounds
    n: int
    cost: CostPerQuery | None
    confidence: float | None
    ended_at: tuple[float, ...]
    rivals: tuple[Rival, ...]


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
    """A policy chosen by replay, with what it is estimated to score and cost on the search split.

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


@dataclass(frozen=True, kw_only=True)
class AdaptivePolicy:
    """The policy of a run.

    Attributes:
        choice: What was chosen on the search split, and why.
        budget: The mean cost per query that it was chosen for.
        tested: What it came to on the test split; None where it was not scored there.
    """

    choice: PolicyChoice
    budget: float
    tested: TestedPolicy | None = None

    @property
    def policy(self) -> Policy:
        """The policy."""
        return self.choice.policy

    def to_json_dict(self) -> dict[str, JSON]:
        """Return the policy and its figures as JSON-able data."""
        data: dict[str, JSON] = _ADAPTIVE.dump_python(self, mode="json")
        return data


CHOICE: TypeAdapter[PolicyChoice] = TypeAdapter(PolicyChoice)
"""Writes a choice as JSON and reads it."""
_ADAPTIVE: TypeAdapter[AdaptivePolicy] = TypeAdapter(AdaptivePolicy)


def load_adaptive(data: JSON) -> AdaptivePolicy | None:
    """Read what `AdaptivePolicy.to_json_dict` returned; None for None."""
    return None if data is None else _ADAPTIVE.validate_python(data)


def tested_policy(
    store: Store,
    run_id: str,
    trials: Sequence[TrialResult],
    roles: Mapping[Allocation, str],
    measure: Measure,
    seed: int,
) -> TestedPolicy | None:
    """Compare a policy with fixed allocations on the test split.

    Args:
        store: The database, open for reading.
        run_id: The run.
        trials: The run's trials; those on the test split are used.
        roles: What the fixed allocations are, by allocation.
        measure: The measure of the budget.
        seed: The run's seed, which the bootstraps draw from.

    Returns:
        The comparison; None when no policy was scored on the test split.
    """
    on_test = [t for t in trials if t.split == "test" and t.score is not None]
    ours = next((t for t in on_test if t.policy is not None), None)
    if ours is None or ours.score is None or ours.policy is None:
        return None
    interval = mean_interval(ours.scores.values(), stream_rng(seed, Stream.TEST_SCORE))
    results = [
        r
        for r in store.policy_results(trial_id(run_id, ours.number))
        if ours.scores.get(r.example_id) is not None
    ]
    costs = [measure.realised(r.flops, r.cost_usd) for r in results]
    known = [cost for cost in costs if cost is not None]
    sure = [r.confidence for r in results if r.confidence is not None]
    rivals = []
    for trial in on_test:
        if trial.policy is not None or trial.allocation not in roles or trial.score is None:
            continue
        paired = paired_difference(ours.scores, trial.scores, stream_rng(seed, Stream.POLICY_TEST))
        rivals.append(
            Rival(
                role=roles[trial.allocation],
                allocation=trial.allocation,
                score=trial.score,
                cost=None if (cost := trial.realised(measure)) is None else cost.mean,
                difference=paired.mean,
                difference_ci=(paired.low, paired.high),
            )
        )
    return TestedPolicy(
        score=ours.score,
        ci=(ours.score, ours.score) if interval is None else (interval.low, interval.high),
        n=ours.n_scored,
        confidence=mean(sure),
        cost=CostPerQuery.of(known) if known and len(known) == len(costs) else None,
        ended_at=tuple(
            sum(r.n_rungs == k + 1 for r in results) / max(1, len(results))
            for k in range(len(ours.policy.rungs))
        ),
        rivals=tuple(rivals),
    )
