"""What a network is trained on: texts or pairs of texts, drawn anew in each epoch, and their batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agenttts.errors import UserError
from agenttts.p2c.backbone import Tokenizer, tokenized
from agenttts.p2c.settings import PAIRED, P2CSettings
from agenttts.p2c.texts import TIE, LabelledText, Pairs, Weigh


@dataclass(frozen=True, kw_only=True)
class Item:
    """A text and its partner; without a partner the text itself.

    Attributes:
        first: The text.
        second: Its partner.
        paired: Whether there is a preference between the two.
        preferred: 1 where the first text is preferred, 0 where the second is, 0.5 for a tie.
        voted: Whether preferences follow from votes.
        about: The class that the preference is about.
    """

    first: LabelledText
    second: LabelledText
    paired: bool
    preferred: float
    voted: bool
    about: int


class PairBatch(TypedDict):
    """The second texts of B pairs, and the preferences.

    Attributes:
        second: Token ids and mask of the second texts, shape (B, tokens).
        labels: Their classes, shape (B,).
        about: The class that each preference is about, shape (B,).
        paired: Whether there is a preference, shape (B,).
        preferred: The preferences, shape (B,).
        first_soft: The shares of votes of the first texts, shape (B, C), where preferences follow from votes.
        second_soft: The shares of votes of the second texts, shape (B, C), likewise.
    """

    second: dict[str, Tensor]
    labels: Tensor
    about: Tensor
    paired: Tensor
    preferred: Tensor
    first_soft: NotRequired[Tensor]
    second_soft: NotRequired[Tensor]


class Batch(TypedDict):
    """B texts, with what the method needs beside them.

    Attributes:
        first: Token ids and mask of the texts, shape (B, tokens).
        labels: Their classes, shape (B,).
        pair: Their partners, of methods that see pairs.
        class_weights: A weight for each class, shape (C,), where classes are balanced.
        soft: Their shares of votes, shape (B, C), of the method soft-labels.
        annotations: Each annotator's class, -1 where there is none, shape (B, annotators), of the method
            multi-annotator.
    """

    first: dict[str, Tensor]
    labels: Tensor
    pair: NotRequired[PairBatch]
    class_weights: NotRequired[Tensor]
    soft: NotRequired[Tensor]
    annotations: NotRequired[Tensor]


class PairDataset(torch.utils.data.Dataset[Item]):
    """One text an item, or a text and its partner of this epoch.

    Args:
        texts: The training texts.
        pairs: Their preferences; of use to p2c alone.
        settings: The method and the seed.
    """

    def __init__(self, texts: Sequence[LabelledText], pairs: Pairs | None, settings: P2CSettings) -> None:
        self.texts = texts
        self.settings = settings
        self.pairs = pairs if settings.method == "p2c" else None
        self._classes = _by_class(texts) if settings.method in PAIRED and self.pairs is None else None
        self.drawn: list[tuple[int, int]] = []
        self.redraw(0, None)

    def redraw(self, epoch: int, weigh: Weigh | None) -> None:
        """Draw the pairs of an epoch.

        Args:
            epoch: Its number; with the seed it decides the draw.
            weigh: How much each candidate is wanted; None: all alike.
        """
        rng = np.random.default_rng([self.settings.seed, epoch])
        if self.pairs is not None:
            self.drawn = self.pairs.draw(rng, weigh)
        elif self._classes is not None:
            self.drawn = [(i, int(rng.choice(self._classes[one.label]))) for i, one in enumerate(self.texts)]
        else:
            self.drawn = [(i, i) for i in range(len(self.texts))]

    def about(self, i: int) -> int:
        """The class that the preferences of a text are about."""
        shared = None if self.pairs is None else self.pairs.about
        return self.texts[i].label if shared is None else shared

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, index: int) -> Item:
        i, j = self.drawn[index]
        paired = self.pairs is not None and i != j
        return Item(
            first=self.texts[i],
            second=self.texts[j],
            paired=paired,
            preferred=self.pairs.preferred(i, j) if paired and self.pairs is not None else TIE,
            voted=self.pairs is not None and self.pairs.known is None,
            about=self.about(i),
        )


class Collator:
    """Makes a batch of items.

    Args:
        tokenizer: The backbone's tokenizer.
        settings: The method, and the longest text.
        class_weights: A weight for each class; None weighs all alike.
    """

    def __init__(
        self, tokenizer: Tokenizer, settings: P2CSettings, class_weights: Sequence[float] | None
    ) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self._weights = None if class_weights is None else torch.tensor(class_weights)

    def __call__(self, items: Sequence[Item]) -> Batch:
        first, method = [item.first for item in items], self._settings.method
        batch: Batch = {"first": self._tokenized(first), "labels": torch.tensor([one.label for one in first])}
        if self._weights is not None:
            batch["class_weights"] = self._weights
        if method == "soft-labels":
            batch["soft"] = torch.tensor([one.soft for one in first])
        if method == "multi-annotator":
            annotations = [[-1 if c is None else c for c in one.annotations] for one in first]
            batch["annotations"] = torch.tensor(annotations)
        if method in PAIRED:
            batch["pair"] = self._pair(items)
        return batch

    def _pair(self, items: Sequence[Item]) -> PairBatch:
        second = [item.second for item in items]
        pair: PairBatch = {
            "second": self._tokenized(second),
            "labels": torch.tensor([one.label for one in second]),
            "about": torch.tensor([item.about for item in items]),
            "paired": torch.tensor([item.paired for item in items]),
            "preferred": torch.tensor([item.preferred for item in items]),
        }
        if all(item.voted for item in items):
            pair["first_soft"] = torch.tensor([item.first.soft for item in items])
            pair["second_soft"] = torch.tensor([one.soft for one in second])
        return pair

    def _tokenized(self, texts: Sequence[LabelledText]) -> dict[str, Tensor]:
        return tokenized(self._tokenizer, [one.text for one in texts], self._settings.max_tokens)


def without_silent_annotators(texts: Sequence[LabelledText]) -> list[LabelledText]:
    """Leave out the annotators who annotated none of the texts: their heads would stay as they began."""
    by_annotator = zip(*(text.annotations for text in texts), strict=True)
    columns = [k for k, classes in enumerate(by_annotator) if set(classes) - {None}]
    return [replace(text, annotations=tuple(text.annotations[k] for k in columns)) for text in texts]


def require_trainable(
    settings: P2CSettings,
    train: Sequence[LabelledText],
    validation: Sequence[LabelledText],
    labels: Sequence[str],
    pairs: Pairs | None,
) -> None:
    """Check that the texts have what the method needs.

    Args:
        settings: The method.
        train: The training texts.
        validation: The texts on which the best epoch is chosen.
        labels: The names of the classes.
        pairs: The preferences between the training texts.

    Raises:
        UserError: Something is missing.
    """
    if len({one.label for one in train}) < 2:
        raise UserError("a classifier needs texts of two classes at least")
    if not validation:
        raise UserError("a classifier needs validation texts, to choose the best epoch on")
    if any(not 0 <= one.label < len(labels) for one in (*train, *validation)):
        raise UserError(f"a text's class must be one of the {len(labels)} labels")
    if settings.method == "p2c":
        if pairs is None:
            raise UserError("p2c needs preferences; collect some, or train with another method")
        if pairs.share_of_ties == 1.0:
            raise UserError("every preference is a tie: p2c has nothing to learn from them")
    if settings.method == "soft-labels" and any(one.soft is None for one in train):
        raise UserError("soft-labels needs the votes of every text; one has none")
    if settings.method == "multi-annotator":
        annotators = {len(one.annotations) for one in train}
        if annotators <= {0, 1}:
            raise UserError("multi-annotator needs two annotators at least")
        if len(annotators) > 1:
            raise UserError(
                "multi-annotator needs as many annotations for every text, None where one is missing"
            )


def _by_class(texts: Sequence[LabelledText]) -> dict[int, NDArray[np.int64]]:
    return {
        label: np.array([i for i, one in enumerate(texts) if one.label == label], dtype=np.int64)
        for label in {one.label for one in texts}
    }
