"""A search on a landscape, without store, graph or calls: its trials, and the FLOPs that they cost.

It decides as `agenttts.search.steps` does: the defaults first when the search starts from them, then in each
turn the proposer's suggestions, or the rules' when it has none. Samples are nested and paid for once, as in
the store.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from agenttts.compare.landscapes import Landscape
from agenttts.proposers.base import (
    Proposer,
    SearchView,
    Suggestion,
    Turn,
    finalists,
    leader,
    opening,
    races,
    seeds,
    tokens_used,
)
from agenttts.proposers.rules import InsightsProposer
from agenttts.replay.arrays import Bank
from agenttts.results.ranking import ranked, to_complete
from agenttts.results.trials import TrialResult
from agenttts.search.racing import is_losing, rungs
from agenttts.settings import MAX_ERROR_RATE, SearchSettings
from pipelines.allocation import Allocation

_RULES = InsightsProposer()


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The state of a search after a trial, or after a part of one.

    Attributes:
        trial: The number of suggestions tried so far, from 1.
        cells: The number of cells so far: examples of the search, summed over its trials.
        allocation: The allocation of the trial.
        score: The score of the trial; None when it failed.
        choice: The allocation that the search would return now; None while there is none.
        flops: The FLOPs paid so far.
        seconds: The time that it took to propose this trial, in seconds.
        agent_tokens: The tokens of an LLM that proposes, so far.
    """

    trial: int
    cells: int
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
        """Run the search until cells or FLOPs are used up, or the proposer has finished.

        Args:
            trials: The search may use the cells of so many complete trials, earlier calls included.
            flops: No trial begins or grows once so many FLOPs are spent.

        Returns:
            The moments of all trials so far.
        """
        cells = trials * self.n_examples
        if self._seeded and not self.trials:
            view = self.view(0, cells)
            await opening(self.proposer, view)
            first = seeds(self.proposer, view)
            if first is None:
                first = [Suggestion(a, "default", "default") for a in self.landscape.space.defaults()]
            for suggestion in first:
                if self.cells < cells and self.bank.flops < flops:
                    self._try(suggestion, 0.0, cells - self.cells)
        while self.cells < cells and self.bank.flops < flops:
            view = self.view(self.step, cells - self.cells)
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
                if self.cells < cells:
                    self._try(suggestion, seconds, cells - self.cells)
            self.step += 1
        return self.moments

    def complete(self) -> None:
        """Let the default and the trial that look best grow to all examples, as a confirmation does."""
        attempted = set[int]()
        named = leader(self.proposer, self.view(self.step, 0))
        while len(attempted) < 2:
            waiting = to_complete(self.trials, named)
            trial = next((t for t in waiting if t.number not in attempted), None)
            if trial is None:
                return
            attempted.add(trial.number)
            proposer = "default" if trial.purpose == "baseline" else "confirmation"
            self._try(Suggestion(trial.allocation, "It looks best so far.", proposer), 0.0, self.n_examples)

    @property
    def n_examples(self) -> int:
        """The number of examples of a complete trial."""
        return len(self.landscape.outcomes.example_ids)

    @property
    def cells(self) -> int:
        """The number of cells so far."""
        return sum(len(trial.scores) for trial in self.trials)

    def view(self, step: int, cells_left: int) -> SearchView:
        """Return what the proposer may know at a step.

        Args:
            step: The step of the search.
            cells_left: How many cells are still allowed.

        Returns:
            The view.
        """
        return SearchView(
            settings=self.settings,
            space=self.landscape.space,
            trials=tuple(self.trials),
            insights=(),
            cells_left=cells_left,
            n_examples=self.n_examples,
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
        """Score a suggestion on the examples that it asks for; its trial grows where it has one.

        A trial that grows keeps who suggested it first: a default stays one.
        """
        ids = self.landscape.outcomes.example_ids
        number = next(
            (t.number for t in self.trials if t.allocation == suggestion.allocation), len(self.trials)
        )
        begun = self.trials[number] if number < len(self.trials) else None
        scores = {} if begun is None else dict(begun.scores)
        last = min(suggestion.n_examples or len(ids), len(ids), len(scores) + cells_left)
        best = self._best()
        raced = best is not None and suggestion.proposer is None and races(self.proposer)
        for end in [*(look for look in rungs(len(ids)) if look < last and raced), last]:
            bought, _ = self.bank.buy(suggestion.allocation, slice(len(scores), end))
            new = ids[len(scores) : end]
            scores |= {i: None if np.isnan(s) else float(s) for i, s in zip(new, bought, strict=True)}
            if best is not None and end < last and is_losing(scores, best.scores, self.settings.seed):
                break
        trial = self._trial(number, suggestion, scores)
        if begun is not None:
            trial = replace(trial, purpose=begun.purpose, proposer=begun.proposer)
        self.trials[number : number + 1] = [trial]
        self.moments.append(
            Moment(
                trial=len(self.moments) + 1,
                cells=self.cells,
                allocation=suggestion.allocation,
                score=self.trials[number].score,
                choice=self._choice(),
                flops=self.bank.flops,
                seconds=seconds,
                agent_tokens=tokens_used(self.proposer),
            )
        )

    def _best(self) -> TrialResult | None:
        return next(iter(ranked(self.trials)), None)

    def _choice(self) -> Allocation | None:
        """Return the winner if the search ended now.

        It is the best complete trial, or a finalist that scores higher; but a partial trial that the proposer
        holds for the best, since a search completes it before it ends.
        """
        view = self.view(len(self.moments), 0)
        leading = leader(self.proposer, view)
        if leading is not None and leading in {trial.allocation for trial in view.partial}:
            return leading
        best = self._best()
        candidates = list(finalists(self.proposer, view))
        if best is None or not candidates:
            return None if best is None else best.allocation
        means = np.nanmean(self.bank.answer(candidates).scores, axis=1)
        pick = int(means.argmax())
        return candidates[pick] if means[pick] > (best.score or 0.0) else best.allocation

    def _trial(self, number: int, suggestion: Suggestion, scores: dict[str, float | None]) -> TrialResult:
        present = [score for score in scores.values() if score is not None]
        allocation = suggestion.allocation
        failed = not present or len(present) < (1 - MAX_ERROR_RATE) * len(scores)
        return TrialResult(
            number=number,
            allocation=allocation,
            purpose="baseline" if suggestion.proposer == "default" else "search",
            split="search",
            proposer=suggestion.proposer or self.proposer.name,
            reason=suggestion.reason,
            status="failed" if failed else "partial" if len(scores) < self.n_examples else "complete",
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
