"""A step's proposals while they are decided on, with their allocations parsed; the store keeps `Proposal`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agenttts.proposers.base import Suggestion
from datastore.records import Proposal, ProposalStatus
from pipelines.allocation import Allocation


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a proposer wants at one step, why, and what became of it so far.

    Attributes:
        step: The step of the search, 0 for the defaults.
        position: The place among the step's proposals, from 0.
        allocation: What to run; JSON text exactly when the proposal is invalid.
        proposer: The name of who proposed it.
        reason: Why, in words.
        status: What was decided on it.
        problem: Why it is invalid, refused or edited; None otherwise.
    """

    step: int
    position: int
    allocation: Allocation | str
    proposer: str
    reason: str
    status: ProposalStatus = "accepted"
    problem: str | None = None

    @classmethod
    def of(cls, suggestion: Suggestion, proposer: str, step: int, position: int) -> Draft:
        """The draft of a suggestion; `proposer` is who made it when the suggestion names nobody."""
        return cls(
            step=step,
            position=position,
            allocation=suggestion.allocation,
            proposer=suggestion.proposer or proposer,
            reason=suggestion.reason,
        )

    @classmethod
    def from_record(cls, proposal: Proposal) -> Draft:
        """The draft of a stored proposal."""
        text = proposal.allocation
        return cls(
            step=proposal.step,
            position=proposal.position,
            allocation=text if proposal.status == "invalid" else Allocation.from_json(text),
            proposer=proposal.proposer,
            reason=proposal.reason,
            status=proposal.status,
            problem=proposal.problem,
        )

    def to_record(self, run_id: str) -> Proposal:
        """The proposal as the store keeps it."""
        return Proposal(
            run_id=run_id,
            step=self.step,
            position=self.position,
            allocation=_text(self.allocation),
            proposer=self.proposer,
            reason=self.reason,
            status=self.status,
            problem=self.problem,
        )

    def invalid(self, problem: str) -> Draft:
        """The draft as one that can't be run."""
        return replace(self, allocation=_text(self.allocation), status="invalid", problem=problem)


def _text(allocation: Allocation | str) -> str:
    return allocation if isinstance(allocation, str) else allocation.to_json()
