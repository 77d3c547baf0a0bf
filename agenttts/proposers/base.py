"""What a proposer is: (space, history) in, next allocations out, a reason for each.

A proposer decides from the view alone: the same view and seed give the same turn, so that a resumed search
decides as an undisturbed one. It never sees the test split. Checking, approving and evaluating what it
suggests are left to the search (`nodes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agenttts.replay.arrays import Walk
from agenttts.results.trials import TrialResult
from agenttts.settings import SearchSettings
from agenttts.space.objective import Goal
from agenttts.space.space import SearchSpace
from datastore.records import Insight
from pipelines.allocation import Allocation

History = Literal["true", "shuffled", "blank"]
"""What an LLM is shown of the trials; all but "true" are controls."""


class Answers(Protocol):
    """What the samples paid for so far say of allocations, in the order of the search examples."""

    def answer(self, allocations: Sequence[Allocation]) -> Walk:
        """Their scores by example, as far as they are known; no sample is drawn."""
        ...


@dataclass(frozen=True, kw_only=True)
class SearchView:
    """All that a proposer may know at one step.

    Attributes:
        settings: What is searched for, and how.
        space: The allocations within the budget.
        trials: The trials on the search split, in order.
        insights: What earlier steps have learnt.
        trials_left: How many trials the limit still allows; None without a limit.
        n_examples: On how many examples a trial is scored.
        task: The name of the pipeline.
        step: The step of the search, 0 for the defaults.
        refused: What a person refused at earlier steps.
        bank: What the samples paid for say of any allocation; None when only the trials are to be used.
    """

    settings: SearchSettings
    space: SearchSpace
    trials: tuple[TrialResult, ...]
    insights: tuple[Insight, ...]
    trials_left: int | None
    n_examples: int
    task: str
    step: int = 0
    refused: tuple[Allocation, ...] = ()
    bank: Answers | None = None

    @property
    def seed(self) -> int:
        """The seed of the search."""
        return self.settings.seed

    @property
    def frontier(self) -> bool:
        """Whether the best score at every cost up to the budget is sought, not at the budget alone."""
        return self.settings.frontier

    @property
    def goal(self) -> Goal:
        """What is sought where it is not the frontier."""
        return self.settings.goal

    def burden(self, allocation: Allocation) -> float:
        """What is to be small at the quality asked for: planned seconds for latency, else units."""
        if self.goal.objective == "latency":
            return self.goal.burden(self.space.spec, allocation)
        return self.space.units(allocation)

    @property
    def tried(self) -> frozenset[Allocation]:
        """What is not to be suggested again: evaluated, failed or refused."""
        return frozenset(trial.allocation for trial in self.trials).union(self.refused)

    @property
    def scored(self) -> tuple[TrialResult, ...]:
        """The trials on all examples; failed ones have no score, and pruned ones a part of one."""
        return tuple(t for t in self.trials if t.status == "complete" and t.score is not None)


@dataclass(frozen=True)
class Suggestion:
    """An allocation to try and why.

    Attributes:
        allocation: What to try.
        reason: Why, in words.
        proposer: Who suggested it. None: the proposer whose turn it is.
    """

    allocation: Allocation
    reason: str
    proposer: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A suggestion that came to nothing.

    Attributes:
        allocation: What was proposed, as JSON text.
        reason: The reason given for it.
        problem: What is wrong with it.
    """

    allocation: str
    reason: str
    problem: str


@dataclass(frozen=True)
class Lesson:
    """What is learnt, in words.

    Attributes:
        text: The words.
        trials: Numbers of the trials it rests on.
        claim: (a, b) where it comes to saying that trial a scores higher than trial b, which can be tested.
            None: it does not.
    """

    text: str
    trials: tuple[int, ...]
    claim: tuple[int, int] | None = None


@dataclass(frozen=True)
class Turn:
    """One answer of a proposer.

    Attributes:
        suggestions: What to try.
        insights: What was learnt.
        finished: Why no further trial is expected to help. None: one is.
        rejected: What came to nothing; the search puts the rules' suggestions in their place.
        notes: Faults worth an event, such as an endpoint that did not answer. Without suggestions, the rules
            take the turn.
    """

    suggestions: tuple[Suggestion, ...] = ()
    insights: tuple[Lesson, ...] = ()
    finished: str | None = None
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether the proposer has nothing to say, so that the rules take the turn."""
        return not self.suggestions and not self.rejected and self.finished is None


class Proposer(Protocol):
    """Suggests allocations. `batch` is how many it likes to suggest at a time.

    May have `races = True`: its trials stop as soon as they are clearly worse than the best (`racing`).
    May have a method `finalists(view)`, see there.
    """

    @property
    def name(self) -> str: ...

    @property
    def batch(self) -> int: ...

    async def propose(self, view: SearchView, count: int) -> Turn:
        """At most `count` suggestions, each in the space and untried, or `finished`."""
        ...


def races(proposer: Proposer) -> bool:
    """Whether the proposer's trials are races."""
    return bool(getattr(proposer, "races", False))


def finalists(proposer: Proposer, view: SearchView) -> Sequence[Allocation]:
    """Untried allocations that the bank answers in full and that may beat every trial, best first.

    Named by the proposer's method `finalists(view)`; none where it has no such method.
    """
    name_them: Callable[[SearchView], Sequence[Allocation]] | None = getattr(proposer, "finalists", None)
    return () if name_them is None else name_them(view)
