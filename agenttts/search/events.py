"""What happens in a search, as it happens: one class for each kind of event.

`search(on_event=...)` is given these, in order. `kind` names the class in one word; the fields can also be
read by their names, `event["score"]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from agenttts.results.trials import TrialResult
from agenttts.search.drafts import Draft
from agenttts.search.limits import Spending
from agenttts.settings import SearchSettings
from datastore.records import Insight, RunStatus, TrialPurpose
from pipelines.allocation import Allocation

Phase = Literal["seed", "reflect", "propose", "validate", "evaluate", "confirm", "finish"]


class Event:
    """The base of all events."""

    kind: ClassVar[str]

    def __getitem__(self, name: str) -> object:
        return getattr(self, name)


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A run has begun, or goes on.

    Attributes:
        run_id: The run.
        resumed: Whether the run was begun before.
        db: The database that keeps the run.
        settings: What is searched for, and how.
        allocations: How many allocations are within the budget.
        n_examples: How many examples a trial is scored on.
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
    """A phase of a step has begun."""

    kind: ClassVar[str] = "phase"
    phase: Phase
    step: int


@dataclass(frozen=True, kw_only=True)
class InsightLearnt(Event):
    """Somebody has put in words what the trials teach, or an earlier run's insight is passed on."""

    kind: ClassVar[str] = "insight"
    insight: Insight


@dataclass(frozen=True, kw_only=True)
class ProposalMade(Event):
    """An allocation was proposed, or a person has decided on it."""

    kind: ClassVar[str] = "proposal"
    proposal: Draft


@dataclass(frozen=True, kw_only=True)
class TrialStarted(Event):
    """A trial has begun. `budget_units`: what its allocation is planned to take, in units per query."""

    kind: ClassVar[str] = "trial_started"
    number: int
    purpose: TrialPurpose
    allocation: Allocation
    proposer: str
    reason: str
    budget_units: float


@dataclass(frozen=True, kw_only=True)
class TrialProgress(Event):
    """How far a trial is, and what it has taken so far.

    Attributes:
        number: The trial's number.
        n_examples: On how many examples it is scored.
        n_done: Examples that were run.
        n_missing: Examples of these that have no score.
        samples_drawn: Samples paid for.
        samples_reused: Samples that the bank had.
        calls: Requests sent.
        prompt_tokens: Prompt tokens, banked or not.
        generated_tokens: Generated tokens, banked or not.
        cost_usd: US dollars, banked or not; None when a model has no price.
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


@dataclass(frozen=True, kw_only=True)
class TrialFinished(Event):
    """A trial has ended.

    Attributes:
        trial: The trial; on the test split without its scores, which nobody sees before the search is over.
        from_store: Whether the trial was run before the run was resumed.
        spent: What the whole search has spent so far.
    """

    kind: ClassVar[str] = "trial_finished"
    trial: TrialResult
    from_store: bool
    spent: Spending


@dataclass(frozen=True, kw_only=True)
class Note(Event):
    """Something that a person should know and that stops nothing, such as an endpoint that did not answer."""

    kind: ClassVar[str] = "note"
    message: str


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """The run is complete."""

    kind: ClassVar[str] = "run_finished"
    run_id: str


@dataclass(frozen=True, kw_only=True)
class RunStopped(Event):
    """The run ended before it was complete. `reason`: why. `message`: how to go on."""

    kind: ClassVar[str] = "stopped"
    run_id: str
    status: RunStatus
    reason: str
    message: str


SearchEvent: TypeAlias = (
    RunStarted
    | PhaseStarted
    | InsightLearnt
    | ProposalMade
    | TrialStarted
    | TrialProgress
    | TrialFinished
    | Note
    | RunFinished
    | RunStopped
)
OnEvent: TypeAlias = Callable[[SearchEvent], None]
