"""A proposer that uses the bank as a model of the pipeline: allocations are scored without drawing samples.

Samples are nested and prompts shared, so that a trial answers other allocations too, in full or except for
some examples. The Gaussian process of `gp` is fitted to the trials and these answers; the next trial is the
allocation with the largest expected gain over the best answer. At the end the best allocations that are
answered in full and were never trials are named as finalists. Unlike the rules it assumes no insight
beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr  # type: ignore[import-untyped]

from agenttts.proposers import moves, wording
from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.proposers.gp import Estimate
from agenttts.proposers.moves import Move
from agenttts.results.trials import TrialResult
from pipelines.allocation import Allocation

_LISTED = 1_500  # grids up to this size are looked at as a whole
_DRAWN = 1_000  # allocations drawn from larger ones
_BASES = 4  # moves start from this many of the best trials
_ANSWERS = 80  # answers beside the trials that curves are fitted through
_LEAST_KNOWN = 0.8  # share of the examples that an answer rests on
_DOUBT = 0.1  # standard deviation of a score per share of the examples that is not known
_HELPS = 0.0005  # examples: an allocation is tried while its expected gain is worth this many
_FINALISTS = 3
_SHOWN = 6
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """What the trials and the bank say of one allocation.

    Attributes:
        allocation: The allocation.
        score: Its mean score.
        std: Standard deviation of the score; 0 when the answer is in full, on all examples.
        fitted: Whether the Gaussian process is always fitted to it, however many answers there are.
    """

    allocation: Allocation
    score: float
    std: float = 0.0
    fitted: bool = False


@dataclass(frozen=True)
class Expectation:
    """The expected score of an untried allocation.

    Attributes:
        allocation: The allocation.
        score: The expected score.
        std: Its standard deviation.
    """

    allocation: Allocation
    score: float
    std: float


@dataclass(frozen=True)
class Outlook:
    """What the solver expects of the trials to come.

    Attributes:
        expected: The most promising untried allocations, best first.
        next: The allocations that the solver would suggest now.
    """

    expected: tuple[Expectation, ...]
    next: tuple[Allocation, ...]


class SolverProposer:
    """Proposes the allocations with the largest expected gain. The same view gives the same turn.

    Draws from large spaces are seeded by the view.

    Args:
        bank: Whether the bank scores allocations that were not trials; off to measure what that contributes.
        finalists: Whether finalists are named; off to measure what that contributes.
    """

    name = "solve"
    batch = 1

    def __init__(self, *, bank: bool = True, finalists: bool = True) -> None:
        self._uses_bank = bank
        self._names_finalists = bank and finalists

    async def propose(self, view: SearchView, count: int) -> Turn:
        """Suggest allocations, as `decide`."""
        return self.decide(view, count)

    def decide(self, view: SearchView, count: int, taken: Iterable[Allocation] = ()) -> Turn:
        """Suggest allocations.

        Args:
            view: What the proposer may know.
            count: The largest number of suggestions.
            taken: Allocations that are suggested already, which are left out.

        Returns:
            The turn; `finished` when no allocation is expected to help.
        """
        lessons = tuple(wording.lessons(view))
        suggestions: list[Suggestion] = []
        planned = list(taken)
        finished = None
        candidates = self._candidates(view)
        answers = self._answers(view, candidates) if view.scored else []
        while len(suggestions) < count and finished is None:
            step = self._next(view, candidates, answers, planned) if view.scored else _start(view, planned)
            if isinstance(step, str):
                finished = step
            else:
                suggestions.append(step)
                planned.append(step.allocation)
        return Turn(tuple(suggestions), lessons, finished if not suggestions else None)

    def finalists(self, view: SearchView) -> Sequence[Allocation]:
        """Return the best untried allocations that are answered in full.

        Args:
            view: What the proposer may know.

        Returns:
            Every such allocation on the frontier when that is sought; with a required quality the cheapest
            allocation that reaches it; else the best few, best first.
        """
        if not self._names_finalists or view.bank is None or not view.scored:
            return ()
        candidates = list(dict.fromkeys([*self._candidates(view), *_prefixes(view.scored)]))
        candidates = [c for c in candidates if c in view.space]
        full = [a for a in self._answers(view, candidates) if not a.std and a.allocation not in view.tried]
        if view.frontier:
            tried = [Answer(t.allocation, t.score or 0.0) for t in view.scored]
            front = [a.allocation for a in _front(view, [*tried, *full])]
            return [a for a in front if a not in view.tried]
        cheapest = _cheapest_of_quality(view, full)
        if cheapest is not None:
            return [cheapest.allocation]
        full.sort(key=lambda answer: (-answer.score, view.space.units(answer.allocation)))
        return [answer.allocation for answer in full[:_FINALISTS]]

    def outlook(self, view: SearchView) -> Outlook | None:
        """Return what is expected of the best untried allocations.

        Args:
            view: What the proposer may know.

        Returns:
            The outlook; None without a trial that has a score, or when every candidate was tried.
        """
        candidates = [c for c in self._candidates(view) if c not in view.tried] if view.scored else []
        if not candidates:
            return None
        answers = self._answers(view, candidates)
        estimate = _fit(answers)
        gains = estimate.expected_gain(candidates, max(a.score for a in answers if not a.std))
        order = np.argsort(-gains, kind="stable")[:_SHOWN]
        shown = [candidates[i] for i in order]
        means, stds = estimate.predict(shown)
        return Outlook(
            tuple(Expectation(a, float(m), float(s)) for a, m, s in zip(shown, means, stds, strict=True)),
            tuple(suggestion.allocation for suggestion in self.decide(view, 2).suggestions),
        )

    def _next(
        self,
        view: SearchView,
        candidates: Sequence[Allocation],
        answers: Sequence[Answer],
        planned: Sequence[Allocation],
    ) -> Suggestion | str:
        """Return the next suggestion, or why there is none."""
        estimate = _fit(answers)
        if planned:  # several at once: take what is planned to score as expected
            means, _ = estimate.predict(planned)
            expected = [Answer(a, float(mean), fitted=True) for a, mean in zip(planned, means, strict=True)]
            answers = [*answers, *expected]
            estimate = _fit(answers)
        best = max((a for a in answers if not a.std), key=lambda a: a.score)
        settled = {a.allocation for a in answers if not a.std} if self._names_finalists else set()
        untried = [c for c in candidates if c not in settled and c not in view.tried and c not in planned]
        if not untried:
            return "every allocation of the space was tried, or is answered by samples paid for"
        cheapest = _cheapest_of_quality(view, answers)
        if view.frontier:
            gains = _area_gains(view, estimate, _front(view, answers), untried)
        elif cheapest is not None:
            gains = _savings(view, estimate, cheapest, untried)
        else:
            gains = estimate.expected_gain(untried, best.score)
        pick = int(np.argmax(gains))
        if gains[pick] * view.n_examples < _HELPS:
            sought = "raise the frontier" if view.frontier else f"beat {best.allocation} ({best.score:.3f})"
            if cheapest is not None:
                sought = f"cost less than {cheapest.allocation}"
                return f"no untried allocation of that quality is expected to {sought}"
            return f"no untried allocation is expected to {sought} by as much as {_HELPS:g} of an example"
        (mean,), (std,) = estimate.predict([untried[pick]])
        return Suggestion(
            untried[pick],
            f"{untried[pick]}: expected {mean:.3f} ± {std:.3f} against {best.score:.3f} of the best, "
            f"{view.space.share_text(untried[pick])}.",
        )

    def _candidates(self, view: SearchView) -> list[Allocation]:
        """Return a grid over the space, or a seeded draw when it is large, and all moves from the best
        trials.
        """
        space = view.space
        rng = np.random.default_rng([view.seed, len(view.trials)])
        near: list[Move] = []
        for base in sorted(view.scored, key=lambda t: (-(t.score or 0.0), t.number))[:_BASES]:
            near += moves.around(space, base.allocation, base.number)
        anywhere = moves.grid(space, _LISTED)
        if anywhere is None:
            anywhere = [moves.drawn(space, rng) for _ in range(_DRAWN)]
        every = [*near, *(Move(allocation, "explore") for allocation in anywhere)]
        return [move.allocation for move in moves.untried(every, (), space)]

    def _answers(self, view: SearchView, candidates: Sequence[Allocation]) -> list[Answer]:
        """Return the trials, what is believed beforehand, then what the bank says of other candidates, the
        best first.

        Examples that the bank does not know are assumed to score as in the trial nearest to the candidate.
        """
        answers = [Answer(t.allocation, t.score or 0.0, fitted=True) for t in view.scored]
        tried = {answer.allocation for answer in answers}
        answers += [Answer(b.allocation, b.score, b.std, fitted=True) for b in view.beliefs]
        others = [c for c in candidates if c not in tried]
        if view.bank is None or not self._uses_bank or not others:
            return answers
        walk = view.bank.answer(others)
        known = walk.known & ~np.isnan(walk.scores)
        share = known.mean(axis=1)
        answered = np.flatnonzero(share >= _LEAST_KNOWN)
        if not len(answered):
            return answers
        trial_scores = np.array([_scores(trial) for trial in view.scored])
        filled = np.where(np.isnan(trial_scores), np.nanmean(trial_scores), trial_scores)
        distances = _distances([others[i] for i in answered], [t.allocation for t in view.scored])
        likely = filled[distances.argmin(axis=1)]
        means = np.where(known[answered], walk.scores[answered], likely).mean(axis=1)
        stds = _DOUBT * (1 - share[answered])
        for i in np.argsort(stds - means, kind="stable"):
            answers.append(Answer(others[answered[i]], float(means[i]), float(stds[i])))
        return answers


def _front(view: SearchView, answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers in full that no other beats for as few units, cheapest first."""
    full = [a for a in answers if not a.std]
    front: list[Answer] = []
    for answer in sorted(full, key=lambda a: (view.space.units(a.allocation), -a.score)):
        if not front or answer.score > front[-1].score:
            front.append(answer)
    return front


def _cheapest_of_quality(view: SearchView, answers: Sequence[Answer]) -> Answer | None:
    """Return the cheapest answer in full of the required quality; None when none is required or reached."""
    if view.goal.min_quality is None:
        return None
    sufficient = [a for a in answers if not a.std and a.score >= view.goal.min_quality]
    return min(
        sufficient, key=lambda a: (view.burden(a.allocation), view.space.units(a.allocation)), default=None
    )


def _savings(
    view: SearchView, estimate: Estimate, cheapest: Answer, untried: Sequence[Allocation]
) -> _Floats:
    """Return the share of the budget, or of the seconds, that each is expected to save at the required
    quality.
    """
    assert view.goal.min_quality is not None
    means, stds = estimate.predict(untried)
    chance = ndtr((means - view.goal.min_quality) / np.maximum(stds, 1e-9))
    now = view.burden(cheapest.allocation)
    burdens = np.array([view.burden(a) for a in untried])
    whole = now if view.goal.objective == "latency" else view.space.budget_units
    savings: _Floats = chance * (np.maximum(0.0, now - burdens) / whole)
    return savings


def _area_gains(
    view: SearchView, estimate: Estimate, front: Sequence[Answer], untried: Sequence[Allocation]
) -> _Floats:
    """Return how much each is expected to raise the mean best score over all costs up to the budget."""
    budget = view.space.budget_units
    units = np.array([max(0.0, view.space.units(a)) for a in untried])
    starts = [0.0, *(max(0.0, view.space.units(a.allocation)) for a in front)]
    levels = [0.0, *(a.score for a in front)]
    gains = estimate.expected_gains(untried, levels)
    area: _Floats = np.zeros(len(untried))
    for gain, start, end in zip(gains, starts, [*starts[1:], budget], strict=True):
        area += gain * np.maximum(0.0, end - np.maximum(start, units)) / budget
    return area


def _start(view: SearchView, planned: Sequence[Allocation]) -> Suggestion | str:
    """Suggest an untried default, dearest model first, or a random allocation, as long as nothing has a
    score.
    """
    rng = np.random.default_rng([view.seed, len(view.trials), len(planned)])
    draws = (moves.drawn(view.space, rng) for _ in range(100))
    for allocation in [*reversed(view.space.defaults()), *draws]:
        if allocation not in view.tried and allocation not in planned:
            return Suggestion(allocation, "Nothing has a score yet: a place to start from.")
    return "every allocation that was tried has failed"


def _fit(answers: Sequence[Answer]) -> Estimate:
    """Fit the Gaussian process to the trials and to some of the other answers, evenly from best to worst."""
    chosen = [a for a in answers if a.fitted]
    others = [a for a in answers if not a.fitted]
    step = max(1.0, len(others) / _ANSWERS)
    chosen += [others[int(i * step)] for i in range(min(len(others), _ANSWERS))]
    return Estimate([a.allocation for a in chosen], [a.score for a in chosen], [a.std for a in chosen])


def _prefixes(trials: Sequence[TrialResult]) -> Iterator[Allocation]:
    """Generate every trial's allocation with fewer samples at one stage."""
    for trial in trials:
        for stage, choice in trial.allocation.items():
            for n in range(1, choice.n_samples):
                yield trial.allocation.replace(stage, choice.option.with_samples(n))


def _distances(left: Sequence[Allocation], right: Sequence[Allocation]) -> _Floats:
    """Return distances in log2 of n, another option counting as 3, of shape [left, right]."""
    distances: _Floats = np.zeros((len(left), len(right)))
    for stage in left[0]:
        options = [np.array([str(a[stage].option) for a in group]) for group in (left, right)]
        counts = [np.log2([a[stage].n_samples for a in group]) for group in (left, right)]
        distances += 3.0 * (options[0][:, None] != options[1][None, :])
        distances += np.abs(counts[0][:, None] - counts[1][None, :])
    return distances


def _scores(trial: TrialResult) -> _Floats:
    return np.array([np.nan if score is None else score for score in trial.scores.values()])
