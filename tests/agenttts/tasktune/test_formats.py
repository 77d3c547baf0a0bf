"""Data as people have it: chats in four forms, weights, wrong answers, JSON as text, contradicting labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agenttts.errors import UserError
from agenttts.tasktune.data.build import DataConfig, run_build
from agenttts.tasktune.data.dataset import TaskData
from agenttts.tasktune.data.rows import TaskRow
from agenttts.tasktune.fit import fit
from pipelines.zoo import SPEC
from tests.agenttts.commands import agenttts
from tests.agenttts.tasktune.museum import fit_config
from tests.real_data import need

SMALL = SPEC.parent / "models/small"
CHAT: Mapping[str, object] = {
    "name": "reply",
    "instruction": "answer",
    "inputs": {"chat": "chat"},
    "metric": "rouge_l",
}


def built(
    folder: Path, rows: Sequence[Mapping[str, object]], task: Mapping[str, object] = CHAT, **source: Any
) -> TaskData:
    """The dataset of rows, all for training."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "subtasks.yaml").write_text(json.dumps({"domain": "d", "subtasks": [task]}))
    config = {
        "out": "data",
        "subtasks": "subtasks.yaml",
        "eval_share": 0,
        "near_duplicates": None,
        "sources": [{"kind": "file", "task": task["name"], "path": "rows.jsonl", **source}],
    }
    return run_build(DataConfig.model_validate(config), folder, llm=None)


def dropped(data: TaskData) -> list[str]:
    """Why each row was dropped, in order."""
    lines = (data.path / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["reason"] for line in lines]


def chat_of(row: TaskRow) -> list[tuple[str, str]]:
    """Role and content of each message up to the answer."""
    return [(message["role"], message["content"]) for message in row.messages]


def said(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """A chat whose turns are the user's and the assistant's in turn."""
    chat = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return ([{"role": "system", "content": system}] if system else []) + chat


def test_every_answer_of_a_chat_is_learnt(tmp_path: Path) -> None:
    """A chat of two turns gives two rows, the second after the first, with the system prompt in both."""
    data = built(tmp_path, [{"messages": said("a?", " b ", "c?", "d", system="be brief")}], format="messages")
    first, second = data.train
    assert chat_of(first) == [("system", "be brief"), ("user", "a?")] and first.completion == "b"
    assert chat_of(second)[2:] == [("assistant", " b "), ("user", "c?")] and second.completion == "d"
    assert second.source.endswith("rows.jsonl:1, answer 2")


def test_share_gpt(tmp_path: Path) -> None:
    """Its roles have names of their own, and the system prompt may have a column."""
    turns = [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]
    rows = [{"conversations": turns, "system": "be brief"}, {"conversations": turns, "system": ""}]
    data = built(tmp_path, rows, format="sharegpt")
    assert [chat_of(row) for row in data.train] == [
        [("system", "be brief"), ("user", "a?")],
        [("user", "a?")],
    ]


def test_alpaca(tmp_path: Path) -> None:
    """An input may be empty or absent; earlier turns are context and not learnt again."""
    rows: list[dict[str, object]] = [
        {"instruction": "Add.", "input": "1, 2", "output": "3 \n"},
        {"instruction": "Greet.", "input": " ", "output": "Hello."},
        {"instruction": "And now?", "output": "Bye.", "history": [["Greet.", "Hello."]]},
    ]
    data = built(tmp_path, rows, format="alpaca")
    assert [(chat_of(row)[-1][1], row.completion) for row in data.train] == [
        ("Add.\n\n1, 2", "3"),
        ("Greet.", "Hello."),
        ("And now?", "Bye."),
    ]
    assert len(data.train[2].messages) == 3


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a?", "chosen": "b", "rejected": "c"},
        {"prompt": said("a?"), "chosen": said("a?", "b")[1:], "rejected": said("a?", "c")[1:]},
        {"chosen": said("a?", "b"), "rejected": said("a?", "c")},
        {"prompt": "a?", "chosen": said("a?", "b"), "rejected": said("a?", "c")},
    ],
)
def test_preferences(row: Mapping[str, object], tmp_path: Path) -> None:
    """However the request is given: the right answer is a row, and with the wrong one a pair."""
    data = built(tmp_path, [row], format="preferences")
    assert [(chat_of(one), one.completion) for one in data.train] == [([("user", "a?")], "b")]
    assert [(pair.messages, pair.chosen, pair.rejected) for pair in data.pairs] == [
        (data.train[0].messages, "b", "c")
    ]


def test_what_is_no_chat_goes_with_its_reason(tmp_path: Path) -> None:
    """Unknown roles, blank turns, chats without an answer, answers before any question."""
    chats: list[object] = [
        said("fine?", "yes"),
        [{"role": "tool", "content": "x"}],
        said("a?", "  "),
        said("a?"),
        said("a?", "b")[1:],
        "a?",
        [*said("a?", "b"), {"role": "system", "content": "late"}],
    ]
    data = built(tmp_path, [{"messages": chat} for chat in chats], format="messages")
    assert len(data.train) == 1
    assert dropped(data) == [
        "message 1: role must be system, user, assistant, got 'tool'",
        "message 2: content must be a text that is not blank, got '  '",
        "the chat has no answer of the assistant",
        "an answer must follow a message of the user, 'b' does not",
        "a chat must be a list of messages, got 'a?'",
        "message 3: role must be system, user, assistant first, got 'system'",
    ]


def test_a_format_and_a_sub_task_that_do_not_go_together(tmp_path: Path) -> None:
    """One line says which input or column is wanted."""
    asking = {"name": "x", "instruction": "x", "inputs": {"q": "text"}, "metric": "exact_match"}
    with pytest.raises(UserError, match="needs a sub-task with one input of the type chat, x has q: text"):
        built(tmp_path, [{"messages": said("a?", "b")}], asking, format="messages")
    with pytest.raises(UserError, match="needs the column 'messages', the row has turns"):
        built(tmp_path, [{"turns": said("a?", "b")}], format="messages")
    with pytest.raises(UserError, match="turn is no field of the format messages"):
        built(tmp_path, [{"turns": said("a?", "b")}], format="messages", map={"turn": "turns"})
    data = built(tmp_path, [{"turns": said("a?", "b")}], format="messages", map={"messages": "turns"})
    assert len(data.train) == 1


CAPITAL: Mapping[str, object] = {
    "name": "capital",
    "instruction": "Name the capital.",
    "inputs": {"land": "text"},
    "metric": "exact_match",
}


def test_weights_and_wrong_answers_of_a_table(tmp_path: Path) -> None:
    """A column says how often an epoch shows a row, another holds an answer that is wrong."""
    rows: list[dict[str, object]] = [
        {"land": "France", "output": " Paris\n", "bad": "Lyon ", "w": 3},
        {"land": "Spain", "output": "Madrid", "bad": "Madrid", "w": "2"},
        {"land": "Italy", "output": "Rome", "bad": "Milan", "w": 0.5},
        {"land": " ", "output": "Rome", "bad": "Milan", "w": 1},
    ]
    data = built(tmp_path, rows, CAPITAL, weight="w", rejected="bad")
    assert [(row.completion, row.weight) for row in data.train] == [("Paris", 3), ("Madrid", 2)]
    assert [(pair.chosen, pair.rejected) for pair in data.pairs] == [("Paris", "Lyon")]
    assert dropped(data) == [
        "the rejected answer is the chosen one",
        "its weight must be a whole number from 1, got 0.5",
        "input land is empty",
    ]


def test_json_given_as_text(tmp_path: Path) -> None:
    """It is compared as the value that it writes, and learnt to the letter; what is no JSON goes."""
    task = {
        "name": "facts",
        "instruction": "x",
        "inputs": {"text": "text"},
        "parser": {"kind": "json"},
        "metric": "accuracy",
    }
    rows: list[dict[str, object]] = [
        {"text": "a", "output": '{"size":  1}'},
        {"text": "b", "output": {"size": 2}},
        {"text": "c", "output": "{size: 3"},
        {"text": "d", "output": ["", " x"]},
    ]
    data = built(tmp_path, rows, task)
    assert [(row.completion, row.fields["output"]) for row in data.train] == [
        ('{"size":  1}', {"size": 1}),
        ('{"size": 2}', {"size": 2}),
        ('["", " x"]', ["", " x"]),
    ]
    assert len(dropped(data)) == 1


def test_contradicting_labels_are_reported(tmp_path: Path) -> None:
    """Rows with one request and two right answers are flagged with their lines, and dropped where asked;
    answers that the metric takes for the same are no contradiction."""
    rows = [
        {"land": land, "output": capital}
        for land, capital in [("Bolivia", "Sucre"), ("Bolivia", "La Paz"), ("Peru", "Lima"), ("Peru", "LIMA")]
    ]
    data = built(tmp_path, rows, CAPITAL)
    assert data.card.flagged == {"contradicted": 2}
    flagged = [json.loads(line) for line in (data.path / "flagged.jsonl").read_text().splitlines()]
    assert [(one["flags"], one["source"][-1], one["completion"]) for one in flagged] == [
        (["contradicted"], "1", "Sucre"),
        (["contradicted"], "2", "La Paz"),
    ]
    config = json.loads(json.dumps(data.card.to_json_dict()["config"])) | {"drop_contradicted": True}
    left = run_build(DataConfig.model_validate(config), tmp_path, llm=None)
    assert [row.completion for row in left.train] == ["Lima", "LIMA"]
    assert "says 'Sucre'" in dropped(left)[0] and "says 'La Paz'" in dropped(left)[0]


@pytest.mark.usefixtures("tuning_libraries")
def test_a_preview_shows_what_is_learnt(tmp_path: Path) -> None:
    """The template's own text, the answer and its end apart, whose tokens are those of the training."""
    built(tmp_path, [{"messages": said("where is it ?", "here")}], format="messages")
    done = agenttts("tune", "preview", tmp_path / "data", "--base", SMALL)
    assert done.code == 0, done.err
    assert "<|bos|><|user|>where is it ?<|assistant|>⟦here<|eos|>⟧" in done.out
    (row,) = json.loads(agenttts("tune", "preview", tmp_path / "data", "--base", SMALL, "--json").out)
    assert row["context"][:2] == ["<|bos|>", "<|user|>"] and row["learnt"][-1] == "<|eos|>"
    assert f"{len(row['context']) + len(row['learnt'])} tokens, {len(row['learnt'])} learnt" in done.out
    assert agenttts("tune", "preview", tmp_path / "data", "--base", tmp_path).code == 2
    assert agenttts("tune", "preview", tmp_path / "data", "--base", SMALL, "--split", "test").code == 2


@pytest.mark.usefixtures("tuning_libraries")
def test_a_chat_that_the_template_refuses(tmp_path: Path) -> None:
    """One line names the template's reason, in a preview as in a training."""
    import shutil

    built(tmp_path, [{"messages": said("a?", "b", system="be brief")}], format="messages")
    base = tmp_path / "strict"
    shutil.copytree(SMALL, base)
    template = (SMALL / "chat_template.jinja").read_text()
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    (base / "chat_template.jinja").write_text(refusal + template)
    done = agenttts("tune", "preview", tmp_path / "data", "--base", base)
    assert done.code == 2 and "refuses a chat of system, user: no system role" in done.err
    with pytest.raises(UserError, match="refuses a chat of system, user: no system role"):
        fit(fit_config(base=str(base), data="data"), tmp_path)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_published_alpaca_rows(language: str, tmp_path: Path) -> None:
    """400 rows with inputs of one space are all read, Chinese names of sub-tasks included."""
    rows = json.loads(need(f"tasktune/machine_mindset_{language}_400.json").read_text(encoding="utf-8"))
    data = built(tmp_path, rows, {**CHAT, "name": "争议焦点归纳"}, format="alpaca")
    assert data.card.steps["schema"] == 400 and list(data.tasks) == ["争议焦点归纳"]
    assert all(row.messages[0]["content"] == row.messages[0]["content"].strip() for row in data.train)
