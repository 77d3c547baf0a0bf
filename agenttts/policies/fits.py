"""A family with its confidences fitted on some examples, scored on all: one fold of a cross-fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agenttts.policies.cascades import scored
from agenttts.policies.confidence import confidences, fit_confidence
from agenttts.policies.family import Family
from agenttts.policies.nodes import Bools, Floats, Ints
from agenttts.policies.paths import Path
from pipelines.policy import Confidence, Rung

LEAST_KNOWN = 0.5
"""A policy is scored where this share of the examples has all samples that it needs."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a policy may cost per query.

    Attributes:
        mean: On average.
        dearest: At most, on every example; None for no limit.
    """

    mean: float
    dearest: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A family as it scores with confidences that were fitted on some of the examples.

    Attributes:
        on: The examples of the fit.
        confidences: By rung of a cascade.
        scores: Of shape [sketch, example], missing ones filled in; -inf for sketches that are hardly known.
        costs: Of shape [sketch, example], in the measure.
        dearest: The largest cost over the orders of the samples, of the same shape.
    """

    on: Ints
    confidences: Mapping[Rung, Confidence]
    scores: Floats
    costs: Floats
    dearest: Floats

    @cached_property
    def _means(self) -> tuple[Floats, Floats]:
        return self.scores[:, self.on].mean(axis=1), self.costs[:, self.on].mean(axis=1)

    def best(self, limits: Limits, among: Bools) -> int | None:
        """Return the sketch with the best mean score within limits; of equals, the cheapest.

        Args:
            limits: What it may cost.
            among: Which sketches to choose from.

        Returns:
            Its number; None where none is within the limits.
        """
        scores, costs = self._means
        allowed = among & np.isfinite(scores) & (costs <= limits.mean)
        if limits.dearest is not None:
            allowed &= self.dearest.max(axis=1) <= limits.dearest
        numbers = np.flatnonzero(allowed)
        if not numbers.size:
            return None
        return int(numbers[np.lexsort((costs[numbers], -np.round(scores[numbers], 9)))[0]])


class Fitter:
    """Fits a family on sets of examples.

    Args:
        of: The family.
        paths: The path of each of its rungs.
        per_query: What the measure adds to the cost of every query.
    """

    def __init__(self, of: Family, paths: Mapping[Rung, Path], per_query: float) -> None:
        self._paths, self._per_query = paths, per_query
        singles = [sketch for sketch in of.sketches if not sketch.thresholds]
        self._cascades = [sketch for sketch in of.sketches if sketch.thresholds]
        self._singles = scored(singles, paths, {}, per_query)
        assert list(of.sketches) == [*singles, *self._cascades]

    def fit(self, on: Ints) -> Fit:
        """Fit the confidences on examples and score every sketch on all examples."""
        models = dict[Rung, Confidence]()
        sure = dict[Rung, Floats]()
        for rung in dict.fromkeys(rung for sketch in self._cascades for rung in sketch.rungs):
            path = self._paths[rung]
            models[rung] = fit_confidence(path.names, path.features[:, on], path.score[:, on])
            sure[rung] = confidences(models[rung], path.features)
        cascades = scored(self._cascades, self._paths, sure, self._per_query)
        both = (self._singles, cascades)
        scores, costs = _filled(
            np.concatenate([part.scores for part in both]), np.concatenate([part.costs for part in both]), on
        )
        return Fit(
            on=on,
            confidences=models,
            scores=scores,
            costs=costs,
            dearest=np.concatenate([part.dearest for part in both]),
        )


def _filled(scores: Floats, costs: Floats, on: Ints) -> tuple[Floats, Floats]:
    """Fill in missing scores from the best-known sketch, shifted by the mean difference on the examples."""
    known = ~np.isnan(scores)
    if known.all():
        return scores, costs
    n_known = known[:, on].sum(axis=1)
    sums = np.where(known, scores, 0.0)[:, on].sum(axis=1)
    anchor = int(np.lexsort((-sums, -n_known))[0])
    base = np.where(known[anchor], scores[anchor], sums[anchor] / max(1, n_known[anchor]))
    shift = np.where(known, scores - base, 0.0)[:, on].sum(axis=1) / np.maximum(n_known, 1)
    cost = np.where(known, costs, 0.0)[:, on].sum(axis=1) / np.maximum(n_known, 1)
    scores = np.where(known, scores, base + shift[:, None])
    scores[n_known < LEAST_KNOWN * len(on)] = -np.inf
    return scores, np.where(known, costs, cost[:, None])
