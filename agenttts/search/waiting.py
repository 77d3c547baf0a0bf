"""Proposals that wait for a person in another process, such as the pages of `agenttts ui`.

The search has the database open for writing, so that no other process can write to it. The question and its
answer lie in a directory beside it, which only its owner can enter. A file appears there whole or not at all;
an answer names its question, and the first one counts.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from agenttts.errors import UserError
from agenttts.search.approval import Decision, Pending
from agenttts.space.measure import amount_text
from pipelines.allocation import Allocation
from pipelines.files import is_own_directory
from pipelines.spec.strict import Strict

_EVERY_S = 0.2
_GONE = "these proposals wait no longer; look at the run again"


class AnsweredProposal(Strict):
    """The decision on one proposal.

    Attributes:
        action: What to do with it.
        allocation: For an edit, the JSON of the allocation to run instead; else None.
        note: Why; None for nothing.
    """

    action: Literal["approve", "edit", "refuse"]
    allocation: str | None = None
    note: str | None = None


class AskedProposal(Strict):
    """A proposal as it is shown.

    Attributes:
        allocation: The JSON of the allocation.
        text: The allocation in words.
        proposer: Who proposes it.
        reason: Why.
        cost: What a query is planned to cost, with its measure.
        examples: How many examples the trial is to be scored on, in words.
        problem: What was wrong with the last edit; None before any.
        before: What was decided when it was asked before; None the first time.
    """

    allocation: str
    text: str
    proposer: str
    reason: str
    cost: str
    examples: str
    problem: str | None
    before: AnsweredProposal | None = None

    @classmethod
    def of(cls, pending: Pending, before: AnsweredProposal | None) -> AskedProposal:
        """Return the proposal as it is shown."""
        return cls(
            allocation=pending.allocation.to_json(),
            text=str(pending.allocation),
            proposer=pending.proposer,
            reason=pending.reason,
            cost=amount_text(pending.budget_units, pending.measure),
            examples=pending.examples_text,
            problem=pending.problem,
            before=before,
        )


class Question(Strict):
    """The proposals of a step.

    Attributes:
        id: Names the question; its answer repeats it.
        run_id: The run whose search asks.
        proposals: Those that need a decision, in order.
    """

    id: str
    run_id: str
    proposals: tuple[AskedProposal, ...]


class QuestionAnswer(Strict):
    """The decisions on the proposals of a question, in order."""

    id: str
    decisions: tuple[AnsweredProposal, ...]


class WaitingRoom:
    """The directory of the question of one database.

    Args:
        db: The DuckDB file.
    """

    def __init__(self, db: Path) -> None:
        self.path = db.with_name(f"{db.name}.approval")
        self._question = self.path / "question.json"
        self._answer = self.path / "answer.json"
        self._before: tuple[AnsweredProposal, ...] = ()

    def question(self) -> Question | None:
        """Return the question that waits; None where there is none, or it has been answered.

        A search that was killed leaves its question: ask only while the database is being written.
        """
        try:
            question = Question.model_validate_json(self._question.read_bytes())
        except (OSError, ValidationError):
            return None
        return question if self._answered(question) is None else None

    def answer(self, question_id: str, decisions: Sequence[AnsweredProposal]) -> None:
        """Answer the question that waits.

        Args:
            question_id: The question's.
            decisions: One for each of its proposals, in order.

        Raises:
            UserError: It waits no longer, was answered before, or has another number of proposals; or the
                answer can't be written.
        """
        question = self.question()
        if question is None or question.id != question_id:
            raise UserError(_GONE)
        if len(decisions) != len(question.proposals):
            raise UserError(f"each of {len(question.proposals)} proposals needs a decision")
        text = QuestionAnswer(id=question_id, decisions=tuple(decisions)).model_dump_json()
        try:
            with self._written(text) as whole:
                os.link(whole, self._answer)  # fails where somebody was first
        except FileExistsError:
            raise UserError("these proposals were answered before; look at the run again") from None
        except FileNotFoundError:
            raise UserError(_GONE) from None
        except OSError as error:
            raise UserError(
                f"{self.path}: the answer can't be written: {error.strerror}; the database must lie on a "
                "file system with room and hard links, or approve at the terminal (--approve)"
            ) from error

    async def ask(self, proposals: Sequence[Pending]) -> list[Decision]:
        """Wait until somebody has decided, and return a decision for each proposal, in order.

        Args:
            proposals: The proposals.

        Raises:
            UserError: The directory can't be written, or others may enter it.
        """
        if not proposals:
            return []
        again = any(one.problem is not None for one in proposals) and len(self._before) == len(proposals)
        before = self._before if again else (None,) * len(proposals)
        shown = tuple(map(AskedProposal.of, proposals, before))
        question = Question(id=secrets.token_hex(8), run_id=proposals[0].run_id, proposals=shown)
        try:
            self._enter()
            self._answer.unlink(missing_ok=True)
            with self._written(question.model_dump_json()) as whole:
                os.replace(whole, self._question)
        except OSError as error:
            raise UserError(f"{self.path}: proposals can't wait there: {error.strerror}") from error
        try:
            while True:
                answer = self._answered(question)
                if answer is not None:
                    self._before = answer.decisions
                    return list(map(_decision, answer.decisions, question.proposals))
                await asyncio.sleep(_EVERY_S)
        finally:
            for file in (self._question, self._answer):
                file.unlink(missing_ok=True)
            with suppress(OSError):  # somebody else's files are left
                self.path.rmdir()

    def _enter(self) -> None:
        """Make the directory. One that was there is used only where nobody else can have put an answer."""
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        if not is_own_directory(self.path, private=True):
            status = self.path.lstat()
            raise UserError(
                f"{self.path}: must be a directory of your own that nobody else can enter (mode 0700), it is "
                f"{stat.filemode(status.st_mode)} of user {status.st_uid}; remove it, or keep the database "
                "in a directory of your own"
            )

    def _answered(self, question: Question) -> QuestionAnswer | None:
        """The answer to a question; None for anything else, such as one whose decisions can't be read."""
        try:
            answer = QuestionAnswer.model_validate_json(self._answer.read_bytes())
            for decision, proposal in zip(answer.decisions, question.proposals, strict=True):
                _decision(decision, proposal)
        except (OSError, ValueError, AttributeError, RecursionError, UserError):
            return None
        return answer if answer.id == question.id else None

    @contextmanager
    def _written(self, text: str) -> Iterator[Path]:
        """A new file of its own name, whole and on disk, which is gone afterwards unless it was moved."""
        path = self.path / f".{secrets.token_hex(8)}"
        try:
            with path.open("x") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)


def _decision(answer: AnsweredProposal, proposal: AskedProposal) -> Decision:
    allocation = None if answer.allocation is None else Allocation.from_json(answer.allocation)
    if allocation is not None and set(allocation) != set(Allocation.from_json(proposal.allocation)):
        raise ValueError(f"an allocation has a choice for each stage, got {allocation}")
    return Decision(action=answer.action, allocation=allocation, note=answer.note or None)
