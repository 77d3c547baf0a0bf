"""`agenttts tune tasks`: what becomes of an LLM's proposals, and a judge asked in both orders."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agenttts.errors import UserError
from agenttts.llm import AgentSettings, JsonChat
from agenttts.tasktune.data.judge import prefer
from agenttts.tasktune.data.subtask import SubTask, load_subtasks
from datastore import Store
from tests.agenttts.commands import agenttts
from tests.servers.scripted import Request, ScriptedServer

ROOMY = {"small": 100_000}


def proposal(name: str, instruction: str, output: str, gold: Any, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "instruction": instruction,
        "inputs": [{"name": "ruling", "type": "text"}],
        "output": output,
        "choices": more.pop("choices", []),
        "language": "en",
        "example": {"inputs": {"ruling": "The claim is dismissed."}, "output": gold},
        **more,
    }


PROPOSALS = [
    proposal(
        "Outcome", "Say how the court decided.", "choice", "dismissed", choices=["granted", "dismissed"]
    ),
    proposal("key words", "List the legal key words of the ruling.", "list", ["claim", "dismissed"]),
    proposal("Keywords!", "List the legal key words of the ruling.", "list", ["claim"]),
    proposal("weather", "Say what the weather was on the day.", "text", "rain"),
    proposal(
        "verdict", "Name the verdict of the judges in one word.", "choice", "upheld", choices=["a", "b"]
    ),
    proposal("numbers", "List every number there is in the text.", "list", 5),
    proposal("motive", "Explain the motive behind the whole affair.", "text", "greed"),
]


CHINESE = {
    "争议焦点归纳": "归纳本案的争议焦点。",
    "判决结果预测": "预测法院的判决结果。",
    "案由识别": "识别案件的案由。",
}


def answer(request: Request, index: int) -> str:
    text = request.prompt
    if "Name up to" in text:
        return json.dumps({"subtasks": PROPOSALS if "dismissed" in text else []})
    if "weather" in text:
        return json.dumps({"answerable": False, "output": ""})
    if "motive" in text:
        return json.dumps({"answerable": True, "output": "jealousy"})
    return json.dumps(
        {"answerable": True, "output": "dismissed" if "decided" in text else ["claim", "dismissed"]}
    )


def test_proposals_are_checked(
    tmp_path: Path, make_server: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doubles are merged; what the document can't answer, or answers otherwise when asked again, is left out;
    the rest is a file that reads back. The same command again asks nothing."""
    server = make_server(answer=answer, models=ROOMY)
    monkeypatch.setenv("AGENTTTS_AGENT_BASE_URL", server.base_url)
    monkeypatch.setenv("AGENTTTS_AGENT_MODEL", "small")
    (tmp_path / "ruling.txt").write_text("The claim is dismissed.")
    command = ["tune", "tasks", tmp_path / "ruling.txt", "--domain", "Rulings", "--db", tmp_path / "s.duckdb"]
    done = agenttts(*command, "--out", tmp_path / "subtasks.yaml")
    assert done.code == 0, done.err
    tasks = load_subtasks(tmp_path / "subtasks.yaml")
    assert [task.name for task in tasks.subtasks] == ["outcome", "key_words"]
    assert tasks.subtasks[0].choices == ("granted", "dismissed")
    assert "left out keywords: nearly the same as key_words" in done.err
    assert "left out weather: can't be answered from its document" in done.err
    assert "left out verdict: its example's output is none by its own rules" in done.err
    assert "left out motive: its example says 'greed', asked again the LLM says 'jealousy'" in done.err
    asked = len(server.arrived)
    assert agenttts(*command, "--out", tmp_path / "again.yaml").code == 0
    assert len(server.arrived) == asked
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "subtasks.yaml").read_text()


def test_names_of_any_script_are_kept(
    tmp_path: Path, make_server: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chinese names are names: none is lost, and the file reads back."""
    proposals = [proposal(name, instruction, "text", "驳回") for name, instruction in CHINESE.items()]
    answers = {"subtasks": proposals, "answerable": True, "output": "驳回"}

    def chinese(request: Request, index: int) -> str:
        keys = ["subtasks"] if "Name up to" in request.prompt else ["answerable", "output"]
        return json.dumps({key: answers[key] for key in keys})

    server = make_server(answer=chinese, models=ROOMY)
    monkeypatch.setenv("AGENTTTS_AGENT_BASE_URL", server.base_url)
    monkeypatch.setenv("AGENTTTS_AGENT_MODEL", "small")
    (tmp_path / "ruling.txt").write_text("驳回诉讼请求。", encoding="utf-8")
    command = ["tune", "tasks", tmp_path / "ruling.txt", "--domain", "民事判决", "--out", tmp_path / "s.yaml"]
    done = agenttts(*command, "--db", tmp_path / "s.duckdb")
    assert done.code == 0, done.err
    assert [task.name for task in load_subtasks(tmp_path / "s.yaml").subtasks] == list(CHINESE)


def test_a_document_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    """Before an LLM is asked for: exit code 2 and the name, whatever is wrong with the file."""
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    for name, reason in (
        ("none.txt", "No such file"),
        (".", "Is a directory"),
        ("latin.txt", "must be UTF-8"),
    ):
        done = agenttts(
            "tune", "tasks", tmp_path / name, "--domain", "Rulings", "--db", tmp_path / "s.duckdb"
        )
        assert done.code == 2 and len(done.errors) == 1, done.err
        assert str(tmp_path / name) in done.errors[0] and reason in done.errors[0]
    done = agenttts("tune", "tasks", "--template", "legal-zh", "--out", tmp_path / "none" / "s.yaml")
    assert done.code == 2 and "its directory does not exist" in done.errors[0]


def test_a_template_needs_no_llm(tmp_path: Path) -> None:
    """A ready domain is written as it is, never over another file."""
    done = agenttts("tune", "tasks", "--template", "legal-zh", "--out", tmp_path / "subtasks.yaml")
    assert done.code == 0, done.err
    assert load_subtasks(tmp_path / "subtasks.yaml").subtasks[0].languages == ("zh",)
    again = agenttts("tune", "tasks", "--template", "legal-en", "--out", tmp_path / "subtasks.yaml")
    assert again.code == 2
    assert "must be free" in again.err
    assert agenttts("tune", "tasks", "--template", "cooking", "--out", tmp_path / "x.yaml").code == 2
    assert "legal-zh" in agenttts("tune", "tasks", "--template", "list").out


@pytest.mark.parametrize(
    ("said", "expected"),
    [(("A", "B"), "first"), (("B", "A"), "second"), (("A", "A"), "tie"), (("tie", "B"), "tie")],
)
def test_the_judge_is_asked_in_both_orders(
    tmp_path: Path, make_server: Callable[..., ScriptedServer], said: tuple[str, str], expected: str
) -> None:
    """A preference counts where both orders agree; a judge that always says A prefers nobody."""

    def judged(request: Request, index: int) -> str:
        first = request.prompt.index("apple") < request.prompt.index("pear")
        return json.dumps({"better": said[0] if first else said[1]})

    server = make_server(answer=judged, models=ROOMY)
    task = SubTask.model_validate(
        {"name": "t", "instruction": "Name a fruit.", "inputs": {"x": "text"}, "metric": "exact_match"}
    )

    async def ask() -> str:
        with Store.open(tmp_path / "s.duckdb") as store:
            async with JsonChat(AgentSettings(base_url=server.base_url, model="small"), store) as chat:
                return await prefer(task, [{"role": "user", "content": "?"}], "apple", "pear", chat)

    assert asyncio.run(ask()) == expected
    assert len(server.arrived) == 2


@pytest.mark.parametrize(
    ("reply", "raised", "words"),
    [
        ((400, {"error": {"message": "flagged", "code": "content_filter"}}, {}), ValueError, "flagged"),
        ((401, {"error": {"message": "who are you?"}}, {}), UserError, "who are you?"),
    ],
)
def test_a_question_that_is_refused_is_one_and_a_key_is_all(
    tmp_path: Path,
    make_server: Callable[..., ScriptedServer],
    reply: Any,
    raised: type[Exception],
    words: str,
) -> None:
    """A filtered question is a ValueError, which leaves one row out; a wrong key ends the command."""
    server = make_server(models=ROOMY, reply=lambda request: reply if "bad" in request.prompt else None)

    async def ask() -> None:
        with Store.open(tmp_path / "s.duckdb") as store:
            async with JsonChat(AgentSettings(base_url=server.base_url, model="small"), store) as chat:
                await chat.ask([{"role": "user", "content": "bad"}], {"type": "object"})

    with pytest.raises(raised, match=re.escape(words)):
        asyncio.run(ask())
