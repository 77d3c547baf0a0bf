"""Choosing a policy within a budget, and what it is estimated to score and cost.

All that is fitted or chosen is fitted and chosen again without each fifth of the examples, which is then
scored: the cross-fitted score. The score on the examples of the choice itself is too high, of 50 examples by
up to 0.05 on recorded samples. A more complex kind of policy is chosen only where its cross-fitted scores are
better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agenttts.errors import UserError
from agenttts.policies.cascades import Replayed, Sketch, Steps
from agenttts.policies.confidence import confidences
from agenttts.policies.family import Family
from agenttts.policies.fits import Fit, Fitter, Limits
from agenttts.policies.guesses import with_guesses
from agenttts.policies.nodes import Floats, Ints
from agenttts.policies.paths import Path
from agenttts.policies.rates import Rates
from agenttts.results.adaptive import CostPerQuery, FrontPoint, PolicyChoice, ReliabilityPoint
from agenttts.stats import Difference, Interval, Stream, mean_interval, paired_difference, stream_rng
from pipelines.policy import Policy, Rung

N_FOLDS, N_BINS = 5, 10
PAYS = 0.25
"""A more complex kind must be better by this many standard errors of the paired difference."""
HOPE = 0.1
"""How much better than its guess an outcome may be that samples are drawn for."""
FRONT = (0.15, 0.25, 0.4, 0.6, 0.8, 1.0, 1.4, 2.0)
"""Parts of the budget at which the figure of scores against cost has a point of each kind."""


@dataclass(frozen=True, kw_only=True)
class _LeftOut:
    """What is chosen without each fold, on the examples of that fold. Arrays are of shape [example].

    Attributes:
        scores: Of the policy; NaN where none is within the limits.
        costs: Its costs.
        fixed_scores: Of the best fixed allocation that costs no more; NaN where there is none.
    """

    scores: Floats
    costs: Floats
    fixed_scores: Floats

    @property
    def is_whole(self) -> bool:
        """Whether a policy was within the limits in every fold."""
        return not np.isnan(self.scores).any()


class Choices:
    """Chooses policies of a family for any budget; the fits are made once for all.

    Args:
        of: The family.
        paths: The path of each of its rungs.
        rates: What the budget is measured in.
        on: The numbers of the examples to choose on; None for all.
        seed: The seed of the folds and of the intervals.
    """

    def __init__(
        self,
        of: Family,
        paths: Mapping[Rung, Path],
        rates: Rates,
        *,
        on: Ints | None = None,
        seed: int = 0,
    ) -> None:
        n_examples = next(iter(paths.values())).score.shape[1]
        self._on: Ints = np.arange(n_examples) if on is None else on
        self._paths, self._rates, self._seed = with_guesses(paths, self._on), rates, seed
        self._family = of.among(self._paths)
        fitter = Fitter(self._family, self._paths, rates.per_query)
        fold = stream_rng(seed, Stream.FOLDS).permutation(len(self._on)) % N_FOLDS
        self._whole = fitter.fit(self._on)
        self._parts = [
            (fitter.fit(self._on[fold != f]), np.flatnonzero(fold == f)) for f in range(N_FOLDS) if f in fold
        ]

    def best(self, limits: Limits, *, kind: str | None = None) -> PolicyChoice:
        """Choose the policy with the best score within limits.

        The simplest kind stays unless a more complex one has better cross-fitted scores, by `PAYS` standard
        errors of the paired difference.

        Args:
            limits: What a query may cost.
            kind: Choose from this kind and all simpler ones, whatever pays; None for the rule above.

        Raises:
            UserError: No policy of the family is within the limits.
        """
        if not self._family.kinds:
            raise UserError("no policy has enough recorded samples; run allocations first")
        chosen, left_out = self._kind(limits) if kind is None else (kind, self._left_out(kind, limits))
        number = self._whole.best(limits, self._family.up_to(chosen))
        if number is None:
            raise UserError(
                f"no policy costs at most {limits.mean:g} {self._rates.measure} per query on average; "
                "raise the budget"
            )
        return self._choice(number, left_out)

    def _kind(self, limits: Limits) -> tuple[str, _LeftOut]:
        first, *others = self._family.kinds
        kind, left_out = first, self._left_out(first, limits)
        for other in others:
            further = self._left_out(other, limits)
            gain = further.scores - left_out.scores
            noise = np.std(gain) / np.sqrt(len(gain))
            if not left_out.is_whole or gain.mean() > PAYS * noise + 1e-9:
                kind, left_out = other, further
        return kind, left_out

    def wanted(self, limits: Limits) -> Policy | None:
        """Return the policy whose missing samples are most worth drawing.

        Of the policies that stop early or escalate and are not known well enough for a final choice, it is
        the best, each guessed outcome taken to be `HOPE` better than the guess.

        Args:
            limits: What a query may cost; `least_known` is what a final choice asks for.

        Returns:
            The policy, to be run on the examples; None where all that are within the limits are known.
        """
        simpler = [kind for kind in self._family.kinds if kind in ("fixed", "weighted")]
        among = self._whole.unknown(limits.least_known)
        if simpler:
            among &= ~self._family.up_to(simpler[-1])
        number = self._whole.best(replace(limits, least_known=0.0), among, hope=HOPE)
        return None if number is None else self._policy(self._family.sketches[number])

    def front(self, limits: Limits) -> tuple[FrontPoint, ...]:
        """Return cross-fitted scores against cost, for each kind at parts and multiples of a budget."""
        points = []
        for kind in self._family.kinds:
            for part in FRONT:
                left_out = self._left_out(kind, replace(limits, mean=limits.mean * part))
                if left_out.is_whole:
                    score, cost = float(left_out.scores.mean()), float(left_out.costs.mean())
                    points.append(FrontPoint(kind=kind, cost=cost, score=score))
        return tuple(points)

    def _left_out(self, kind: str, limits: Limits) -> _LeftOut:
        scores, costs, fixed_scores = np.full((3, len(self._on)), np.nan)
        for fit, places in self._parts:
            number = fit.best(limits, self._family.up_to(kind))
            if number is None:
                continue
            examples = self._on[places]
            scores[places], costs[places] = (
                fit.scored.scores[number, examples],
                fit.scored.costs[number, examples],
            )
            fixed = self._fixed(fit, number)
            if fixed is not None:
                fixed_scores[places] = fit.scored.scores[fixed, examples]
        return _LeftOut(scores=scores, costs=costs, fixed_scores=fixed_scores)

    def _fixed(self, fit: Fit, number: int) -> int | None:
        """The best fixed allocation that costs no more than a sketch does."""
        if self._family.kinds[0] != "fixed":
            return None
        cost = float(fit.scored.costs[number, fit.on].mean())
        return fit.best(Limits(mean=cost + 1e-9), self._family.up_to("fixed"))

    def _choice(self, number: int, left_out: _LeftOut) -> PolicyChoice:
        sketch, fixed = self._family.sketches[number], self._fixed(self._whole, number)
        replayed = self._replayed(sketch)
        known = replayed.known[:, self._on]
        used = known.all(axis=0) | (np.arange(len(known)) == 0)[:, None]  # as `Scored` does
        last, costs = replayed.last_rung[:, self._on][used], replayed.costs[:, self._on][used]
        has_fixed = fixed is not None and not np.isnan(left_out.fixed_scores).any()
        return PolicyChoice(
            policy=self._policy(sketch),
            kind=self._family.kind_of(number),
            search_score=float(self._whole.scored.scores[number, self._on].mean()),
            cross_fitted_score=self._interval(left_out.scores),
            cost=CostPerQuery.of(costs + self._rates.per_query),
            ended_at=tuple(float((last == k).mean()) for k in range(len(sketch.rungs))),
            known=float(known[0].mean()),
            fixed=self._family.sketches[fixed].rungs[0].allocation if fixed is not None else None,
            fixed_score=self._interval(left_out.fixed_scores) if has_fixed else None,
            fixed_difference=self._difference(left_out) if has_fixed and left_out.is_whole else None,
            n_policies=len(self._family.sketches),
            reliability=self._reliability(sketch.rungs[0]) if sketch.thresholds else (),
        )

    def _interval(self, scores: Floats) -> Interval:
        present = scores[~np.isnan(scores)].tolist()
        interval = mean_interval(present, stream_rng(self._seed, Stream.POLICY_DIFFERENCE))
        return interval or Interval(mean=0.0, low=0.0, high=1.0, n=0)

    def _difference(self, left_out: _LeftOut) -> Difference:
        ids = [str(i) for i in self._on]
        return paired_difference(
            dict(zip(ids, left_out.scores.tolist(), strict=True)),
            dict(zip(ids, left_out.fixed_scores.tolist(), strict=True)),
            stream_rng(self._seed, Stream.POLICY_DIFFERENCE),
        )

    def _reliability(self, rung: Rung) -> tuple[ReliabilityPoint, ...]:
        """Compare the confidences of left-out examples with their scores, in bins of equal numbers."""
        path = self._paths[rung]
        parts = [(fit.confidences[rung], self._on[places]) for fit, places in self._parts]
        sure = np.concatenate([confidences(of, path.features[:, at]) for of, at in parts], axis=1)
        known = np.concatenate([path.known[:, at] for _, at in parts], axis=1)
        scores = np.concatenate([path.score[:, at] for _, at in parts], axis=1)[known]
        sure = sure[known]
        bins = np.array_split(np.argsort(sure), N_BINS)
        return tuple(
            ReliabilityPoint(
                confidence=float(sure[of].mean()),
                score=float(scores[of].mean()),
                share=len(of) / len(sure),
            )
            for of in bins
            if len(of)
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


def replay_policy(policy: Policy, paths: Sequence[Path]) -> Replayed:
    """Replay a policy on the paths of its rungs.

    Args:
        policy: The policy.
        paths: The path of each rung.

    Returns:
        What it comes to; costs are without what the measure adds to every query.
    """
    if not policy.thresholds:
        return Steps.of(paths, [np.ones(paths[0].score.shape)]).until(())
    sure = [confidences(c, path.features) for c, path in zip(policy.confidences, paths, strict=True)]
    return Steps.of(paths, sure).until(policy.thresholds)
