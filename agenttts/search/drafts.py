"""The proposals of a step while they are decided on, with parsed allocations; the store has `Proposal`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agenttts.proposers.base import Suggestion
from datastore.records import Proposal, ProposalStatus
from pipelines.allocation import Allocation


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A proposal of one step, with its reason and the decisions on it so far.

    Attributes:
        step: The step of the search, 0 for the defaults.
        position: The place among the step's proposals, from 0.
        allocation: The allocation to run; JSON text exactly when the proposal is invalid.
        proposer: The name of the proposer.
        reason: Why it is proposed, in words.
        status: The decision on it.
        problem: Why it is invalid, refused or edited; None otherwise.
        n_examples: How many examples, the first ones, the trial is to be scored on; None for all.
    """

    step: int
    position: int
    allocation: Allocation | str
    proposer: str
    reason: str
    status: ProposalStatus = "accepted"
    problem: str | None = None
    n_examples: int | None = None

    @classmethod
    def of(cls, suggestion: Suggestion, proposer: str, step: int, position: int) -> Draft:
        """Build the draft of a suggestion.

        Args:
            suggestion: The suggestion.
            proposer: The name of the proposer, used when the suggestion names none.
            step: The step of the search.
            position: The place among the step's proposals, from 0.

        Returns:
            The draft.
        """
        return cls(
            step=step,
            position=position,
            allocation=suggestion.allocation,
            proposer=suggestion.proposer or proposer,
            reason=suggestion.reason,
            n_examples=suggestion.n_examples,
        )

    @classmethod
    def from_record(cls, proposal: Proposal) -> Draft:
        """Build the draft of a stored proposal."""
        text = proposal.allocation
        return cls(
            step=proposal.step,
            position=proposal.position,
            allocation=text if proposal.status == "invalid" else Allocation.from_json(text),
            proposer=proposal.proposer,
            reason=proposal.reason,
            status=proposal.status,
            problem=proposal.problem,
            n_examples=proposal.n_examples,
        )

    def to_record(self, run_id: str) -> Proposal:
        """Return the proposal of a run in the form that is stored."""
        return Proposal(
            run_id=run_id,
            step=self.step,
            position=self.position,
            allocation=_text(self.allocation),
            proposer=self.proposer,
            reason=self.reason,
            status=self.status,
            problem=self.problem,
            n_examples=self.n_examples,
        )

    def invalid(self, problem: str) -> Draft:
        """Return the draft marked as invalid, with the problem."""
        return replace(self, allocation=_text(self.allocation), status="invalid", problem=problem)


def _text(allocation: Allocation | str) -> str:
    return allocation if isinstance(allocation, str) else allocation.to_json()
