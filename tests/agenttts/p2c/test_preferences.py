"""`agenttts tune prefer`: preferences from votes, from an LLM asked in both orders, and from files."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agenttts.errors import UserError
from agenttts.p2c.classifier import ClassifierConfig, classifier_texts
from agenttts.p2c.preferences import drawn_pairs, known_pairs, warnings_of
from agenttts.p2c.texts import LabelledText
from datastore import Store
from pipelines.spec.configfile import load_config
from tests.agenttts.commands import agenttts
from tests.servers.scripted import Request, ScriptedServer

ROOMY = {"small": 100_000}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A classifier of twenty polite and twenty rude texts with votes; the longer, the more of its label."""
    with (tmp_path / "texts.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "polite", "rude"])
        for n in range(20):
            writer.writerow(["please " * (n + 1) + "thank you", 25 + n, 5 - n / 5])
            writer.writerow(["go away " * (n + 1), 1, 9 + n])
    path = tmp_path / "classifier.yaml"
    path.write_text(
        "base: encoder\ndata: texts.csv\nout: tone\nlabels: [polite, rude]\nvotes: [polite, rude]\n"
    )
    return path


def training_texts(config: Path) -> set[str]:
    loaded = load_config(config, ClassifierConfig)
    return {one.text for one in classifier_texts(loaded, config.parent)[0]}


def by_length(request: Request, index: int) -> str:
    """Prefers the longer text, wherever it stands."""
    text = str(request.body["messages"][1]["content"])
    a, b = text.split("\n\nA: ")[1].split("\n\nAnswer")[0].split("\n\nB: ")
    return json.dumps({"preferred": "none" if len(a) == len(b) else "A" if len(a) > len(b) else "B"})


def test_an_llm_is_asked_in_both_orders(
    config: Path, tmp_path: Path, make_server: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its preferences are stored with prompt and judge; a second time nothing is asked or doubled."""
    server = make_server(answer=by_length, models=ROOMY)
    monkeypatch.setenv("AGENTTTS_AGENT_BASE_URL", server.base_url)
    monkeypatch.setenv("AGENTTTS_AGENT_MODEL", "small")
    command = ["tune", "prefer", "tone", config]
    command += ["--pairs", 30, "--db", tmp_path / "s.duckdb"]
    dry = agenttts(*command, "--dry-run")
    assert "60 calls" in dry.err
    assert not server.arrived
    done = agenttts(*command, "--json")
    assert done.code == 0, done.err
    assert done.json["total"] == 30
    assert done.json["added"]["tie"] == 0
    assert len(server.arrived) == 60
    with Store.read(tmp_path / "s.duckdb") as store:
        stored = store.preferences("tone")
    assert all((one.preferred == 1) == (len(one.first) > len(one.second)) for one in stored)
    assert {one.judge for one in stored} == {"small"}
    assert all(one.prompt and one.first in one.prompt for one in stored)
    assert agenttts(*command, "--json").json["total"] == 30
    assert len(server.arrived) == 60


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('{"preferred": "A"}', "the judge named the first text in 100% of 20 answers"),
        ("A!", "the judge gave no proper answer in 100% of 20 answers"),
        ('{"preferred": "none"}', "the judge had no preference in 100% of 20 answers"),
    ],
)
def test_a_judge_that_prefers_nothing(
    config: Path,
    tmp_path: Path,
    make_server: Callable[..., ScriptedServer],
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    told: str,
) -> None:
    """One that always says A makes ties only, and a warning."""
    server = make_server(answer=lambda request, index: said, models=ROOMY)
    monkeypatch.setenv("AGENTTTS_AGENT_BASE_URL", server.base_url)
    monkeypatch.setenv("AGENTTTS_AGENT_MODEL", "small")
    command = ["tune", "prefer", "tone", config]
    done = agenttts(*command, "--pairs", 10, "--db", tmp_path / "s.duckdb", "--json")
    assert done.code == 0, done.err
    assert done.json["added"] == {"first": 0, "second": 0, "tie": 10}
    assert told in done.err


def test_votes_and_files(config: Path, tmp_path: Path) -> None:
    """The larger share is preferred; a margin makes ties; exported, imported, the same."""
    db = tmp_path / "s.duckdb"
    command = ["tune", "prefer", "tone", config]
    done = agenttts(*command, "--source", "votes", "--pairs", 40, "--db", db, "--json")
    assert done.code == 0, done.err
    with Store.read(db) as store:
        stored = store.preferences("tone")
    assert all((one.preferred == 1) == (len(one.first) > len(one.second)) for one in stored)
    config.write_text(config.read_text() + "preferences: {tie: 1}\n")
    wide = agenttts(*command, "--source", "votes", "--pairs", 40, "--db", tmp_path / "t.duckdb")
    assert wide.code == 0 and "40 ties (100%)" in wide.err
    assert agenttts("tune", "prefer", "tone", "--export", tmp_path / "out.csv", "--db", db).code == 0
    again = agenttts("tune", "prefer", "mine", "--import", tmp_path / "out.csv", "--db", db, "--json")
    assert again.json["total"] == len(stored)
    with Store.read(db) as store:
        found = {(one.first, one.second, one.preferred) for one in store.preferences("mine")}
    assert found == {(one.first, one.second, one.preferred) for one in stored}


def test_pairs_are_between_training_texts(config: Path, tmp_path: Path) -> None:
    """Whatever the training's seed: every pair that is paid for can be learnt from."""
    db = tmp_path / "s.duckdb"
    config.write_text(config.read_text() + "split_seed: 3\nsettings: {seed: 5}\n")
    done = agenttts("tune", "prefer", "tone", config, "--source", "votes", "--pairs", 100, "--db", db)
    assert done.code == 0, done.err
    with Store.read(db) as store:
        texts = {text for one in store.preferences("tone") for text in (one.first, one.second)}
    known = training_texts(config)
    assert texts <= known and 20 < len(known) < 40
    config.write_text(config.read_text().replace("split_seed: 3", "split_seed: 4"))
    assert not texts <= training_texts(config)
    assert "name the classifier's file" in agenttts("tune", "prefer", "tone", "--db", db).err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("first,second,label\na,b,x\n", "out.csv:2: the column 'preferred' must be there"),
        ("first,second,label,preferred\na,b,x,2\n", "out.csv:2: preferred is 1, 0 or 0.5, got '2'"),
        ("first,second,label,preferred\n,b,x,1\n", "out.csv:2: the column 'first' must be there"),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str, told: str) -> None:
    """Place, column and value; nothing is stored."""
    (tmp_path / "out.csv").write_text(text)
    done = agenttts("tune", "prefer", "tone", "--import", tmp_path / "out.csv", "--db", tmp_path / "s.duckdb")
    assert done.code == 2
    assert told in done.err


def test_judges_are_put_together() -> None:
    """The majority counts, a draw is a tie, whichever way round a pair was asked; strangers are left out."""
    some = [LabelledText(text=t, label=0) for t in "abc"]
    from agenttts.p2c.preferences import preference

    def said(first: int, second: int, preferred: float, judge: str):  # type: ignore[no-untyped-def]
        return preference(
            "c", some[first], some[second], ["x"], preferred, source="people", judge=judge, at=0.0
        )

    given = [
        said(0, 1, 1.0, "p"),
        said(1, 0, 0.0, "q"),
        said(0, 1, 0.0, "r"),
        said(1, 2, 1.0, "p"),
        said(1, 2, 0.0, "q"),
    ]
    assert known_pairs(given, some, ["x"]) == {(0, 1): 1.0, (1, 2): 0.5}
    with pytest.raises(UserError, match="none of the preferences is about two of these texts"):
        known_pairs(given, some[:1], ["x"])


def test_pairs_are_drawn_within_classes() -> None:
    """Distinct, by the seed, no more than there are; a class of one text has none."""
    some = [LabelledText(text=str(i), label=i % 2) for i in range(8)] + [LabelledText(text="z", label=2)]
    drawn = drawn_pairs(some, 100, 0)
    assert len(drawn) == len(set(drawn)) == 12
    assert all(some[i].label == some[j].label for i, j in drawn)
    assert drawn_pairs(some, 5, 1) == drawn_pairs(some, 5, 1)
    with pytest.raises(UserError, match="no class has two texts"):
        drawn_pairs(some[-1:], 1, 0)
    assert warnings_of(["A", "B"] * 10) == []


def test_a_person_judges(tmp_path: Path) -> None:
    """Each answer is stored at once; undo takes it back; a person goes on later; agreement is told."""
    from agenttts.p2c.judging import Judging, ShownPair, judged_pairs

    some = [LabelledText(text="word " * (n + 1) + "<b>", label=0) for n in range(8)]
    asked = drawn_pairs(some, 10, 0)
    ticks = itertools.count()

    def longer(pair: ShownPair) -> float:
        return float(len(pair.first) > len(pair.second))

    with Store.open(tmp_path / "s.duckdb") as store:

        def judging(person: str) -> Judging:
            return Judging(store, "c", person, some, ["long"], asked, lambda: float(next(ticks)))

        ada = judging("ada")
        for _ in range(6):
            pair = ada.state().pair
            assert pair is not None
            ada.answer(pair.number, longer(pair))
        state = ada.state()
        assert (state.done, state.total, state.agreement) == (6, 10, None)
        ada.undo()
        assert ada.state().done == 5 and len(store.preferences("c")) == 5
        for number, preferred in ((99, 1.0), (0, 7.0), (-1, 1.0)):
            with pytest.raises(ValueError, match="no such pair"):
                ada.answer(number, preferred)
        again = judging("ada")
        assert again.state().done == 5
        again.answer(0, 0.5)  # the first pair once more, by the browser's way back
        later = judging("ada")
        later.undo()
        pair = later.state().pair
        assert pair is not None and pair.number == 0, "the answer that was given last"
        again = judging("ada")
        while (pair := again.state().pair) is not None:
            again.answer(pair.number, longer(pair))
        stored = store.preferences("c")
        assert len(stored) == 10
        assert all((one.preferred == 1) == (len(one.first) > len(one.second)) for one in stored)
        assert {one.source for one in stored} == {"people"}
        bob = Judging(
            store, "c", "bob", some, ["long"], judged_pairs(store, "c", some, ["long"]), lambda: 2.0
        )
        for number in range(10):
            pair = bob.state().pair
            assert pair is not None
            prefers = longer(pair)
            bob.answer(pair.number, prefers if number < 8 else 1 - prefers)
        assert bob.state().agreement == pytest.approx(0.8)
