"""What cascades of rungs score and cost on recorded samples, given each rung's confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agenttts.policies.nodes import NOTHING, UNKNOWN, Bools, Floats, Ints
from agenttts.policies.paths import Path
from pipelines.policy import Rung


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A policy without its confidences, which are fitted to the examples at hand.

    Attributes:
        rungs: The rungs.
        thresholds: One fewer.
    """

    rungs: tuple[Rung, ...]
    thresholds: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a cascade comes to. Arrays are of shape [order, example].

    Attributes:
        scores: The score of the outcome that stands; NaN where a sample that it needs was never drawn.
        costs: Without what the measure adds to every query.
        last_rung: The last rung that ran.
        known: Where every rung that ran is known.
    """

    scores: Floats
    costs: Floats
    last_rung: Ints
    known: Bools


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What stands after each rung of a cascade, if all rungs run. Lists are by rung.

    Attributes:
        scores: The score of the outcome that stands, each of shape [order, example].
        confidences: How sure it is.
        costs: What the rung adds to those before.
        known: Where the rung is known.
    """

    scores: list[Floats]
    confidences: list[Floats]
    costs: list[Floats]
    known: list[Bools]

    @classmethod
    def of(cls, paths: Sequence[Path], sure: Sequence[Floats]) -> Steps:
        """Let rungs run one after the other; `pipelines.policy.standing` says what stands.

        Args:
            paths: The paths of the rungs.
            sure: The confidences of the rungs' own outcomes, each of shape [order, example].
        """
        own = [_doubt(path, of) for path, of in zip(paths, sure, strict=True)]
        joint = [own[0]]  # the doubt that is left of each rung's answer, with all that agree
        steps = cls(
            scores=[paths[0].score],
            confidences=[1 - own[0]],
            costs=[paths[0].further_cost(())],
            known=[path.known for path in paths],
        )
        for k, path in enumerate(paths[1:], start=1):
            mine = own[k]
            for i, before in reversed(list(enumerate(paths[:k]))):
                agree = path.answer == before.answer
                joint[i] = np.where(agree, joint[i] * own[k], joint[i])
                mine = np.where(agree, joint[i], mine)
            joint.append(mine)
            doubts = np.stack(joint)
            surest = np.argmin(doubts, axis=0)[None]  # of equals the earliest
            scores = np.take_along_axis(np.stack([p.score for p in paths[: k + 1]]), surest, 0)[0]
            missing = np.isnan(path.score) | np.isnan(steps.scores[-1])
            steps.scores.append(np.where(missing, np.nan, scores))
            steps.confidences.append(1 - np.take_along_axis(doubts, surest, 0)[0])
            steps.costs.append(path.further_cost(paths[:k]))
        return steps

    def until(self, thresholds: Sequence[float]) -> Replayed:
        """Return what the cascade with these thresholds comes to."""
        scores, costs = self.scores[0], self.costs[0]
        runs, known = np.ones(scores.shape, bool), self.known[0]
        last: Ints = np.zeros(scores.shape, np.int64)
        for k, threshold in enumerate(thresholds, start=1):
            runs = runs & (self.confidences[k - 1] < threshold)
            scores = np.where(runs, self.scores[k], scores)
            costs = costs + runs * self.costs[k]
            last = np.where(runs, k, last)
            known = known & (~runs | self.known[k])
        return Replayed(scores=scores, costs=costs, last_rung=last, known=known)


def _doubt(path: Path, sure: Floats) -> Floats:
    nothing = (path.answer == NOTHING) | (path.answer == UNKNOWN)
    sure = sure if path.guessed is None else np.where(path.guessed, path.score, sure)
    return np.where(nothing, 1.0, 1.0 - sure)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What many sketches come to. Arrays are of shape [sketch, example].

    Scores and costs are means over the orders where all orders are known; else those of the first, which is
    the only one that a live run draws samples for.

    Attributes:
        scores: The scores.
        costs: In the measure of the budget.
        dearest: The largest cost over the same orders.
        known: Whether the outcome in the first order is known, and not a guess.
    """

    scores: Floats
    costs: Floats
    dearest: Floats
    known: Bools

    @classmethod
    def joined(cls, first: Scored, second: Scored) -> Scored:
        """Return the sketches of two, one after the other."""
        return cls(
            scores=np.concatenate([first.scores, second.scores]),
            costs=np.concatenate([first.costs, second.costs]),
            dearest=np.concatenate([first.dearest, second.dearest]),
            known=np.concatenate([first.known, second.known]),
        )


def scored(
    sketches: Sequence[Sketch],
    paths: Mapping[Rung, Path],
    sure: Mapping[Rung, Floats],
    per_query: float,
) -> Scored:
    """Score sketches.

    Args:
        sketches: The sketches; those of the same rungs stand together.
        paths: The path of each rung.
        sure: The confidences of the outcomes of each rung of a cascade, of shape [order, example].
        per_query: What is added to the cost of every query.
    """
    shape = (len(sketches), next(iter(paths.values())).score.shape[1] if paths else 0)
    scores, costs, dearest = np.empty(shape), np.empty(shape), np.empty(shape)
    known = np.zeros(shape, bool)
    rungs: tuple[Rung, ...] = ()
    for i, sketch in enumerate(sketches):
        if sketch.rungs != rungs:
            rungs = sketch.rungs
            of = [paths[rung] for rung in rungs]
            confident = [sure[rung] for rung in rungs] if len(rungs) > 1 else [np.ones(of[0].score.shape)]
            steps = Steps.of(of, confident)
        result = steps.until(sketch.thresholds)
        whole, known[i] = result.known.all(axis=0), result.known[0]
        scores[i] = np.where(whole, result.scores.mean(axis=0), result.scores[0])
        costs[i] = np.where(whole, result.costs.mean(axis=0), result.costs[0]) + per_query
        dearest[i] = np.where(whole, result.costs.max(axis=0), result.costs[0]) + per_query
    return Scored(scores=scores, costs=costs, dearest=dearest, known=known)
