"""Prefer-to-classify: each loss term against numpy, training, resuming, export, and what it refuses."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agenttts.errors import UserError
from agenttts.p2c.metrics import (
    accuracy,
    calibration_error,
    consistency,
    macro_f1,
    matthews,
    preference_accuracy,
)
from agenttts.p2c.settings import P2CSettings
from agenttts.p2c.texts import LabelledText, Pairs, class_weights, read_texts, split_texts
from pipelines.dataset.rows import made_row
from tests.agenttts.p2c.tiny_bert import WORDS, write_backbone

pytestmark = pytest.mark.usefixtures("tuning_libraries")


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_each_term_is_that_of_the_formulas() -> None:
    """On random tensors, to 1e-6, against loops in numpy."""
    import torch

    from agenttts.p2c import losses as terms

    rng = np.random.default_rng(0)
    b, c, k = 13, 4, 3
    z1, z2 = rng.normal(size=(2, b, c))
    h1, h2 = np.tanh(rng.normal(size=(2, b, k)))
    y = rng.integers(c, size=b)
    t = rng.choice([0.0, 0.5, 1.0], size=b)
    s1, s2 = rng.dirichlet(np.ones(c), size=(2, b))
    s2[:3] = s1[:3]

    def as_tensor(x: np.ndarray) -> Any:
        return torch.tensor(x)

    cls = np.mean([(-np.log(softmax(z)[np.arange(b), y])).mean() for z in (z1, z2)])
    assert float(terms.classification_loss(as_tensor(z1), as_tensor(z2), as_tensor(y))) == pytest.approx(
        cls, abs=1e-6
    )

    pref = 0.0
    for i, m in itertools.product(range(b), range(k)):
        p = softmax(np.array([h1[i, m], h2[i, m]]))
        pref -= (t[i] * np.log(p[0]) + (1 - t[i]) * np.log(p[1])) / (b * k)
    assert float(terms.preference_loss(as_tensor(h1), as_tensor(h2), as_tensor(t))) == pytest.approx(
        pref, abs=1e-6
    )

    q1, q2 = softmax(z1)[np.arange(b), y], softmax(z2)[np.arange(b), y]
    expected = [
        max(0.0, q2[i] - q1[i]) if t[i] == 1 else max(0.0, q1[i] - q2[i]) if t[i] == 0 else abs(q1[i] - q2[i])
        for i in range(b)
    ]
    found = terms.consistency_terms(as_tensor(q1), as_tensor(q2), as_tensor(t))
    assert np.allclose(found.numpy(), expected, atol=1e-6)

    p1, p2 = softmax(z1), softmax(z2)
    expected = []
    for i in range(b):
        total = 0.0
        for j in range(c):
            wanted, given = s1[i, j] - s2[i, j], p1[i, j] - p2[i, j]
            if wanted > 0:
                total += max(0.0, wanted - given)
            elif wanted < 0:
                total += max(0.0, given - wanted)
        expected.append(total)
    found = terms.annotated_consistency_terms(*map(as_tensor, (p1, p2, s1, s2)))
    assert np.allclose(found.numpy(), expected, atol=1e-6)

    div = []
    for i, (m, n) in itertools.product(range(b), itertools.permutations(range(k), 2)):
        p, q = (softmax(np.array([h1[i, x], h2[i, x]])) for x in (m, n))
        div.append(-(p * np.log(q)).sum())
    assert float(terms.diversity(as_tensor(h1), as_tensor(h2))) == pytest.approx(np.mean(div), abs=1e-6)

    h2[0, 0] = h1[0, 0]
    order = np.sign(h1 - h2)
    apart = [sum(x != y for x, y in itertools.combinations(order[i], 2)) for i in range(b)]
    assert terms.disagreement(as_tensor(h1), as_tensor(h2)).tolist() == apart
    soft = -(s1 * np.log(softmax(z1))).sum(-1).mean()
    assert float(terms.soft_cross_entropy(as_tensor(z1), as_tensor(s1))) == pytest.approx(soft, abs=1e-6)
    entropy = -(softmax(z1) * np.log(softmax(z1))).sum(-1).mean()
    assert float(terms.entropy(as_tensor(z1))) == pytest.approx(entropy, abs=1e-6)
    own, target = softmax(z1 / 4), softmax(z2 / 4)
    kd = 16 * (target * np.log(target / own)).sum(-1).mean()
    assert float(terms.class_wise_distillation(as_tensor(z1), as_tensor(z2))) == pytest.approx(kd, abs=1e-6)


def test_the_diversity_term_moves_one_head_at_a_time() -> None:
    """The first head of an ordered pair is detached: a head learns from the pairs in which it is second."""
    import torch

    from agenttts.p2c import losses as terms

    first = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    terms.diversity(first, torch.zeros(5, 3, dtype=torch.double)).backward()
    assert first.grad is not None
    p = torch.sigmoid(first.detach())
    expected = torch.stack(
        [sum((p[:, k] - p[:, m] for m in range(3) if m != k), torch.zeros(5)) / 6 / 5 for k in range(3)], -1
    )
    assert torch.allclose(first.grad, expected)


def test_the_bounds_of_a_preference() -> None:
    """tanh keeps each head's probability within [0.119, 0.881]."""
    import torch

    from agenttts.p2c.losses import preference_log_probs

    most = preference_log_probs(torch.ones(1, 1), -torch.ones(1, 1)).exp()[0, 0]
    assert most.tolist() == pytest.approx([0.8808, 0.1192], abs=1e-4)


def test_figures_of_a_classifier() -> None:
    """Against values worked out by hand."""
    gold, said = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0]
    assert accuracy(gold, said) == pytest.approx(4 / 6)
    assert macro_f1(gold, said) == pytest.approx((0.5 + 0.8 + 2 / 3) / 3)
    tp, tn, fp, fn = 3, 4, 1, 2
    y = [1] * 5 + [0] * 5
    z = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    expected = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert matthews(y, z) == pytest.approx(expected)
    assert matthews([0, 1], [1, 1]) == 0.0
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55]])
    ece = (abs(1 - 0.9) + abs(0 - 0.6) + abs(1 - 0.8) + abs(0 - 0.55)) / 4
    assert calibration_error([0, 1, 1, 0], probs) == pytest.approx(ece)
    scores = np.array([[0.5, 0.7], [0.1, 0.2], [0.0, 0.9]])
    assert preference_accuracy(scores, [(0, 1), (1, 2), (0, 2)], [1.0, 1.0, 0.5]) == 0.5
    assert consistency(probs, [0, 0, 1, 1], [(0, 1), (2, 3)], [1.0, 0.0]) == 0.5


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of two classes with five annotators, who disagree on the weaker ones."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        label = number % 2
        strength = rng.uniform(0.6, 1.0)
        words = [str(rng.choice(WORDS[label if rng.random() < strength else 1 - label])) for _ in range(6)]
        said = ["yes" if (rng.random() < strength) == (label == 1) else "no" for _ in range(5)]
        found.append({"text": " ".join(words) + f" {number}", **{f"a{i}": s for i, s in enumerate(said)}})
    return found


def texts(count: int, seed: int = 0) -> list[LabelledText]:
    table = [made_row(f"t:{n}", row) for n, row in enumerate(rows(count, seed), 1)]
    return read_texts(table, text="text", labels=["no", "yes"], annotators=[f"a{i}" for i in range(5)])


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone")
    write_backbone(path)
    return path


def trained(backbone: Path, work: Path, **changes: Any) -> Any:
    from agenttts.p2c.settings import P2CSettings
    from agenttts.p2c.trainer import train_classifier

    settings = P2CSettings.model_validate({"epochs": 6, "learning_rate": 3e-3, "max_tokens": 32, **changes})
    some = texts(96)
    pairs = Pairs(texts=some) if settings.method == "p2c" else None
    return train_classifier(str(backbone), ["no", "yes"], some, texts(40, 1), settings, work, pairs=pairs)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "plain"},
        {"method": "pair-plain"},
        {"method": "soft-labels"},
        {"method": "label-smoothing"},
        {"method": "max-entropy"},
        {"method": "cs-kd"},
        {"method": "multi-annotator"},
        {"method": "p2c"},
        {"method": "p2c", "sampling": "disagreement"},
        {"method": "p2c", "sampling": "inconsistency", "balance": True},
        {"method": "p2c", "lora": {"rank": 8, "target_modules": ["query", "value"]}, "epochs": 20},
        {"method": "plain", "freeze": True, "epochs": 20, "learning_rate": 1e-2},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values())[:30],
)
def test_every_method_learns(backbone: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Far above chance on texts that it did not see; probabilities are some."""
    found = trained(backbone, tmp_path / "work", **changes)
    test = texts(100, 2)
    said = found.predict([one.text for one in test], [one.label for one in test])
    assert np.allclose(said.probs.sum(1), 1)
    assert accuracy([one.label for one in test], said.probs.argmax(1)) > 0.7
    assert (said.preference_scores is not None) == (changes["method"] == "p2c")
    assert (tmp_path / "work").exists() == ("freeze" not in changes), "what can be exported is kept till then"


def test_partners_are_sampled_as_published() -> None:
    """Disagreement takes the largest number of differing head pairs; inconsistency weighs by the margin."""
    from agenttts.p2c.network import Prediction
    from agenttts.p2c.trainer import _weigher

    softs = [(0.9, 0.1), (0.6, 0.4), (0.8, 0.2), (0.7, 0.3)]
    texts = [LabelledText(text=str(i), label=0, soft=soft) for i, soft in enumerate(softs)]
    prediction = Prediction(
        probs=np.array([[0.5, 0.5], [0.9, 0.1], [0.5, 0.5], [0.1, 0.9]]),
        preference_scores=np.array([[0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, 1.0], [1.0, -1.0, -1.0]]),
    )
    candidates = np.array([1, 2, 3])
    voted = Pairs(texts=texts)
    differ = _weigher("disagreement", voted, prediction, [0] * 4)(0, candidates)
    assert differ.tolist() == [1, 0, 0], "3 of 3 head pairs differ, then 0, then 2"
    margins = _weigher("inconsistency", voted, prediction, [0] * 4)(0, candidates)
    assert np.allclose(margins, [2 * (0.3 + 0.4), 2 * 0.1, 0.0])
    known = Pairs(texts=texts, known={(0, 1): 1.0, (0, 2): 0.5, (3, 0): 1.0})
    gaps = _weigher("inconsistency", known, prediction, [0] * 4)(0, candidates)
    assert np.allclose(gaps, [0.4, 0.0, 0.4])
    drawn = [
        voted.draw(np.random.default_rng(seed), lambda i, js: (js == 2).astype(float)) for seed in range(5)
    ]
    assert all(j == 2 for pairs in drawn for i, j in pairs if i != 2)


def test_preferences_need_a_backbone_that_learns() -> None:
    """On frozen states they could not change the classifier, so the two are refused together."""
    with pytest.raises(ValueError, match="freeze excludes the method p2c"):
        P2CSettings(method="p2c", freeze=True)


def counted(count: int, seed: int) -> list[LabelledText]:
    """Texts whose votes are what their words say: which of two is more of its class can be read off."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        label, own = number % 2, int(rng.integers(4, 9))
        words = [str(rng.choice(WORDS[label])) for _ in range(own)]
        words += [str(rng.choice(WORDS[1 - label])) for _ in range(8 - own)]
        soft = (own / 8, 1 - own / 8)
        found.append(
            LabelledText(text=" ".join(words), label=label, soft=soft if label == 0 else (soft[1], soft[0]))
        )
    return found


def test_preferences_are_learnt(backbone: Path, tmp_path: Path) -> None:
    """The heads order pairs of a class as the votes do, within tanh's bounds, and so does the task head."""
    from agenttts.p2c.settings import P2CSettings
    from agenttts.p2c.trainer import train_classifier

    some, test = counted(160, 0), counted(100, 1)
    settings = P2CSettings(epochs=8, learning_rate=3e-3, max_tokens=16)
    found = train_classifier(
        str(backbone), ["no", "yes"], some, counted(40, 2), settings, tmp_path / "w", pairs=Pairs(texts=some)
    )
    pairs = Pairs(texts=test)
    drawn = [(i, j) for i, j in pairs.draw(np.random.default_rng(0)) if i != j]
    preferred = [pairs.preferred(i, j) for i, j in drawn]
    labels = [one.label for one in test]
    said = found.predict([one.text for one in test], labels)
    assert said.preference_scores is not None
    assert said.preference_scores.shape == (100, 3)
    assert np.abs(said.preference_scores).max() <= 1
    right, kept = (
        preference_accuracy(said.preference_scores, drawn, preferred),
        consistency(said.probs, labels, drawn, preferred),
    )
    assert right is not None
    assert kept is not None
    assert min(right, kept) > 0.7


def test_the_same_seed_gives_the_same_model(backbone: Path, tmp_path: Path) -> None:
    """And another seed another."""
    said = [
        trained(backbone, tmp_path / f"w{i}", epochs=1, seed=seed).predict(["bright grey"]).probs
        for i, seed in enumerate((0, 0, 1))
    ]
    assert np.array_equal(said[0], said[1])
    assert not np.array_equal(said[0], said[2])


def test_an_interrupted_training_goes_on(backbone: Path, tmp_path: Path) -> None:
    """From the last whole epoch, with that epoch's pairs, to the figures of an undisturbed run."""
    from agenttts.p2c.settings import P2CSettings
    from agenttts.p2c.trainer import train_classifier

    whole = trained(backbone, tmp_path / "whole")
    settings = P2CSettings(epochs=6, learning_rate=3e-3, max_tokens=32)
    some = texts(96)
    seen = []

    def stop(event: Any) -> None:
        seen.append(event.score)
        if len(seen) == 2:
            raise KeyboardInterrupt

    arguments = (str(backbone), ["no", "yes"], some, texts(40, 1), settings, tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        train_classifier(*arguments, pairs=Pairs(texts=some), on_event=stop)
    other = (*arguments[:4], settings.model_copy(update={"seed": 1}), arguments[5])
    with pytest.raises(UserError, match="cut: holds checkpoints of another configuration"):
        train_classifier(*other, pairs=Pairs(texts=some))
    again = train_classifier(*arguments, pairs=Pairs(texts=some))
    assert again.card.validation_scores == whole.card.validation_scores
    a, b = (found.predict(["bright grey", "dull"]).probs for found in (whole, again))
    assert np.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    "lora", [None, {"rank": 8, "target_modules": ["query", "value"]}], ids=["full", "lora"]
)
def test_the_export_is_a_plain_classifier(backbone: Path, tmp_path: Path, lora: Any) -> None:
    """transformers' pipeline loads it, with the labels' names, and gives the same probabilities."""
    from transformers import pipeline

    found = trained(backbone, tmp_path / "work", lora=lora)
    test = [one.text for one in texts(20, 3)]
    probs = found.predict(test).probs
    path = found.export(tmp_path / "exported")
    assert not (tmp_path / "work").exists()
    classify = pipeline("text-classification", model=str(path), tokenizer=str(path), top_k=None, device="cpu")
    classified: Any = classify(test)
    for row, said in zip(probs, classified, strict=True):
        by_name = {one["label"]: one["score"] for one in said}
        assert by_name == pytest.approx({"no": row[0], "yes": row[1]}, abs=1e-5)
    with pytest.raises(UserError, match="must be free"):
        found.export(path)


# What is refused, and what texts are made of


def test_texts_of_a_table() -> None:
    """Labels by vote, soft labels, and clear errors with the place."""
    table = [made_row("f:1", {"t": "a", "x": 3, "y": 1}), made_row("f:2", {"t": "b", "x": "0", "y": "2"})]
    found = read_texts(table, text="t", labels=["x", "y"], votes=["x", "y"])
    assert [one.label for one in found] == [0, 1]
    assert found[0].soft == (0.75, 0.25)
    for fields, told in (
        ({"t": "", "x": 1, "y": 1}, "f:3: the column 't' must hold a text"),
        ({"t": "a", "x": 0, "y": 0}, "f:3: must have one vote"),
        ({"t": "a", "x": "many", "y": 0}, "f:3: the column 'x' must be a count of votes, got 'many'"),
    ):
        with pytest.raises(UserError, match=told):
            read_texts([made_row("f:3", fields)], text="t", labels=["x", "y"], votes=["x", "y"])
    with pytest.raises(UserError, match="label is one of x, y, got 'z'"):
        read_texts([made_row("f:1", {"t": "a", "label": "z"})], text="t", labels=["x", "y"], label="label")


def test_parts_do_not_share_a_text() -> None:
    """Equal texts are in one part, which the seed decides."""
    some = [LabelledText(text=f"t{i % 50}", label=i % 2) for i in range(200)]
    parts = split_texts(some, [0.6, 0.2, 0.2], seed=3)
    named = [{one.text for one in part} for part in parts]
    assert [len(part) for part in parts] == [120, 40, 40]
    assert not named[0] & named[1]
    assert not named[0] & named[2]
    assert [len(part) for part in split_texts(some, [0.6, 0.2, 0.2], seed=4)] == [120, 40, 40]


def test_pairs_of_votes_and_of_judgements() -> None:
    """Partners share a class; a margin makes ties; each text is drawn once an epoch."""
    some = [LabelledText(text=str(i), label=i % 2, soft=(0.2 * i, 1 - 0.2 * i)) for i in range(4)]
    pairs = Pairs(texts=some, tie=0.5)
    assert pairs.preferred(0, 2) == 0.5
    assert Pairs(texts=some).preferred(2, 0) == 1.0
    assert Pairs(texts=some).preferred(1, 3) == 1.0
    drawn = pairs.draw(np.random.default_rng(0))
    assert sorted(i for i, _ in drawn) == [0, 1, 2, 3]
    assert all(some[i].label == some[j].label for i, j in drawn)
    known = Pairs(texts=some, known={(0, 2): 1.0})
    assert known.preferred(2, 0) == 0.0
    assert known.classes_without_pairs == {1}
    assert ((1, 1) in known.draw(np.random.default_rng(0))) and (
        (3, 3) in known.draw(np.random.default_rng(0))
    )
    with pytest.raises(UserError, match="between texts of one label"):
        Pairs(texts=some, known={(0, 1): 1.0})
    with pytest.raises(UserError, match="no pair of texts has a preference"):
        Pairs(texts=some, known={})
    with pytest.raises(UserError, match="need the votes of every text"):
        Pairs(texts=[LabelledText(text="a", label=0)])
    assert class_weights([*some, some[0]], 2) == pytest.approx([5 / 6, 5 / 4])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "p2c", "pairs": "none"}, "p2c needs preferences"),
        ({"method": "p2c", "pairs": "ties"}, "every preference is a tie"),
        ({"method": "multi-annotator", "annotators": 1}, "needs two annotators"),
        ({"method": "soft-labels", "votes": False}, "needs the votes of every text"),
        ({"method": "plain", "labels": ["yes", "no"]}, "has them as no, yes; give them in that order"),
        ({"method": "plain", "base": "./nowhere"}, "can't be loaded"),
    ],
)
def test_what_can_not_be_trained(backbone: Path, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    """One line each, before anything is trained."""
    from agenttts.p2c.settings import P2CSettings
    from agenttts.p2c.trainer import train_classifier

    some = texts(20)
    if changes.get("annotators") == 1:
        some = [LabelledText(text=o.text, label=o.label, annotations=o.annotations[:1]) for o in some]
    if changes.get("votes") is False:
        some = [LabelledText(text=o.text, label=o.label) for o in some]
    alike = [i for i, one in enumerate(some) if one.label == some[0].label][:2]
    known = {(alike[0], alike[1]): 0.5}
    pairs = Pairs(texts=some, known=known) if changes.get("pairs") == "ties" else None
    base = changes.get("base", str(backbone))
    if "labels" in changes:
        base = str(trained(backbone, tmp_path / "w", method="plain", epochs=1).export(tmp_path / "plain"))
    with pytest.raises(UserError, match=told):
        train_classifier(
            base,
            changes.get("labels", ["no", "yes"]),
            some,
            some,
            P2CSettings(method=changes["method"], epochs=1),
            tmp_path / "work",
            pairs=pairs,
        )


def test_the_command(backbone: Path, tmp_path: Path) -> None:
    """From a table with votes to figures and a checkpoint; preferences from a collection, too."""
    import csv
    import json

    from tests.agenttts.commands import agenttts

    with (tmp_path / "texts.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "no", "yes"])
        for one in counted(200, 0):
            assert one.soft is not None
            writer.writerow([one.text, *(8 * share for share in one.soft)])
    config: dict[str, Any] = {
        "base": str(backbone),
        "data": "texts.csv",
        "out": "votes",
        "labels": ["no", "yes"],
        "votes": ["no", "yes"],
        "settings": {"epochs": 6, "learning_rate": 3e-3, "max_tokens": 9},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    plot = tmp_path / "plots" / "reliability.html"
    plot.parent.mkdir()
    done = agenttts("tune", "classifier", tmp_path / "c.yaml", "--html", plot, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert sum(n for _, _, n in found["reliability"]) == found["texts"]["test"]
    page = plot.read_text()
    assert "confidence" in page
    assert str(found["reliability"][0][1]) in page
    assert found["accuracy"] > 0.8
    assert found["consistency"] > 0.6
    assert found["preference_accuracy"] > 0.6
    assert sum(found["texts"].values()) == 200
    assert found["test_texts_cut"] == found["texts"]["test"]
    assert "test texts are longer than max_tokens" in done.err
    assert (tmp_path / "votes" / "model.safetensors").is_file()
    collect = ["tune", "prefer", "mine", tmp_path / "c.yaml", "--source", "votes", "--pairs", 300]
    collect += ["--db", tmp_path / "s.duckdb"]
    assert agenttts(*collect).code == 0
    again = {
        **config,
        "out": "collected",
        "preferences": {"kind": "collection", "db": "s.duckdb", "name": "mine"},
    }
    (tmp_path / "d.yaml").write_text(json.dumps(again))
    done = agenttts("tune", "classifier", tmp_path / "d.yaml", "--json")
    assert done.code == 0, done.err
    assert done.json["accuracy"] > 0.8
    for change, told in (
        ({"out": "votes"}, "must be free"),
        ({"out": "x", "settings": {"method": "magic"}}, "settings.method: "),
        ({"out": "x", "labels": ["no"]}, "labels"),
        (
            {"out": "x", "preferences": {"kind": "collection", "db": "s.duckdb", "name": "none"}},
            "no collection",
        ),
    ):
        (tmp_path / "e.yaml").write_text(json.dumps({**config, **change}))
        done = agenttts("tune", "classifier", tmp_path / "e.yaml")
        assert done.code == 2
        assert told in done.err
