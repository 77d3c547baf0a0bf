"""`agenttts tune classifier`: from a table of texts to an exported classifier, with figures on test texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from agenttts.errors import UserError
from agenttts.p2c import metrics
from agenttts.p2c.preferences import known_pairs
from agenttts.p2c.settings import P2CSettings
from agenttts.p2c.texts import LabelledText, Pairs, read_texts, split_texts
from agenttts.stats import Interval, mean_interval
from agenttts.training.events import OnTuneEvent
from datastore.store import Store
from pipelines.dataset.rows import read_file
from pipelines.extras import library
from pipelines.jsonvalues import JSON
from pipelines.spec.strict import Strict

if TYPE_CHECKING:
    from agenttts.p2c.trained import ClassifierCard, TrainedClassifier


class PreferencesFrom(Strict):
    """Where the preferences of p2c come from.

    Attributes:
        kind: `votes`: from the annotators' votes on each text. `collection`: from a collection that
            `agenttts tune prefer` or `agenttts tune judge` made.
        tie: Of votes: shares that differ by at most this are a tie.
        db: Of a collection: the store that has it.
        name: Of a collection: its name.
    """

    kind: Literal["votes", "collection"] = "votes"
    tie: float = Field(default=0.0, ge=0, le=1, description="votes: shares this near are a tie")
    db: str | None = Field(default=None, description="collection: the store that has it")
    name: str | None = Field(default=None, description="collection: its name")


class ClassifierConfig(Strict):
    """What `agenttts tune classifier` reads. Paths start from the file's directory.

    Attributes:
        base: The directory or hub name of the backbone.
        data: The file of texts: CSV, JSONL, JSON or Parquet.
        out: The directory of the classifier.
        labels: The names of the classes, in the order of the checkpoint.
        text: The column of the text.
        label: The column of the label. None: the class with most votes.
        votes: The columns with counts of votes, one for each label.
        annotators: The columns with one annotator's label each.
        test: A file of test texts. None: a share of the data.
        test_share: The share of the distinct texts that is for testing, where there is no file.
        validation_share: The share of the distinct texts on which the best epoch is chosen.
        split_seed: Decides which texts are for training, validation and testing. Preferences are collected
            between training texts, so that another one makes those of a collection useless.
        preferences: Where the preferences of p2c come from.
        settings: How the classifier is trained.
    """

    base: str = Field(description="directory or hub name of the backbone")
    data: str = Field(description="texts: CSV, JSONL or Parquet")
    out: str = Field(description="directory of the classifier")
    labels: tuple[str, ...] = Field(min_length=2, description="the classes, in the order of the checkpoint")
    text: str = Field(default="text", description="column of the text")
    label: str | None = Field(default=None, description="column of the label; else the most voted class")
    votes: tuple[str, ...] = Field(default=(), description="columns with counts of votes, one for each label")
    annotators: tuple[str, ...] = Field(default=(), description="columns with one annotator's label each")
    test: str | None = Field(default=None, description="a file of test texts; else a share of the data")
    test_share: float = Field(default=0.2, gt=0, lt=1)
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0, description="decides which texts are for what")
    preferences: PreferencesFrom = PreferencesFrom()
    settings: P2CSettings = Field(
        default=P2CSettings(), description="method, sampling, epochs, learning_rate, …"
    )


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How good a classifier is on test texts.

    Attributes:
        accuracy: The share of right classes.
        accuracy_interval: Its 95 % interval over texts; None without texts.
        macro_f1: F1 of each class, averaged.
        matthews: The correlation of right and predicted classes, from -1 to 1.
        calibration_error: The expected calibration error.
        reliability: (mean confidence, accuracy, number of texts) by confidence.
        consistency: How often the task head orders a pair of texts as the votes do; None without votes.
        preference_accuracy: How often the preference heads do; None without votes or heads.
    """

    accuracy: float
    accuracy_interval: Interval | None
    macro_f1: float
    matthews: float
    calibration_error: float
    reliability: Sequence[tuple[float, float, int]]
    consistency: float | None = None
    preference_accuracy: float | None = None

    def to_json_dict(self) -> dict[str, JSON]:
        """JSON-able; the interval is [low, high], and figures that need votes are left out without them."""
        interval = self.accuracy_interval
        voted = {"consistency": self.consistency, "preference_accuracy": self.preference_accuracy}
        return {
            "accuracy": self.accuracy,
            "accuracy_ci": None if interval is None else [interval.low, interval.high],
            "macro_f1": self.macro_f1,
            "matthews": self.matthews,
            "calibration_error": self.calibration_error,
            "reliability": list(self.reliability),
            **{name: value for name, value in voted.items() if value is not None},
        }


@dataclass(frozen=True, kw_only=True)
class ClassifierReport:
    """What came of a configuration.

    Attributes:
        figures: How good the classifier is on the test texts.
        n_texts: The number of texts in `train`, `validation` and `test`.
        test_texts_cut: The number of test texts that are longer than the longest text.
        classes_without_pairs: Of p2c: the classes that were learnt from labels alone.
        card: How the classifier was trained.
        path: The exported checkpoint; None where the backbone was frozen.
    """

    figures: Figures
    n_texts: Mapping[str, int]
    test_texts_cut: int
    classes_without_pairs: Sequence[str]
    card: ClassifierCard
    path: Path | None

    def to_json_dict(self) -> dict[str, JSON]:
        """JSON-able, in one mapping."""
        return {
            **self.figures.to_json_dict(),
            "texts": dict(self.n_texts),
            "test_texts_cut": self.test_texts_cut,
            "classes_without_pairs": list(self.classes_without_pairs),
            **self.card.to_json_dict(),
            **({} if self.path is None else {"path": str(self.path)}),
        }


def fit_classifier(
    config: ClassifierConfig, root: Path, *, on_event: OnTuneEvent = lambda _: None
) -> ClassifierReport:
    """Train a classifier, measure it on the test texts, and export it.

    Args:
        config: The configuration.
        root: The directory from which its paths start.
        on_event: Is called with the validation score after each epoch.

    Raises:
        UserError: There is something that a person must put right.
        MissingDependency: The extra `tune` is not installed.
    """
    library("transformers")
    from agenttts.p2c.trainer import train_classifier

    settings, out = config.settings, root / config.out
    if out.exists():
        raise UserError(f"{out}: must be free; choose another out")
    train, validation, test = classifier_texts(config, root)
    pairs = _pairs(config, train, root) if settings.method == "p2c" else None
    local = root / config.base
    trained = train_classifier(
        str(local) if local.is_dir() else config.base,
        config.labels,
        train,
        validation,
        settings,
        out.with_name(out.name + ".work"),
        pairs=pairs,
        on_event=on_event,
    )
    cut = 0
    if not settings.freeze:
        cut = sum(trained.n_tokens(one.text) > settings.max_tokens for one in test)
    return ClassifierReport(
        figures=figures(trained, test, settings.seed),
        n_texts={"train": len(train), "validation": len(validation), "test": len(test)},
        test_texts_cut=cut,
        classes_without_pairs=sorted(config.labels[c] for c in pairs.classes_without_pairs) if pairs else [],
        card=trained.card,
        path=None if settings.freeze else trained.export(out),
    )


def figures(trained: TrainedClassifier, test: Sequence[LabelledText], seed: int) -> Figures:
    """Measure a classifier on texts.

    Args:
        trained: The classifier.
        test: The texts.
        seed: Decides the bootstrap of the interval and the pairs that are compared.
    """
    gold = [one.label for one in test]
    prediction = trained.predict([one.text for one in test], gold)
    probs, scores = prediction.probs, prediction.preference_scores
    predicted = probs.argmax(1)
    right = [float(a == b) for a, b in zip(gold, predicted, strict=True)]
    consistency = preference_accuracy = None
    if all(one.soft is not None for one in test):
        pairs = Pairs(texts=test)
        drawn = [(i, j) for i, j in pairs.draw(np.random.default_rng(seed)) if i != j]
        preferred = [pairs.preferred(i, j) for i, j in drawn]
        consistency = metrics.consistency(probs, gold, drawn, preferred)
        if scores is not None:
            preference_accuracy = metrics.preference_accuracy(scores, drawn, preferred)
    return Figures(
        accuracy=metrics.accuracy(gold, predicted),
        accuracy_interval=mean_interval(right, np.random.default_rng(seed)),
        macro_f1=metrics.macro_f1(gold, predicted),
        matthews=metrics.matthews(gold, predicted),
        calibration_error=metrics.calibration_error(gold, probs),
        reliability=metrics.reliability(gold, probs),
        consistency=consistency,
        preference_accuracy=preference_accuracy,
    )


def classifier_texts(config: ClassifierConfig, root: Path) -> list[list[LabelledText]]:
    """Read the texts for training, validation and testing; no text is in two of them.

    Args:
        config: The configuration.
        root: The directory from which its paths start.

    Raises:
        UserError: A file can't be read, or a row lacks what the configuration names.
    """
    texts = _texts(config, root / config.data)
    seed, validation = config.split_seed, config.validation_share
    if config.test is None:
        shares = [1 - validation - config.test_share, validation, config.test_share]
        return split_texts(texts, shares, seed)
    test = _texts(config, root / config.test)
    in_test = {one.text for one in test}
    parts = split_texts(texts, [1 - validation, validation], seed)
    return [*([one for one in part if one.text not in in_test] for part in parts), test]


def _texts(config: ClassifierConfig, file: Path) -> list[LabelledText]:
    return read_texts(
        read_file(file),
        text=config.text,
        labels=config.labels,
        label=config.label,
        votes=config.votes,
        annotators=config.annotators,
    )


def _pairs(config: ClassifierConfig, train: list[LabelledText], root: Path) -> Pairs:
    source = config.preferences
    if source.kind == "votes":
        return Pairs(texts=train, tie=source.tie)
    if source.db is None or source.name is None:
        raise UserError("preferences: a collection needs db and name")
    with Store.read(root / source.db) as store:
        collected = store.preferences(source.name)
    if not collected:
        raise UserError(f"preferences: {source.db} has no collection {source.name!r}")
    return Pairs(texts=train, known=known_pairs(collected, train, config.labels))
