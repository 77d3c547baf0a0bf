"""`agenttts tune classifier`: from a table of texts to an exported classifier, with figures on test texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from agenttts.errors import UserError
from agenttts.p2c import metrics
from agenttts.p2c.preferences import known_pairs
from agenttts.p2c.texts import LabelledText, Pairs, read_texts, split_texts
from agenttts.stats import mean_interval
from datastore.store import Store
from pipelines.extras import library
from pipelines.strict import Strict
from pipelines.tables import read_file

OnEvent = Callable[[dict[str, Any]], None]


class PreferencesFrom(Strict):
    """Where p2c's preferences come from: the annotators' votes, or a collection of `agenttts tune prefer`."""

    kind: Literal["votes", "collection"] = "votes"
    tie: float = Field(default=0.0, ge=0, le=1, description="votes: shares this near are a tie")
    db: str | None = Field(default=None, description="collection: the store that has it")
    name: str | None = Field(default=None, description="collection: its name")


class ClassifierConfig(BaseModel):
    """What `agenttts tune classifier` reads. Paths start from the file's directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    preferences: PreferencesFrom = PreferencesFrom()
    settings: dict[str, Any] = Field(
        default_factory=dict, description="method, sampling, epochs, learning_rate, …: see P2CSettings"
    )


def fit_classifier(
    config: ClassifierConfig, root: Path, *, on_event: OnEvent = lambda _: None
) -> dict[str, Any]:
    """Train, measure on the test texts, export. JSON-able figures, with 95 % intervals over test texts.

    Raises UserError for what a person must put right, MissingDependency without the extra `tune`.
    """
    library("transformers")
    from agenttts.p2c.trainer import P2CSettings, train_classifier

    try:
        settings = P2CSettings.model_validate(config.settings)
    except ValueError as error:
        raise UserError(f"settings: {' '.join(str(error).split())[:300]}") from None
    out = root / config.out
    if out.exists():
        raise UserError(f"{out}: must be free; choose another out")
    texts = _texts(config, root / config.data)
    shares = [1 - config.validation_share, config.validation_share]
    if config.test is None:
        shares = [1 - config.validation_share - config.test_share, config.validation_share, config.test_share]
        train, held, test = split_texts(texts, shares, settings.seed)
    else:
        train, held = split_texts(texts, shares, settings.seed)
        test = _texts(config, root / config.test)
        seen = {one.text for one in test}
        train, held = ([one for one in part if one.text not in seen] for part in (train, held))
    pairs = _pairs(config, train, root) if settings.method == "p2c" else None
    local = root / config.base
    base = str(local) if local.is_dir() else config.base
    found = train_classifier(
        base,
        config.labels,
        train,
        held,
        settings,
        out.with_name(out.name + ".work"),
        pairs=pairs,
        on_event=on_event,
    )
    longest = settings.max_tokens
    cut = (
        sum(len(found.tokenizer(one.text).input_ids) > longest for one in test) if not settings.freeze else 0
    )
    told = figures(found, test, settings.seed)
    told |= {
        "texts": {"train": len(train), "validation": len(held), "test": len(test)},
        "test_texts_cut": cut,
        "classes_without_pairs": sorted(config.labels[c] for c in pairs.classes_without_pairs)
        if pairs
        else [],
        **found.card,
    }
    if not settings.freeze:
        told["path"] = str(found.export(out))
    return told


def figures(found: Any, test: list[LabelledText], seed: int) -> dict[str, Any]:
    """Accuracy with its interval, macro-F1, Matthews, calibration; with votes what is kept of their order."""
    gold = [one.label for one in test]
    said = found.predict([one.text for one in test], gold)
    best = said.probs.argmax(1)
    interval = mean_interval(
        [float(a == b) for a, b in zip(gold, best, strict=True)], np.random.default_rng(seed)
    )
    told: dict[str, Any] = {
        "accuracy": metrics.accuracy(gold, best),
        "accuracy_ci": None if interval is None else [interval.low, interval.high],
        "macro_f1": metrics.macro_f1(gold, best),
        "matthews": metrics.matthews(gold, best),
        "calibration_error": metrics.calibration_error(gold, said.probs),
        "reliability": metrics.reliability(gold, said.probs),
    }
    if all(one.soft is not None for one in test):
        own = Pairs(texts=test)
        drawn = [(i, j) for i, j in own.draw(np.random.default_rng(seed)) if i != j]
        preferred = [own.preferred(i, j) for i, j in drawn]
        told["consistency"] = metrics.consistency(said.probs, gold, drawn, preferred)
        if said.preference_scores is not None:
            told["preference_accuracy"] = metrics.preference_accuracy(
                said.preference_scores, drawn, preferred
            )
    return told


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
        given = store.preferences(source.name)
    if not given:
        raise UserError(f"preferences: {source.db} has no collection {source.name!r}")
    return Pairs(texts=train, known=known_pairs(given, train, config.labels))
