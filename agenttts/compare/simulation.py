"""A search on a landscape, without store, graph or calls: its trials, and the FLOPs that they cost.

It decides as `agenttts.search.steps` does: the defaults first when the search starts from them, then in each
turn the proposer's suggestions, or the rules' when it has none. Samples are nested and paid for once, as in
the store.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agenttts.compare.landscapes import Landscape
from agenttts.proposers.base import (
    Proposer,
    SearchView,
    Suggestion,
    Turn,
    finalists,
    opening,
    races,
    seeds,
    tokens_used,
)
from agenttts.proposers.rules import InsightsProposer
from agenttts.replay.arrays import Bank
from agenttts.results.ranking import ranked
from agenttts.results.trials import TrialResult
from agenttts.search.racing import is_losing, rungs
from agenttts.settings import MAX_ERROR_RATE, SearchSettings
from pipelines.allocation import Allocation

_RULES = InsightsProposer()


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The state of a search after one trial.

    Attributes:
        trial: The number of trials so far, from 1.
        allocation: The allocation of the trial.
        score: The score of the trial; None when it failed.
        choice: The allocation that the search would return now; None while there is none.
        flops: The FLOPs paid so far.
        seconds: The time that it took to propose this trial, in seconds.
        agent_tokens: The tokens of an LLM that proposes, so far.
    """

    trial: int
    allocation: Allocation
    score: float | None
    choice: Allocation | None
    flops: float
    seconds: float
    agent_tokens: int


class SimulatedSearch:
    """One search on a landscape.

    Args:
        landscape: The landscape to search.
        proposer: Suggests the allocations.
        seed: The seed of the search.
        seeded: Whether the search starts from the default allocations.

    Attributes:
        trials: The trials so far.
        moments: The state after each trial.
        finished: Why the proposer suggests nothing more; None while it does.
        bank: The samples paid for, and their FLOPs.
    """

    def __init__(self, landscape: Landscape, proposer: Proposer, seed: int, *, seeded: bool) -> None:
        self.landscape = landscape
        self.proposer = proposer
        self.settings = SearchSettings(
            budget_units=landscape.space.budget_units,
            measure=landscape.space.measure.name,
            proposer=proposer.name,
            seed=seed,
        )
        self.bank = Bank(landscape.outcomes)
        self.trials: list[TrialResult] = []
        self.moments: list[Moment] = []
        self.finished: str | None = None
        self._seeded = seeded
        self.step = 1

    async def run(self, *, trials: int, flops: float = float("inf")) -> list[Moment]:
        """Run the search until trials or FLOPs are used up, or the proposer has finished.

        Args:
            trials: The largest number of trials, those of earlier calls included; one on a part of the
                examples counts as that part.
            flops: No trial begins once so many FLOPs are spent.

        Returns:
            The moments of all trials so far.
        """
        n_examples = len(self.landscape.outcomes.example_ids)
        if self._seeded and not self.trials:
            for suggestion in await self._first(trials):
                if self.cells < trials * n_examples and self.bank.flops < flops:
                    self._try(suggestion, 0.0, trials * n_examples - self.cells)
        while self.cells < trials * n_examples and self.bank.flops < flops:
            view = self.view(self.step, trials * n_examples - self.cells)
            began = time.perf_counter()
            count = min(self.proposer.batch, view.trials_left or 0)
            turn = await self.proposer.propose(view, count)
            if turn.silent:
                turn = _RULES.in_place(view, count)
            stand_ins = self._stand_ins(view, turn)
            if turn.finished is not None and not turn.suggestions:
                self.finished = turn.finished
                break
            suggested = [*turn.suggestions, *stand_ins]
            seconds = (time.perf_counter() - began) / max(1, len(suggested))
            if not suggested:
                break
            for suggestion in suggested:
                if self.cells < trials * n_examples:
                    self._try(suggestion, seconds, trials * n_examples - self.cells)
            self.step += 1
        return self.moments

    async def _first(self, trials: int) -> Sequence[Suggestion]:
        """Return what the proposer begins with, else the defaults."""
        view = self.view(0, trials * len(self.landscape.outcomes.example_ids))
        await opening(self.proposer, view)
        first = seeds(self.proposer, view)
        if first is not None:
            return first
        return [
            Suggestion(allocation, "default", "default") for allocation in self.landscape.space.defaults()
        ]

    @property
    def cells(self) -> int:
        """The examples of all trials so far together."""
        return sum(trial.n_run for trial in self.trials)

    def view(self, step: int, cells_left: int) -> SearchView:
        """Return what the proposer may know at a step.

        Args:
            step: The step of the search.
            cells_left: How many cells, each an example with an allocation, are still allowed.

        Returns:
            The view.
        """
        return SearchView(
            settings=self.settings,
            space=self.landscape.space,
            trials=tuple(self.trials),
            insights=(),
            cells_left=cells_left,
            n_examples=len(self.landscape.outcomes.example_ids),
            task=self.landscape.name,
            step=step,
            bank=self.bank,
        )

    def _stand_ins(self, view: SearchView, turn: Turn) -> list[Suggestion]:
        taken = [s.allocation for s in turn.suggestions]
        stand_ins: list[Suggestion] = []
        for _ in turn.rejected:
            stand_in = _RULES.fallback(view, [*taken, *(s.allocation for s in stand_ins)])
            stand_ins += [] if stand_in is None else [stand_in]
        return stand_ins

    def _try(self, suggestion: Suggestion, seconds: float, cells_left: int) -> None:
        ids = self.landscape.outcomes.example_ids
        last = min(len(ids), cells_left)
        best = self._best()
        raced = best is not None and suggestion.proposer is None and races(self.proposer)
        looks = [*(look for look in rungs(len(ids)) if raced and look < last), last]
        scores: dict[str, float | None] = {}
        for end in looks:
            bought, _ = self.bank.buy(suggestion.allocation, slice(len(scores), end))
            new = ids[len(scores) : end]
            scores |= {i: None if np.isnan(s) else float(s) for i, s in zip(new, bought, strict=True)}
            if best is not None and end < last and is_losing(scores, best.scores, self.settings.seed):
                break
        self.trials.append(self._trial(suggestion, scores))
        self.moments.append(
            Moment(
                trial=len(self.trials),
                allocation=suggestion.allocation,
                score=self.trials[-1].score,
                choice=self._choice(),
                flops=self.bank.flops,
                seconds=seconds,
                agent_tokens=tokens_used(self.proposer),
            )
        )

    def _best(self) -> TrialResult | None:
        return next(iter(ranked(self.trials)), None)

    def _choice(self) -> Allocation | None:
        """Return the winner if the search ended now: the best trial, or a finalist that scores higher."""
        best = self._best()
        candidates = list(finalists(self.proposer, self.view(len(self.moments), 0)))
        if best is None or not candidates:
            return None if best is None else best.allocation
        means = np.nanmean(self.bank.answer(candidates).scores, axis=1)
        pick = int(means.argmax())
        return candidates[pick] if means[pick] > (best.score or 0.0) else best.allocation

    def _trial(self, suggestion: Suggestion, scores: dict[str, float | None]) -> TrialResult:
        present = [score for score in scores.values() if score is not None]
        allocation, ids = suggestion.allocation, self.landscape.outcomes.example_ids
        failed = not present or len(present) < (1 - MAX_ERROR_RATE) * len(scores)
        return TrialResult(
            number=len(self.trials),
            allocation=allocation,
            purpose="baseline" if suggestion.proposer == "default" else "search",
            split="search",
            proposer=suggestion.proposer or self.proposer.name,
            reason=suggestion.reason,
            status="failed" if failed else "partial" if len(scores) < len(ids) else "complete",
            score=None if failed else float(np.mean(present)),
            scores=scores,
            n_scored=len(present),
            n_missing=len(scores) - len(present),
            budget_units=self.landscape.space.units(allocation),
            flops_per_query=None,
            prompt_tokens=0,
            generated_tokens=0,
            cost_usd=None,
            samples_drawn=0,
            samples_reused=0,
            calls=0,
            stage_scores={},
            error=None,
        )
