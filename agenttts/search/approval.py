"""A person's word on proposals before they cost anything: approve, edit or refuse each.

How they are shown is left to whoever asks (the command line, a notebook); that a decision is kept, to
`nodes`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agenttts.errors import UserError
from agenttts.search.drafts import Draft
from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation

Action = Literal["approve", "edit", "refuse"]


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A proposal that waits. `problem`: what was wrong with the last edit of it, None at first."""

    position: int
    allocation: Allocation
    proposer: str
    reason: str
    budget_units: float
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one proposal.

    `allocation` is what to run instead (edit only); `note` is kept with it.
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
"""Is given the proposals of a step and returns a decision for each, in order.

Asked again after a bad edit.
"""


def question(drafts: Sequence[Draft], space: SearchSpace, problems: Mapping[int, str]) -> list[Pending]:
    """The proposals that wait for a decision."""
    return [
        Pending(
            position=draft.position,
            allocation=draft.allocation,
            proposer=draft.proposer,
            reason=draft.reason,
            budget_units=space.units(draft.allocation),
            problem=problems.get(draft.position),
        )
        for draft in drafts
        if isinstance(draft.allocation, Allocation)
    ]


def decided(
    drafts: Sequence[Draft],
    decisions: Sequence[Decision],
    space: SearchSpace,
    tried: Collection[Allocation],
) -> tuple[list[Draft], dict[int, str]]:
    """The proposals after the decisions, and what is wrong with edits, by position.

    UserError when there are more or fewer decisions than proposals.
    """
    waiting = [draft for draft in drafts if draft.status != "invalid"]
    if len(decisions) != len(waiting):
        raise UserError(f"each of {len(waiting)} proposals needs a decision, got {len(decisions)}")
    answers = dict(zip((draft.position for draft in waiting), decisions, strict=True))
    problems: dict[int, str] = {}
    after: list[Draft] = []
    for draft in drafts:
        decision = answers.get(draft.position)
        if decision is not None and decision.action == "refuse":
            draft = replace(draft, status="refused", problem=decision.note or "refused by a person")
        elif decision is not None and decision.allocation is not None:
            edited = space.resolve(decision.allocation)
            problem = space.problem(edited)
            if problem is None and edited in tried:
                problem = f"{edited} was tried before"
            if problem is not None:
                problems[draft.position] = problem
            change = f"instead of {draft.allocation}"
            note = f"{change}: {decision.note}" if decision.note else change
            draft = replace(draft, status="edited", allocation=edited, problem=note)
        after.append(draft)
    return after, problems
