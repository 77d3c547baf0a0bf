"""`agenttts tune verifier` on a search's samples, with a language model as backbone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agenttts.p2c.verifier import JudgedTexts, judged_texts
from agenttts.replay.judged import drawn_ids
from datastore import Store
from pipelines.dataset.splits import load_examples
from pipelines.spec.files import load_spec
from tests.agenttts.commands import agenttts
from tests.agenttts.tasktune.museum import ZOO


@pytest.mark.parametrize("stage", ["retrieve", "answer"])
def test_samples_are_told_right_from_wrong(recorded: Path, searched: Path, stage: str) -> None:
    """Of the examples that were drawn alone; pairs set right ones above wrong ones of the same prompt."""
    spec = load_spec(recorded)
    examples = {example.id: example for example in load_examples(spec, "search")}
    lent = drawn_ids(list(examples.values()), 0.5, 0)

    async def gather() -> JudgedTexts:
        with Store.read(searched) as store:
            return await judged_texts(store, None, spec, stage, only=lent)

    found = asyncio.run(gather())
    assert set(found.groups) <= lent
    gold = "clue" if stage == "retrieve" else "gold"
    for text, group in zip(found.texts, found.groups, strict=True):
        prompt, answer = text.text.split("\n\n")
        assert prompt.split()[1] == group
        assert text.label == int(answer == examples[group][gold])
    pairs = found.pairs()
    assert pairs.known
    for i, j in pairs.known:
        assert found.prompts[i] == found.prompts[j]
        assert (found.texts[i].label, found.texts[j].label) == (1, 0)


def test_the_command(recorded: Path, searched: Path, tmp_path: Path, tuning_libraries: None) -> None:
    """It exports a classifier that transformers loads, and says how well it tells samples apart."""
    from transformers import AutoModelForSequenceClassification

    command = ["tune", "verifier", recorded, "--stage", "retrieve", "--base", ZOO / "models/small"]
    command += ["--out", tmp_path / "v", "--db", searched, "--epochs", 1, "--learning-rate", 1e-3]
    done = agenttts(*command, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert 0 <= found["right_above_wrong"] <= 1
    assert found["labels"] == ["wrong", "right"]
    assert found["texts"]["validation"] > 0
    model = AutoModelForSequenceClassification.from_pretrained(found["path"])
    assert sum(p.numel() for p in model.parameters()) == found["active_params"]
    again = agenttts(*command)
    assert again.code == 2
    assert "must be free" in again.err


def test_a_stage_that_is_not_there(recorded: Path, searched: Path) -> None:
    """The stages there are, are named."""
    done = agenttts(
        *("tune", "verifier", recorded, "--stage", "reflect", "--base", "x", "--out", "y", "--db", searched)
    )
    assert done.code == 2
    assert "unknown stage 'reflect'" in done.err
    assert "Traceback" not in done.err
