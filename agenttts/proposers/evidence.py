"""What a search knows of the scores of allocations: every cell of its trials, and what the bank answers.

A cell is one example with one allocation. Trials score the first examples, in the search's order, so that
two trials share the examples of the shorter one. Samples are nested and prompts shared, so that trials also
answer allocations that were never tried, in full or except for some examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from agenttts.proposers.base import SearchView
from agenttts.replay.arrays import Walk
from agenttts.results.trials import TrialResult
from pipelines.allocation import Allocation

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_BEST_ANSWERS, _OTHER_ANSWERS = 15, 30  # answers beside the trials: the best ones, others evenly
_LEAST_KNOWN = 0.8  # share of the examples that an answer rests on
_DOUBT = 0.1  # standard deviation of a score per share of the examples that is not known
_CELL = 0.15  # the variance of the score of an example


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Mean scores of allocations over blocks of the examples.

    Attributes:
        allocations: The allocations, those of trials first.
        n_examples: The number of all examples.
        rows: The place of each observation's allocation, of shape [observation].
        weights: The share of each observation's examples that lies in each block, of shape
            [observation, block].
        sizes: The number of examples in each block.
        means: The mean score of each observation.
        variances: The variance of each observation that does not come from its examples.
        scores: The scores of the trials' cells, of shape [trial, example]; NaN where there is none.
        counts: On how many examples each allocation was tried; without the allocations that only the bank
            answers.
        settled: The allocations that the bank answers in full, and which were not tried in full.
    """

    allocations: tuple[Allocation, ...]
    n_examples: int
    rows: _Ints
    weights: _Floats
    sizes: _Floats
    means: _Floats
    variances: _Floats
    scores: _Floats
    counts: Mapping[Allocation, int]
    settled: Mapping[Allocation, float]

    def known(self, allocation: Allocation) -> bool:
        """Return whether the score of an allocation on all examples is known."""
        return self.counts.get(allocation) == self.n_examples or allocation in self.settled

    def supposing(
        self, allocations: Sequence[Allocation], scores: Sequence[float], stds: Sequence[float] = ()
    ) -> Evidence:
        """Return the evidence as it is when allocations score as supposed on all examples.

        Args:
            allocations: The allocations.
            scores: Their scores.
            stds: The standard deviations of these scores; empty where they are sure.
        """
        every = tuple(dict.fromkeys([*self.allocations, *allocations]))
        count = len(allocations)
        whole = np.tile(self.sizes / self.sizes.sum(), (count, 1))
        return replace(
            self,
            allocations=every,
            rows=np.concatenate([self.rows, [every.index(a) for a in allocations]]).astype(np.int64),
            weights=np.concatenate([self.weights, whole]),
            means=np.concatenate([self.means, scores]),
            variances=np.concatenate([self.variances, np.square(stds) if len(stds) else np.zeros(count)]),
        )

    @classmethod
    def of_scores(cls, allocations: Sequence[Allocation], scores: Sequence[float]) -> Evidence:
        """Return evidence that is nothing but scores on all examples.

        Args:
            allocations: The allocations.
            scores: Their mean scores, 0 to 1.
        """
        count = len(allocations)
        return cls(
            allocations=tuple(allocations),
            n_examples=1,
            rows=np.arange(count),
            weights=np.ones((count, 1)),
            sizes=np.ones(1),
            means=np.asarray(scores, dtype=np.float64),
            variances=np.zeros(count),
            scores=np.zeros((0, 1)),
            counts=dict.fromkeys(allocations, 1),
            settled={},
        )


def gather(view: SearchView, candidates: Sequence[Allocation], *, bank: bool) -> Evidence | None:
    """Gather what is known.

    Args:
        view: What the proposer may know.
        candidates: Allocations that the bank may answer.
        bank: Whether it is asked.

    Returns:
        The evidence; None while no example has a score.
    """
    trials = [t for t in view.trials if t.status in ("complete", "partial") and t.n_scored]
    if not trials:
        return None
    scores = np.full((len(trials), view.n_examples), np.nan)
    for i, trial in enumerate(trials):
        values = list(trial.scores.values())
        scores[i, : len(values)] = [np.nan if value is None else value for value in values]
    ends = sorted({len(trial.scores) for trial in trials})
    starts = [0, *ends[:-1]]
    rows, weights, means, variances = [], [], [], []
    for j, (start, end) in enumerate(zip(starts, ends, strict=True)):
        part = scores[:, start:end]
        present = (~np.isnan(part)).sum(axis=1)
        for i, trial in enumerate(trials):
            if len(trial.scores) >= end and present[i]:
                rows.append(i)
                weights.append(np.eye(len(ends))[j])
                means.append(float(np.nanmean(part[i])))
                variances.append(_CELL * (1 / present[i] - 1 / (end - start)))
    known = [trial.allocation for trial in trials]
    answers = _answers(view, trials, scores, ends, candidates) if bank else _NONE
    listed = answers.chosen()
    for i in listed:
        end = answers.ends[i]
        rows.append(len(known))
        known.append(answers.allocations[i])
        weights.append(
            np.array([(e - s) / end if e <= end else 0.0 for s, e in zip(starts, ends, strict=True)])
        )
        means.append(float(answers.means[i]))
        variances.append(float(answers.stds[i] ** 2))
    full = [i for i, std in enumerate(answers.stds) if answers.ends[i] == view.n_examples and not std]
    evidence = Evidence(
        allocations=tuple(known),
        n_examples=view.n_examples,
        rows=np.array(rows),
        weights=np.array(weights),
        sizes=np.diff([0, *ends]).astype(np.float64),
        means=np.array(means),
        variances=np.array(variances),
        scores=scores,
        counts={trial.allocation: len(trial.scores) for trial in trials},
        settled={answers.allocations[i]: float(answers.means[i]) for i in full},
    )
    beliefs = [belief for belief in view.beliefs if belief.allocation not in evidence.counts]
    return evidence.supposing(
        [belief.allocation for belief in beliefs],
        [belief.score for belief in beliefs],
        [belief.std for belief in beliefs],
    )


@dataclass(frozen=True)
class _Answers:
    """What the bank says of allocations: their mean scores over the first `ends` examples."""

    allocations: Sequence[Allocation]
    ends: _Ints
    means: _Floats
    stds: _Floats

    def chosen(self) -> list[int]:
        """Return the places of the best answers, and of others evenly down to the worst."""
        order = np.argsort(self.stds - self.means, kind="stable")
        rest = order[_BEST_ANSWERS:]
        step = max(1.0, len(rest) / _OTHER_ANSWERS)
        evenly = [rest[int(i * step)] for i in range(min(len(rest), _OTHER_ANSWERS))]
        return [int(i) for i in [*order[:_BEST_ANSWERS], *evenly]]


_NONE = _Answers((), np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))


def _answers(
    view: SearchView,
    trials: Sequence[TrialResult],
    scores: _Floats,
    ends: Sequence[int],
    candidates: Sequence[Allocation],
) -> _Answers:
    """Return what the bank says of candidates that were never tried.

    Examples that it does not know are assumed to score as in the trial nearest to the candidate.
    """
    others = _drawn(candidates, [t.allocation for t in trials])
    if view.bank is None or not others:
        return _NONE
    walk: Walk = view.bank.answer(others)
    known = walk.known & ~np.isnan(walk.scores)
    shares = np.cumsum(known, axis=1)[:, np.array(ends) - 1] / np.array(ends)
    enough = shares >= _LEAST_KNOWN
    answered = np.flatnonzero(enough.any(axis=1))
    last = enough.shape[1] - 1 - enough[:, ::-1].argmax(axis=1)  # the largest part that is known well enough
    distances = _distances([others[i] for i in answered], [t.allocation for t in trials])
    lengths = np.array([len(trial.scores) for trial in trials])
    means, stds = [], []
    for i, distance in zip(answered, distances, strict=True):
        end = ends[last[i]]
        near = np.where(lengths >= end, distance, np.inf).argmin()
        likely = scores[near, :end]
        filled = np.where(np.isnan(likely), np.nanmean(likely), likely)
        means.append(np.where(known[i, :end], walk.scores[i, :end], filled).mean())
        missing = 1 - shares[i, last[i]]
        stds.append(np.sqrt((_DOUBT * missing) ** 2 + _CELL * missing / end))
    return _Answers(
        [others[i] for i in answered], np.array(ends)[last[answered]], np.array(means), np.array(stds)
    )


def _drawn(candidates: Sequence[Allocation], tried: Sequence[Allocation]) -> list[Allocation]:
    """Return the untried candidates each of whose stages takes no more samples than a trial drew for it."""
    most: dict[tuple[str, str], int] = {}
    for allocation in tried:
        for stage, choice in allocation.items():
            at = stage, choice.option.drawn
            most[at] = max(most.get(at, 0), choice.n_samples)
    known = set(tried)
    return [
        a
        for a in candidates
        if all(most.get((stage, c.option.drawn), 0) >= c.n_samples for stage, c in a.items())
        and a not in known
    ]


def _distances(left: Sequence[Allocation], right: Sequence[Allocation]) -> _Floats:
    """Return distances in log2 of n, another option counting as 3, of shape [left, right]."""
    distances: _Floats = np.zeros((len(left), len(right)))
    for stage in right[0]:
        options = [np.array([str(a[stage].option) for a in group]) for group in (left, right)]
        counts = [np.log2([a[stage].n_samples for a in group]) for group in (left, right)]
        distances += 3.0 * (options[0][:, None] != options[1][None, :])
        distances += np.abs(counts[0][:, None] - counts[1][None, :])
    return distances
