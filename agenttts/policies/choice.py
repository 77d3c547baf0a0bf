"""Choosing a policy within a budget, and what it is estimated to score and cost.

All that is fitted or chosen is fitted and chosen again without each fifth of the examples, which is then
scored: the cross-fitted score. The score on the examples of the choice itself is too high, of 50 examples by
about a tenth. A more complex kind of policy is chosen only where its cross-fitted scores are better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agenttts.errors import UserError
from agenttts.policies.cascades import Replayed, Sketch, Steps
from agenttts.policies.confidence import confidences
from agenttts.policies.family import Family
from agenttts.policies.fits import Fit, Fitter, Limits
from agenttts.policies.paths import Path, Tables
from agenttts.policies.readings import Floats, Ints
from agenttts.stats import Difference, Stream, paired_difference, stream_rng
from pipelines.policy import Policy

N_FOLDS = 5
PAYS = 0.5
"""A more complex kind must be better by this many standard errors of the paired difference."""


@dataclass(frozen=True, kw_only=True)
class CostPerQuery:
    """The distribution of the cost of queries, in the measure of the budget."""

    mean: float
    median: float
    p95: float
    max: float

    @classmethod
    def of(cls, costs: Floats) -> CostPerQuery:
        """Summarise costs of any shape."""
        median, p95 = np.quantile(costs, (0.5, 0.95))
        return cls(mean=float(costs.mean()), median=float(median), p95=float(p95), max=float(costs.max()))


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
        known: The share of the examples for which every sample that the policy needs was drawn.
        fixed: The best fixed allocation at the policy's own mean cost; None where none is so cheap.
        fixed_difference: The policy's scores minus those of the best fixed allocation that costs no more,
            both cross-fitted; None where none is so cheap.
    """

    policy: Policy
    kind: str
    search_score: float
    cross_fitted_score: float
    cost: CostPerQuery
    ended_at: tuple[float, ...]
    known: float
    fixed: Policy | None
    fixed_difference: Difference | None


@dataclass(frozen=True, kw_only=True)
class _LeftOut:
    """What is chosen without each fold, on the examples of that fold. Arrays are of shape [example].

    Attributes:
        scores: Of the policy; NaN where none is within the limits.
        fixed_scores: Of the best fixed allocation that costs no more; NaN where there is none.
    """

    scores: Floats
    fixed_scores: Floats


class Choices:
    """Chooses policies of a family for any budget; the fits are made once for all.

    Args:
        tables: The tables, to which the family's rungs were added.
        of: The family.
        on: The numbers of the examples to choose on; None for all.
        seed: The seed of the folds and of the intervals.
    """

    def __init__(self, tables: Tables, of: Family, *, on: Ints | None = None, seed: int = 0) -> None:
        self._tables, self._family, self._seed = tables, of, seed
        self._on = np.arange(len(tables.examples)) if on is None else on
        self._paths = {rung: tables.path(rung) for rung in of.rungs}
        fitter = Fitter(of, self._paths, tables.measure.per_query)
        fold = stream_rng(seed, Stream.FOLDS).permutation(len(self._on)) % N_FOLDS
        self._whole = fitter.fit(self._on)
        self._parts = [
            (fitter.fit(self._on[fold != f]), np.flatnonzero(fold == f)) for f in range(N_FOLDS) if f in fold
        ]

    def best(self, limits: Limits) -> PolicyChoice:
        """Choose the policy with the best score within limits.

        The simplest kind stays unless a more complex one has better cross-fitted scores, by `PAYS` standard
        errors of the paired difference.

        Args:
            limits: What a query may cost.

        Raises:
            UserError: No policy of the family is within the limits.
        """
        kinds = self._family.kinds
        kind, left_out = kinds[0], self._left_out(kinds[0], limits)
        for other in kinds[1:]:
            others = self._left_out(other, limits)
            gain = others.scores - left_out.scores
            noise = np.std(gain) / np.sqrt(len(gain))
            if np.isnan(left_out.scores).any() or gain.mean() > PAYS * noise + 1e-9:
                kind, left_out = other, others
        number = self._whole.best(limits, self._family.up_to(kind))
        if number is None:
            raise UserError(
                f"no policy costs at most {limits.mean:g} {self._tables.measure.name} per query on average; "
                "raise the budget"
            )
        return self._choice(number, left_out)

    def _left_out(self, kind: str, limits: Limits) -> _LeftOut:
        scores, fixed_scores = np.full((2, len(self._on)), np.nan)
        for fit, places in self._parts:
            number = fit.best(limits, self._family.up_to(kind))
            if number is None:
                continue
            scores[places] = fit.scores[number, self._on[places]]
            fixed = self._fixed(fit, number)
            if fixed is not None:
                fixed_scores[places] = fit.scores[fixed, self._on[places]]
        return _LeftOut(scores=scores, fixed_scores=fixed_scores)

    def _fixed(self, fit: Fit, number: int) -> int | None:
        """The best fixed allocation that costs no more than a sketch does."""
        cost = float(fit.costs[number, fit.on].mean())
        return fit.best(Limits(mean=cost + 1e-9), self._family.up_to(self._family.kinds[0]))

    def _choice(self, number: int, left_out: _LeftOut) -> PolicyChoice:
        sketch, fixed = self._family.sketches[number], self._fixed(self._whole, number)
        replayed = self._replayed(sketch)
        last, known = replayed.last_rung[:, self._on], ~np.isnan(replayed.scores[:, self._on])
        return PolicyChoice(
            policy=self._policy(sketch),
            kind=self._family.kind_of(number),
            search_score=float(self._whole.scores[number, self._on].mean()),
            cross_fitted_score=float(np.nanmean(left_out.scores)),
            cost=CostPerQuery.of(replayed.costs[:, self._on] + self._tables.measure.per_query),
            ended_at=tuple(float((last == k).mean()) for k in range(len(sketch.rungs))),
            known=float(known.all(axis=0).mean()),
            fixed=None if fixed is None else self._policy(self._family.sketches[fixed]),
            fixed_difference=self._difference(left_out),
        )

    def _difference(self, left_out: _LeftOut) -> Difference | None:
        if np.isnan(left_out.fixed_scores).any() or np.isnan(left_out.scores).any():
            return None
        ids = [self._tables.examples[i].id for i in self._on]
        return paired_difference(
            dict(zip(ids, left_out.scores.tolist(), strict=True)),
            dict(zip(ids, left_out.fixed_scores.tolist(), strict=True)),
            stream_rng(self._seed, Stream.POLICY_DIFFERENCE),
        )

    def _policy(self, sketch: Sketch) -> Policy:
        fitted = self._whole.confidences
        return Policy(
            rungs=sketch.rungs,
            thresholds=sketch.thresholds,
            confidences=tuple(fitted[rung] for rung in sketch.rungs) if sketch.thresholds else (),
        )

    def _replayed(self, sketch: Sketch) -> Replayed:
        return replay_policy(self._policy(sketch), [self._paths[rung] for rung in sketch.rungs])


def replay_policy(policy: Policy, paths: list[Path]) -> Replayed:
    """Replay a policy on the paths of its rungs; costs are without what the measure adds to every query."""
    if not policy.thresholds:
        return Steps.of(paths, [np.ones(paths[0].score.shape)]).until(())
    sure = [confidences(c, path.features) for c, path in zip(policy.confidences, paths, strict=True)]
    return Steps.of(paths, sure).until(policy.thresholds)
