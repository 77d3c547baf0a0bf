"""Decisions of a person on proposals before they cost anything: approve, edit or refuse each.

The command line and notebooks show the proposals; the nodes in `steps` store the decisions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agenttts.errors import UserError
from agenttts.proposers.base import SearchView
from agenttts.search.drafts import Draft
from agenttts.space.measure import MeasureName
from pipelines.allocation import Allocation

Action = Literal["approve", "edit", "refuse"]


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A proposal that waits for a decision.

    Attributes:
        run_id: The run of the search.
        position: The place among the step's proposals, from 0.
        allocation: The allocation to run.
        proposer: The name of the proposer.
        reason: Why it is proposed, in words.
        budget_units: The planned cost of the allocation per query, in its measure.
        measure: What that is measured in: "units" or "usd".
        n_examples: How many examples of the search its trial is to be scored on, the first ones.
        n_before: How many of them it has been scored on before; 0 for a new trial.
        n_all: How many examples the search has.
        problem: What was wrong with the last edit of it; None before any edit.
    """

    run_id: str
    position: int
    allocation: Allocation
    proposer: str
    reason: str
    budget_units: float
    measure: MeasureName
    n_examples: int
    n_before: int = 0
    n_all: int
    problem: str | None

    @property
    def examples_text(self) -> str:
        """How many examples the trial is to be scored on, in words."""
        examples = f"on {self.n_examples} of {self.n_all} examples"
        return f"{examples}, {self.n_before} of them known" if self.n_before else examples


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision on one proposal.

    Attributes:
        action: What to do with it.
        allocation: The allocation to run instead, for an edit; None otherwise.
        note: A note that is stored with the decision; None: no note.

    Raises:
        UserError: The action is unknown, an edit has no allocation, or another action has one.
    """

    action: Action
    allocation: Allocation | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if self.action not in ("approve", "edit", "refuse"):
            raise UserError(f"a decision is approve, edit or refuse, got {self.action!r}")
        if (self.action == "edit") != (self.allocation is not None):
            raise UserError(f"an allocation belongs to an edit and to nothing else, got {self.action!r}")


Approve = Callable[[list[Pending]], list[Decision] | Awaitable[list[Decision]]]
"""Called with the proposals of a step; returns a decision for each, in order.

It is called again, with the problems, when an edit can't be run.
"""


def question(
    run_id: str, drafts: Sequence[Draft], view: SearchView, problems: Mapping[int, str]
) -> list[Pending]:
    """Return the proposals that wait for a decision.

    Args:
        run_id: The run of the search.
        drafts: The proposals of the step.
        view: The allocations within the budget and the trials so far.
        problems: What was wrong with edits, by position.

    Returns:
        The valid proposals, in order.
    """
    n_before = {trial.allocation: trial.n_run for trial in view.partial}
    return [
        Pending(
            run_id=run_id,
            position=draft.position,
            allocation=draft.allocation,
            proposer=draft.proposer,
            reason=draft.reason,
            budget_units=view.space.units(draft.allocation),
            measure=view.space.measure.name,
            n_examples=draft.n_examples or view.n_examples,
            n_before=n_before.get(draft.allocation, 0),
            n_all=view.n_examples,
            problem=problems.get(draft.position),
        )
        for draft in drafts
        if isinstance(draft.allocation, Allocation)
    ]


def decided(
    drafts: Sequence[Draft],
    decisions: Sequence[Decision],
    view: SearchView,
) -> tuple[list[Draft], dict[int, str]]:
    """Apply decisions to the proposals of a step.

    Args:
        drafts: The proposals of the step.
        decisions: One decision for each proposal that is not invalid, in order.
        view: The allocations within the budget, and those that an edit must not lead to.

    Returns:
        The proposals after the decisions, and what is wrong with edits, by position.

    Raises:
        UserError: There are more or fewer decisions than proposals.
    """
    waiting = [draft for draft in drafts if draft.status != "invalid"]
    if len(decisions) != len(waiting):
        raise UserError(f"each of {len(waiting)} proposals needs a decision, got {len(decisions)}")
    answers = dict(zip((draft.position for draft in waiting), decisions, strict=True))
    n_before = {trial.allocation: trial.n_run for trial in view.partial}
    problems: dict[int, str] = {}
    after: list[Draft] = []
    for draft in drafts:
        decision = answers.get(draft.position)
        if decision is not None and decision.action == "refuse":
            draft = replace(draft, status="refused", problem=decision.note or "refused by a person")
        elif decision is not None and decision.allocation is not None:
            edited = view.space.resolve(decision.allocation)
            problem = view.space.problem(edited)
            if problem is None and edited in view.tried:
                problem = f"{edited} was tried before"
            elif problem is None and n_before.get(edited, 0) >= (draft.n_examples or view.n_examples):
                problem = f"{edited} was tried on {n_before[edited]} examples before"
            if problem is not None:
                problems[draft.position] = problem
            change = f"instead of {draft.allocation}"
            note = f"{change}: {decision.note}" if decision.note else change
            draft = replace(draft, status="edited", allocation=edited, problem=note)
        after.append(draft)
    return after, problems
