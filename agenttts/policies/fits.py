"""A family with its confidences fitted on some examples, scored on all: one fold of a cross-fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agenttts.policies.cascades import Scored, scored
from agenttts.policies.confidence import confidences, fit_confidence
from agenttts.policies.family import Family
from agenttts.policies.nodes import Bools, Floats, Ints
from agenttts.policies.paths import Path
from pipelines.policy import Confidence, Rung


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a policy may cost per query.

    Attributes:
        mean: On average.
        dearest: At most, on every example; None for no limit.
        least_known: The share of the examples whose outcome must be known and not a guess.
    """

    mean: float
    dearest: float | None = None
    least_known: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A family as it scores with confidences that were fitted on some of the examples.

    Attributes:
        on: The examples of the fit.
        confidences: By rung of a cascade.
        scored: What the sketches come to.
    """

    on: Ints
    confidences: Mapping[Rung, Confidence]
    scored: Scored

    @cached_property
    def _means(self) -> tuple[Floats, Floats, Floats]:
        parts = (self.scored.scores, self.scored.costs, self.scored.known)
        scores, costs, known = (part[:, self.on].mean(axis=1) for part in parts)
        return scores, costs, known

    def best(self, limits: Limits, among: Bools, *, hope: float = 0.0) -> int | None:
        """Return the sketch with the best mean score within limits; of equals, the cheapest.

        Args:
            limits: What it may cost.
            among: Which sketches to choose from.
            hope: What is added to the score of an example that is a guess.

        Returns:
            Its number; None where none is within the limits.
        """
        scores, costs, known = self._means
        allowed = among & (costs <= limits.mean) & (known >= limits.least_known)
        if limits.dearest is not None:
            allowed &= self.scored.dearest[:, self.on].max(axis=1) <= limits.dearest
        numbers = np.flatnonzero(allowed)
        if not numbers.size:
            return None
        scores = scores + hope * (1 - known)
        return int(numbers[np.lexsort((costs[numbers], -np.round(scores[numbers], 9)))[0]])

    def unknown(self, least: float) -> Bools:
        """Return which sketches are known on a smaller share of the examples, of shape [sketch]."""
        return np.asarray(self._means[2] < least)


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
            seen = np.where(path.known, path.score, np.nan)
            models[rung] = fit_confidence(path.names, path.features[:, on], seen[:, on])
            sure[rung] = confidences(models[rung], path.features)
        cascades = scored(self._cascades, self._paths, sure, self._per_query)
        return Fit(on=on, confidences=models, scored=Scored.joined(self._singles, cascades))
