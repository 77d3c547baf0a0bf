"""A trained classifier: how it came about, what it predicts, and its export."""

from __future__ import annotations

import shutil
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from agenttts.errors import UserError
from agenttts.p2c.backbone import Tokenizer
from agenttts.p2c.network import Network, Prediction, predict
from agenttts.p2c.settings import P2CSettings
from agenttts.training.checkpoints import quiet, save_json, saving
from agenttts.training.weights import CARD, require_servable
from pipelines.files import whole
from pipelines.jsonvalues import JSON


@dataclass(frozen=True, kw_only=True)
class ClassifierCard:
    """How a classifier was trained.

    Attributes:
        base: The directory or hub name of the backbone.
        labels: The names of the classes, in the order of the checkpoint.
        settings: How it was trained.
        rows: The number of training texts.
        share_of_ties: Of p2c: the share of ties among the preferences; None for other methods.
        validation_scores: Macro-F1 on the validation texts after each epoch; of a verifier the in-prompt AUC.
        seconds: How long the training took.
    """

    base: str
    labels: tuple[str, ...]
    settings: P2CSettings
    rows: int
    share_of_ties: float | None
    validation_scores: tuple[float, ...]
    seconds: float

    def to_json_dict(self) -> dict[str, JSON]:
        """The content of `tuning.json`."""
        return {
            "base": self.base,
            "labels": list(self.labels),
            "settings": self.settings.model_dump(mode="json"),
            "rows": self.rows,
            "share_of_ties": self.share_of_ties,
            "validation_scores": list(self.validation_scores),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class TrainedClassifier:
    """A trained network in memory.

    Attributes:
        network: The network, in evaluation mode.
        tokenizer: The backbone's tokenizer.
        card: How it was trained.
        work: The directory of the training's checkpoints.
    """

    network: Network
    tokenizer: Tokenizer
    card: ClassifierCard
    work: Path

    def predict(self, texts: Sequence[str], labels: Sequence[int] | None = None) -> Prediction:
        """Class probabilities; with labels, the preference heads' scores for them too.

        Args:
            texts: N texts.
            labels: For each text the class that the preference heads are asked about; None asks none.
        """
        return predict(self.network, self.tokenizer, texts, labels)

    def n_tokens(self, text: str) -> int:
        """The number of tokens of a text, special ones included; of a frozen backbone 1."""
        ids: Sized = self.tokenizer([text])["input_ids"][0]
        return len(ids)

    def export(self, path: Path) -> Path:
        """Write a sequence-classification checkpoint without preference heads; the training's go.

        Args:
            path: The directory of the checkpoint.

        Returns:
            The path.

        Raises:
            UserError: The place is taken, the disk is full, the weights are not finite, or the backbone was
                frozen: no head of a checkpoint reads mean states.
        """
        settings = self.card.settings
        if settings.freeze:
            raise UserError("a head on frozen states has no checkpoint of its own; train with freeze: false")
        if path.exists():
            raise UserError(f"{path}: must be free; choose another directory")
        model: Any = self.network.model
        tokenizer = self.tokenizer
        if settings.lora is not None:
            model = model.merge_and_unload()
        assert isinstance(tokenizer, transformers.PreTrainedTokenizerBase)
        with quiet(), saving(self.work), whole(path) as beside:
            model.save_pretrained(str(beside), safe_serialization=True)
            tokenizer.save_pretrained(str(beside))
            require_servable(beside)
            save_json(beside / CARD, self.card.to_json_dict())
        shutil.rmtree(self.work, ignore_errors=True)
        return path
