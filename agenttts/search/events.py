"""The events of a search: one class for each kind.

`search(on_event=...)` is called with them in order. `kind` names the class in one word; the fields can also
be read by their names, `event["score"]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeAlias

from agenttts.results.health import SampleHealth
from agenttts.results.trials import TrialResult
from agenttts.search.drafts import Draft
from agenttts.search.limits import Spending
from agenttts.settings import SearchSettings
from datastore.records import Insight, RunStatus, TrialPurpose
from pipelines.allocation import Allocation
from pipelines.policy import Policy
from pipelines.servers.wire import Negotiated

Phase = Literal["seed", "reflect", "propose", "validate", "evaluate", "confirm", "adapt", "finish"]


class Event:
    """The base of all events."""

    kind: ClassVar[str]

    def __getitem__(self, name: str) -> object:
        return getattr(self, name)


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A run has begun or is resumed.

    Attributes:
        run_id: The run.
        resumed: Whether the run was begun before.
        db: The database that stores the run.
        settings: The settings of the search.
        allocations: The number of allocations within the budget.
        n_examples: The number of examples that a complete trial is scored on.
    """

    kind: ClassVar[str] = "run_started"
    run_id: str
    resumed: bool
    db: Path
    settings: SearchSettings
    allocations: int
    n_examples: int


@dataclass(frozen=True, kw_only=True)
class PhaseStarted(Event):
    """A phase of a step has begun.

    Attributes:
        phase: The phase.
        step: The step of the search, 0 for the defaults.
    """

    kind: ClassVar[str] = "phase"
    phase: Phase
    step: int


@dataclass(frozen=True, kw_only=True)
class InsightLearnt(Event):
    """A proposer has learnt an insight from the trials, or an insight of an earlier run is inherited.

    Attributes:
        insight: The insight.
    """

    kind: ClassVar[str] = "insight"
    insight: Insight


@dataclass(frozen=True, kw_only=True)
class ProposalMade(Event):
    """An allocation was proposed, or a person has decided on it.

    Attributes:
        proposal: The proposal, with the decision on it.
    """

    kind: ClassVar[str] = "proposal"
    proposal: Draft


@dataclass(frozen=True, kw_only=True)
class TrialStarted(Event):
    """A trial has begun.

    Attributes:
        number: The trial's number.
        purpose: The purpose of the trial.
        allocation: The allocation to run.
        proposer: The name of the proposer.
        reason: Why the trial is run, in words.
        policy: The policy to run, whose first rung is the allocation; None: the allocation is run.
        budget_units: The planned cost of the allocation per query, in the measure of the run's settings.
        n_examples: How many examples it is to be scored on.
        n_before: How many of them it has been scored on before, when it grows.
    """

    kind: ClassVar[str] = "trial_started"
    number: int
    purpose: TrialPurpose
    allocation: Allocation
    proposer: str
    reason: str
    policy: Policy | None = None
    budget_units: float
    n_examples: int
    n_before: int = 0


@dataclass(frozen=True, kw_only=True)
class TrialProgress(Event):
    """The progress of a trial, and its cost so far.

    Attributes:
        number: The trial's number.
        n_examples: The number of examples to run, those of before included where the trial grows.
        n_done: The number of examples that were run, those of before included.
        n_missing: The number of these that have no score.
        samples_drawn: Samples paid for.
        samples_reused: Samples that the bank had.
        calls: Requests sent.
        prompt_tokens: Prompt tokens, banked or not.
        generated_tokens: Generated tokens, banked or not.
        cost_usd: US dollars, banked or not; None when a model has no price.
        health: The shares of empty, cut, unparsed and equal samples of the trial's models in this run.
    """

    kind: ClassVar[str] = "trial_progress"
    number: int
    n_examples: int
    n_done: int
    n_missing: int
    samples_drawn: int
    samples_reused: int
    calls: int
    prompt_tokens: int
    generated_tokens: int
    cost_usd: float | None
    health: tuple[SampleHealth, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrialFinished(Event):
    """A trial has ended.

    Attributes:
        trial: The trial; without its scores on the test split, which are not shown before the search is over.
        from_store: Whether the trial was run before the run was resumed.
        spent: What the whole search has spent so far.
        health: The shares of empty, cut, unparsed and equal samples of the trial's models in this run.
    """

    kind: ClassVar[str] = "trial_finished"
    trial: TrialResult
    from_store: bool
    spent: Spending
    health: tuple[SampleHealth, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SamplesWarned(Event):
    """The samples of a model at a stage are notably often empty, cut, unparsed or all one text.

    This is raised after the trial that shows it, once for each stage and model.

    Attributes:
        health: The shares so far.
        message: What is wrong and what to do about it.
    """

    kind: ClassVar[str] = "samples_warned"
    health: SampleHealth
    message: str


@dataclass(frozen=True, kw_only=True)
class TermsFound(Event):
    """A server does not take requests as the pipeline writes them, or does not answer as it should.

    Attributes:
        negotiated: What was found, and what follows from it.
    """

    kind: ClassVar[str] = "terms_found"
    negotiated: Negotiated


@dataclass(frozen=True, kw_only=True)
class Note(Event):
    """Something that a person should know but that stops nothing, such as an endpoint that did not answer.

    Attributes:
        message: The note.
    """

    kind: ClassVar[str] = "note"
    message: str


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """The run is complete.

    Attributes:
        run_id: The run.
    """

    kind: ClassVar[str] = "run_finished"
    run_id: str


@dataclass(frozen=True, kw_only=True)
class RunStopped(Event):
    """The run ended before it was complete.

    Attributes:
        run_id: The run.
        status: Whether it was stopped or has failed.
        reason: Why it ended.
        message: How to resume it.
    """

    kind: ClassVar[str] = "stopped"
    run_id: str
    status: RunStatus
    reason: str
    message: str

    @classmethod
    def of(cls, run_id: str, db: Path, status: RunStatus, reason: str) -> Self:
        """Return the event, with the message.

        Args:
            run_id: The run.
            db: The database that stores the run.
            status: Whether it was stopped or has failed.
            reason: Why it ended.
        """
        message = f"run {run_id} is stored in {db}; the same command with --resume continues it"
        return cls(run_id=run_id, status=status, reason=reason, message=message)


SearchEvent: TypeAlias = (
    RunStarted
    | PhaseStarted
    | InsightLearnt
    | ProposalMade
    | TrialStarted
    | TrialProgress
    | TrialFinished
    | SamplesWarned
    | TermsFound
    | Note
    | RunFinished
    | RunStopped
)
OnEvent: TypeAlias = Callable[[SearchEvent], None]
