"""The interface of proposers: a search space and a history in, the next allocations with reasons out.

A proposer decides from the view alone: the same view and seed give the same turn, so that a resumed search
decides as an undisturbed one. A proposer never sees the test split. The nodes of the search
(`agenttts.search.steps`) check, approve and evaluate its suggestions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agenttts.replay.arrays import Walk
from agenttts.results.trials import TrialResult
from agenttts.settings import SearchSettings
from agenttts.space.objective import Goal
from agenttts.space.space import SearchSpace
from datastore.records import Insight
from pipelines.allocation import Allocation

History = Literal["true", "shuffled", "blank", "renamed"]
"""The history that an LLM is shown: the trials as they are, or one of three controls."""


class Answers(Protocol):
    """Scores of allocations on the search examples, from the samples paid for so far."""

    def answer(self, allocations: Sequence[Allocation]) -> Walk:
        """Return the scores of allocations as far as they are known; no sample is drawn.

        Args:
            allocations: The allocations to score.

        Returns:
            Scores and whether they are known, each of shape [allocation, example], in the order of the search
            examples.
        """
        ...


@dataclass(frozen=True)
class Belief:
    """A score that somebody expects of an allocation before it is tried.

    Attributes:
        allocation: The allocation.
        score: The expected score.
        std: Its standard deviation, above 0.
    """

    allocation: Allocation
    score: float
    std: float


@dataclass(frozen=True, kw_only=True)
class FailingExample:
    """What the stages made of an example that scored low in a trial; without its gold value.

    Attributes:
        trial: The number of the trial.
        score: The score of the example.
        inputs: The fields that the stages read, as texts.
        outputs: The output of each stage, as JSON, or why there is none.
    """

    trial: int
    score: float
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SearchView:
    """Everything that a proposer may know at one step.

    Attributes:
        settings: The settings of the search.
        space: The allocations within the budget.
        trials: The trials on the search split, in order.
        insights: What earlier steps have learnt.
        cells_left: How many cells (one example with one allocation) the limit still allows; None without a
            limit. A limit on trials allows as many cells as that many complete trials have; a trial on a part
            of the examples counts as that part.
        n_examples: The number of examples that a complete trial is scored on.
        task: The name of the pipeline.
        step: The step of the search, 0 for the defaults.
        refused: The allocations that a person refused at earlier steps.
        bank: Scores any allocation on the samples paid for; None when only the trials are to be used.
        beliefs: Scores that are expected beforehand, which a proposer may weigh like uncertain trials.
        failing: Returns examples that scored low in a trial, at most so many; None where no texts are known.
    """

    settings: SearchSettings
    space: SearchSpace
    trials: tuple[TrialResult, ...]
    insights: tuple[Insight, ...]
    cells_left: int | None
    n_examples: int
    task: str
    step: int = 0
    refused: tuple[Allocation, ...] = ()
    bank: Answers | None = None
    beliefs: tuple[Belief, ...] = ()
    failing: Callable[[TrialResult, int], Sequence[FailingExample]] | None = None

    @property
    def seed(self) -> int:
        """The seed of the search."""
        return self.settings.seed

    @property
    def frontier(self) -> bool:
        """Whether the search seeks the best score at every cost up to the budget, not at the budget alone."""
        return self.settings.frontier

    @property
    def goal(self) -> Goal:
        """The objective of the search, unless it seeks the frontier.

        A required score is raised by what the luck of the choice and its check will take off a score.
        """
        return self.settings.goal.raised(self.n_examples)

    def burden(self, allocation: Allocation) -> float:
        """Return the cost that the search minimises once an allocation has the required quality.

        Args:
            allocation: The allocation.

        Returns:
            Planned seconds per query when the objective is latency, else the planned cost per query, in the
            budget's measure.
        """
        if self.goal.objective == "latency":
            return self.goal.burden(self.space.measure, allocation)
        return self.space.units(allocation)

    @property
    def trials_left(self) -> int | None:
        """How many trials the limit still allows, the last one perhaps in part; None without a limit."""
        return None if self.cells_left is None else -(-self.cells_left // max(1, self.n_examples))

    @property
    def tried(self) -> frozenset[Allocation]:
        """The allocations that must not be suggested again: complete, failed or refused.

        One that was tried on a part of the examples may be: its trial then grows.
        """
        ended = (trial.allocation for trial in self.trials if trial.status != "partial")
        return frozenset(ended).union(self.refused)

    @property
    def scored(self) -> tuple[TrialResult, ...]:
        """The complete trials that have a score; failed and partial trials are left out."""
        return tuple(t for t in self.trials if t.status == "complete" and t.score is not None)

    @property
    def partial(self) -> tuple[TrialResult, ...]:
        """The trials on a part of the examples: the first ones, in the search's order."""
        return tuple(t for t in self.trials if t.status == "partial")


@dataclass(frozen=True)
class Suggestion:
    """An allocation to try, with a reason.

    Attributes:
        allocation: The allocation to try.
        reason: Why it is suggested, in words.
        proposer: The name of the proposer that suggested it; None: the proposer whose turn it is.
        n_examples: The trial is to be scored on so many examples of the search, the first ones in their
            order, those that it has already included; None: on all.
    """

    allocation: Allocation
    reason: str
    proposer: str | None = None
    n_examples: int | None = None


@dataclass(frozen=True)
class Rejected:
    """A proposal that can't be used.

    Attributes:
        allocation: The allocation as proposed, as JSON text.
        reason: The reason given for it.
        problem: What is wrong with it.
    """

    allocation: str
    reason: str
    problem: str


@dataclass(frozen=True)
class Lesson:
    """What a proposer has learnt from trials, in words.

    Attributes:
        text: The lesson.
        trials: The numbers of the trials that it rests on.
        claim: (a, b) when the lesson says that trial a scores higher than trial b, which can be tested; None
            when it makes no such claim.
        proposer: The name of the proposer that learnt it; None: the proposer whose turn it is.
    """

    text: str
    trials: tuple[int, ...]
    claim: tuple[int, int] | None = None
    proposer: str | None = None


@dataclass(frozen=True)
class NewPrompt:
    """A prompt that a proposer adds to a stage's choices, as a jinja2 template of the user message.

    Attributes:
        stage: The name of the stage.
        name: What the prompt is called in allocations, `model:name`.
        text: The template.
        reason: Why it may help, in words.
    """

    stage: str
    name: str
    text: str
    reason: str


@dataclass(frozen=True)
class Turn:
    """One answer of a proposer.

    Attributes:
        suggestions: The allocations to try.
        insights: The lessons learnt.
        finished: Why no further trial is expected to help; None while one is.
        rejected: Proposals that can't be used; the search replaces them by the rules' suggestions.
        prompts: Prompts to add before the suggestions are checked, which may use them.
        notes: Faults to report as events, such as an endpoint that did not answer. When there are no
            suggestions, the rules take the turn.
    """

    suggestions: tuple[Suggestion, ...] = ()
    insights: tuple[Lesson, ...] = ()
    finished: str | None = None
    rejected: tuple[Rejected, ...] = ()
    prompts: tuple[NewPrompt, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether the turn has no suggestion, no rejected proposal and no end, so that the rules take the
        turn.
        """
        return not self.suggestions and not self.rejected and self.finished is None


class Proposer(Protocol):
    """Suggests allocations.

    A proposer may have an attribute `races = True`: its trials stop as soon as they are clearly worse than
    the best (`agenttts.search.racing`). It may have the methods `seeds(view)`, `leader(view)` and
    `finalists(view)`, see the functions of these names, and `opening(view)`, see `opening`.

    Attributes:
        name: The name of the proposer.
        batch: How many suggestions it prefers to make in one turn.
    """

    @property
    def name(self) -> str: ...

    @property
    def batch(self) -> int: ...

    async def propose(self, view: SearchView, count: int) -> Turn:
        """Suggest allocations.

        Args:
            view: What the proposer may know.
            count: The largest number of suggestions.

        Returns:
            The turn: suggestions that are in the space and untried, or the reason why the proposer has
            `finished`.
        """
        ...


async def aclose(proposer: Proposer) -> None:
    """Close what a proposer holds open, such as connections; nothing where it has no method `aclose`."""
    close: Callable[[], Awaitable[None]] | None = getattr(proposer, "aclose", None)
    if close is not None:
        await close()


def tokens_used(proposer: Proposer) -> int:
    """Return the tokens that a proposer's own questions and answers have taken, 0 where it asks no LLM."""
    return int(getattr(proposer, "n_tokens", 0))


def races(proposer: Proposer) -> bool:
    """Return whether the proposer's trials are races."""
    return bool(getattr(proposer, "races", False))


async def opening(proposer: Proposer, view: SearchView) -> Turn:
    """Let a proposer think before the search begins, so that its `seeds` and its turns can rest on it.

    Args:
        proposer: The proposer, whose method `opening(view)` is awaited.
        view: What the proposer may know, before any trial.

    Returns:
        What it has to say, as notes; without suggestions. Empty when the proposer has no such method.
    """
    think: Callable[[SearchView], Awaitable[Turn]] | None = getattr(proposer, "opening", None)
    return Turn() if think is None else await think(view)


def seeds(proposer: Proposer, view: SearchView) -> Sequence[Suggestion] | None:
    """Return the suggestions that a search begins with, in the order in which they are to be tried.

    Args:
        proposer: The proposer, whose method `seeds(view)` names them.
        view: What the proposer may know, before any trial.

    Returns:
        The suggestions, defaults by the proposer "default"; None when the proposer has no such method,
        and the search begins with the defaults, on all examples.
    """
    named_by_proposer: Callable[[SearchView], Sequence[Suggestion]] | None = getattr(proposer, "seeds", None)
    return None if named_by_proposer is None else named_by_proposer(view)


def leader(proposer: Proposer, view: SearchView) -> Allocation | None:
    """Return the allocation that a proposer holds for the best of those tried, in full or in part.

    Args:
        proposer: The proposer, whose method `leader(view)` names it.
        view: What the proposer may know.

    Returns:
        The allocation; None when the proposer has no such method, or nothing has a score.
    """
    named_by_proposer: Callable[[SearchView], Allocation | None] | None = getattr(proposer, "leader", None)
    return None if named_by_proposer is None else named_by_proposer(view)


def finalists(proposer: Proposer, view: SearchView) -> Sequence[Allocation]:
    """Return the untried allocations that the bank answers in full and that may beat every trial, best first.

    Args:
        proposer: The proposer, whose method `finalists(view)` names them.
        view: What the proposer may know.

    Returns:
        The allocations; none when the proposer has no such method.
    """
    named_by_proposer: Callable[[SearchView], Sequence[Allocation]] | None = getattr(
        proposer, "finalists", None
    )
    return () if named_by_proposer is None else named_by_proposer(view)
