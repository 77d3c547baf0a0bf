"""`agenttts tune verifier` on a search's samples, with a language model as backbone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from agenttts.p2c.judgements import JudgedTexts, judged_texts
from agenttts.p2c.texts import LabelledText
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
    assert pairs.known and pairs.shares and list(pairs.known) == list(pairs.shares)
    drawn: dict[int, float] = {}
    for (i, j), share in pairs.shares.items():
        assert found.prompts[i] == found.prompts[j]
        assert (found.texts[i].label, found.texts[j].label) == (1, 0)
        drawn[found.prompts[i]] = drawn.get(found.prompts[i], 0.0) + share
    assert all(total == pytest.approx(8.0) for total in drawn.values())


def judged() -> JudgedTexts:
    """A prompt with one right text (3 samples) and two wrong ones (1 and 2), and one that is all right."""
    labels, counts, prompts = (1, 0, 0, 1), (3, 1, 2, 4), (0, 0, 0, 1)
    texts = [LabelledText(text=f"t{n}", label=label) for n, label in enumerate(labels)]
    return JudgedTexts(texts=texts, counts=counts, groups=["a", "a", "a", "b"], prompts=prompts)


def test_samples_count_as_often_as_they_were_drawn() -> None:
    """In the AUC of a prompt, in accuracy and base rate, and in the pairs of a training."""
    assert judged().prompt_aucs([0.5, 0.5, 0.1, 0.0]).tolist() == [pytest.approx((0.5 * 1 + 2) / 3)]
    assert judged().base_rate == pytest.approx(7 / 10)
    assert judged().accuracy([0.9, 0.8, 0.1, 0.2], 0.5) == pytest.approx((3 + 2) / 10)
    pairs = judged().pairs()
    assert pairs.shares == pytest.approx({(0, 1): 8 / 3, (0, 2): 16 / 3})
    drawn = [pair for seed in range(150) for pair in pairs.draw(np.random.default_rng(seed))]
    assert set(drawn) == {(0, 1), (0, 2)} and len(drawn) == 1200
    assert drawn.count((0, 2)) / 1200 == pytest.approx(2 / 3, abs=0.05)
    assert [one.text for one in judged().frequent(1, 0).texts] == ["t0", "t2", "t3"]


def test_the_command(recorded: Path, searched: Path, tmp_path: Path, tuning_libraries: None) -> None:
    """It exports a classifier that transformers loads, and tells how good it is inside prompts."""
    from transformers import AutoModelForSequenceClassification

    command = ["tune", "verifier", recorded, "--stage", "retrieve", "--base", ZOO / "models/small"]
    command += ["--out", tmp_path / "v", "--db", searched, "--epochs", 1, "--learning-rate", 1e-3]
    done = agenttts(*command, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert 0 <= found["auc"] <= 1 and found["prompts"] > 0
    assert found["labels"] == ["wrong", "right"] and not found["settings"]["balance"]
    assert found["texts"]["test"] > 0 and 0 < found["base_rate"] < 1
    model = AutoModelForSequenceClassification.from_pretrained(found["path"])
    assert sum(p.numel() for p in model.parameters()) == found["active_params"]
    again = agenttts(*command)
    assert again.code == 2
    assert "must be free" in again.err


def test_too_few_examples(recorded: Path, searched: Path, tmp_path: Path, tuning_libraries: None) -> None:
    """Weights, epoch and figures need an example each."""
    command = ["tune", "verifier", recorded, "--stage", "retrieve", "--base", ZOO / "models/small"]
    done = agenttts(*command, "--out", tmp_path / "v", "--db", searched, "--tune-share", 0.01)
    assert done.code == 2 and "needs samples of three examples at least, got 1" in done.err


def test_a_stage_that_is_not_there(recorded: Path, searched: Path) -> None:
    """The stages there are, are named."""
    done = agenttts(
        *("tune", "verifier", recorded, "--stage", "reflect", "--base", "x", "--out", "y", "--db", searched)
    )
    assert done.code == 2
    assert "unknown stage 'reflect'" in done.err
    assert "Traceback" not in done.err
