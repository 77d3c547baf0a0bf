"""Proposals that wait beside the database for a decision of another process."""

from __future__ import annotations

import asyncio
import errno
import json
import os
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
        run_id="run",
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
    assert question.run_id == "run"
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
    room.path.mkdir(mode=0o700)
    old = Question(id="old", run_id="run", proposals=())
    (room.path / "question.json").write_text(old.model_dump_json())
    (room.path / "answer.json").write_text('{"id": "old", "decisions": []}')
    asking = asyncio.create_task(room.ask([pending(0)]))
    while (question := await waiting(room)).id == "old":
        await asyncio.sleep(0.01)
    approved = '{"action": "approve"}'
    edits = (
        "null",
        *map(json.dumps, ("no JSON", "[1]", "[" * 100_000, '{"other": {}}', '{"answer": {}}', "{}")),
    )
    no_answers = ["{", '{"id": "old", "decisions": []}', '{"id": "x", "decisions": [], "more": 1}']
    no_answers += [
        f'{{"id": "{question.id}", "decisions": [{decisions}]}}'
        for decisions in (
            "",
            f"{approved}, {approved}",
            f'{{"action": "approve", "allocation": {json.dumps(ONE.to_json())}}}',
            *(f'{{"action": "edit", "allocation": {edit}}}' for edit in edits),
        )
    ]
    for text in no_answers:
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


@pytest.mark.parametrize("other", ["open to all", "a link", "a file", "another's"])
async def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path, other: str) -> None:
    """What was there before the search is used only where it is a directory of its owner alone."""
    room = WaitingRoom(tmp_path / "run.duckdb")
    match other:
        case "open to all":
            room.path.mkdir()
            room.path.chmod(0o777)
        case "a link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            room.path.symlink_to(tmp_path / "elsewhere")
        case "a file":
            room.path.touch()
        case _:
            if os.getuid() != 0:
                pytest.skip("only root can make another's directory")
            room.path.mkdir(mode=0o700)
            os.chown(room.path, 12345, -1)
    with pytest.raises(UserError, match="nobody else can enter"):
        await asyncio.wait_for(room.ask([pending(0)]), 5)
    assert not list(tmp_path.rglob("*.json"))


async def test_an_answer_that_comes_too_late_or_finds_no_room_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the search ends between question and answer, or the disk is full, nothing is left behind."""
    room = WaitingRoom(tmp_path / "run.duckdb")
    asking = asyncio.create_task(room.ask([pending(0)]))
    question = await waiting(room)
    with monkeypatch.context() as full:

        def no_room(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr(os, "fsync", no_room)
        with pytest.raises(UserError, match="No space left"):
            room.answer(question.id, [AnsweredProposal(action="approve")])
    assert [file.name for file in room.path.iterdir()] == ["question.json"]
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    monkeypatch.setattr(room, "question", lambda: question)  # as it was read before the search ended
    with pytest.raises(UserError, match="wait no longer"):
        room.answer(question.id, [AnsweredProposal(action="approve")])


def test_databases_of_one_stem_have_a_directory_each(tmp_path: Path) -> None:
    """`run.duckdb` and `run.db` beside each other are two searches."""
    assert WaitingRoom(tmp_path / "run.duckdb").path != WaitingRoom(tmp_path / "run.db").path
