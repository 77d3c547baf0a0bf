"""Proposals that wait beside the database for a decision of another process."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from agenttts.errors import UserError
from agenttts.search.approval import Decision, Pending
from agenttts.search.waiting import AnsweredProposal, Question, WaitingRoom
from pipelines.allocation import Allocation, StageChoice

ONE, OTHER = (Allocation({"answer": StageChoice("small", n)}) for n in (1, 4))


def pending(position: int) -> Pending:
    return Pending(
        position=position,
        allocation=ONE,
        proposer="rules",
        reason="why <b>",
        budget_units=3.5,
        measure="units",
        n_examples=6,
        n_all=60,
        problem=None,
    )


async def waiting(room: WaitingRoom) -> Question:
    while (question := room.question()) is None:
        await asyncio.sleep(0.01)
    return question


async def test_a_question_waits_for_its_answer(tmp_path: Path) -> None:
    """Each decision arrives in order, the first answer counts, and nothing is left behind."""
    room = WaitingRoom(tmp_path / "run.duckdb")
    asking = asyncio.create_task(room.ask([pending(0), pending(1), pending(2)]))
    question = await waiting(room)
    assert stat.S_IMODE(room.path.stat().st_mode) == 0o700
    assert question.proposals[0].cost == "3.5 units" and "6 of 60" in question.proposals[0].examples
    decisions = [
        AnsweredProposal(action="approve"),
        AnsweredProposal(action="edit", allocation=OTHER.to_json(), note="more"),
        AnsweredProposal(action="refuse", note="no"),
    ]
    with pytest.raises(UserError, match="each of 3 proposals"):
        room.answer(question.id, decisions[:2])
    with pytest.raises(UserError, match="wait no longer"):
        room.answer("another", decisions)
    room.answer(question.id, decisions)
    assert room.question() is None
    with pytest.raises(UserError, match="wait no longer"):
        room.answer(question.id, decisions)
    assert await asking == [
        Decision(action="approve"),
        Decision(action="edit", allocation=OTHER, note="more"),
        Decision(action="refuse", note="no"),
    ]
    assert not room.path.exists()
    assert await room.ask([]) == []


async def test_what_a_killed_search_left_and_what_is_no_answer_count_for_nothing(tmp_path: Path) -> None:
    """A new question replaces the old one; a broken answer, and one to another question, are not taken."""
    room = WaitingRoom(tmp_path / "run.duckdb")
    room.path.mkdir()
    (room.path / "question.json").write_text(Question(id="old", proposals=()).model_dump_json())
    (room.path / "answer.json").write_text('{"id": "old", "decisions": []}')
    asking = asyncio.create_task(room.ask([pending(0)]))
    while (question := await waiting(room)).id == "old":
        await asyncio.sleep(0.01)
    for text in ("{", '{"id": "old", "decisions": []}', '{"id": "x", "decisions": [], "more": 1}'):
        (room.path / "answer.json").write_text(text)
        await asyncio.sleep(0.3)
        assert not asking.done() and room.question() == question
    (room.path / "answer.json").unlink()
    room.answer(question.id, [AnsweredProposal(action="refuse")])
    assert await asking == [Decision(action="refuse")]


async def test_a_search_that_ends_takes_its_question_along(tmp_path: Path) -> None:
    """At Ctrl-C nothing waits any more."""
    room = WaitingRoom(tmp_path / "run.duckdb")
    asking = asyncio.create_task(room.ask([pending(0)]))
    await waiting(room)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert room.question() is None and not room.path.exists()
