"""Texts with labels, annotators' votes and preferences, for training classifiers. Needs no torch.

A pair is two texts of one label with a preference: which of the two is more of that label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from agenttts.errors import UserError
from pipelines.dataset.rows import Row
from pipelines.dataset.splits import seeded_order
from pipelines.reading.comparing import as_text

TIE = 0.5
_ROUNDING = 1e-12

Weigh: TypeAlias = Callable[[int, NDArray[np.int64]], NDArray[np.float64]]
"""(text, candidates) → how likely each candidate is to be the text's partner, up to a factor."""


@dataclass(frozen=True, kw_only=True)
class LabelledText:
    """A text and its class.

    Attributes:
        text: The text.
        label: The position of its class among the classes.
        soft: The share of votes for each class; None without votes.
        annotations: The class that each annotator named, by position; None where one named none.
    """

    text: str
    label: int
    soft: tuple[float, ...] | None = None
    annotations: tuple[int | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which texts can be partners, and which of two is preferred.

    Attributes:
        texts: The texts. Pairs name them by position.
        known: (i, j) → 1.0 where text i is preferred to j, 0.0 where j is, 0.5 for a tie. None: preferences
            follow from the votes on the texts.
        tie: Between votes, a difference of at most this in the label's share is a tie.
        about: The class that known preferences are about, where they compare texts of different classes.
            None: the class that the two texts share.
        shares: How often an epoch draws each known pair, on average. None: each text with one partner.
        partners: For each text the positions of its possible partners, in ascending order.

    Raises:
        UserError: A text lacks votes, a known pair mixes classes without `about`, or no text has a partner.
    """

    texts: Sequence[LabelledText]
    known: Mapping[tuple[int, int], float] | None = None
    tie: float = 0.0
    about: int | None = None
    shares: Mapping[tuple[int, int], float] | None = None
    partners: Mapping[int, NDArray[np.int64]] = field(init=False)

    def __post_init__(self) -> None:
        partners = self._partners_by_votes() if self.known is None else self._partners_by_preferences()
        arrays = {i: np.array(sorted(set(js)), dtype=np.int64) for i, js in sorted(partners.items())}
        object.__setattr__(self, "partners", arrays)
        if self.classes_without_pairs == {text.label for text in self.texts}:
            raise UserError("no pair of texts has a preference; collect some, or train without")

    def _partners_by_votes(self) -> dict[int, list[int]]:
        by_class: dict[int, list[int]] = {}
        for i, text in enumerate(self.texts):
            if text.soft is None:
                raise UserError("preferences from votes need the votes of every text; one has none")
            by_class.setdefault(text.label, []).append(i)
        return {i: [j for j in members if j != i] for members in by_class.values() for i in members}

    def _partners_by_preferences(self) -> dict[int, list[int]]:
        partners: dict[int, list[int]] = {i: [] for i in range(len(self.texts))}
        for i, j in self.known or ():
            if self.about is None and self.texts[i].label != self.texts[j].label:
                raise UserError(
                    f"a preference is between texts of one label, got {self.texts[i].text[:40]!r} and "
                    f"{self.texts[j].text[:40]!r}"
                )
            partners[i].append(j)
            partners[j].append(i)
        return partners

    @property
    def classes_without_pairs(self) -> set[int]:
        """Classes none of whose texts has a partner: they are learnt from labels alone."""
        paired = {self.texts[i].label for i, js in self.partners.items() if len(js)}
        return {text.label for text in self.texts} - paired

    @property
    def share_of_ties(self) -> float:
        """The share of ties among the known preferences, or among 1,000 pairs drawn from the votes."""
        if self.known is not None:
            return float(np.mean([value == TIE for value in self.known.values()]))
        rng = np.random.default_rng(0)
        paired = [i for i, js in self.partners.items() if len(js)]
        drawn = [int(paired[k]) for k in rng.integers(len(paired), size=1000)]
        return float(np.mean([self.preferred(i, int(rng.choice(self.partners[i]))) == TIE for i in drawn]))

    def preferred(self, i: int, j: int) -> float:
        """Say which of two texts is more of their label.

        Args:
            i: The position of the first text.
            j: The position of the second text, a partner of the first.

        Returns:
            1.0 where the first text is, 0.0 where the second is, 0.5 for a tie.
        """
        if self.known is not None:
            return self.known[(i, j)] if (i, j) in self.known else 1.0 - self.known[(j, i)]
        label = self.texts[i].label
        first, second = self.texts[i].soft, self.texts[j].soft
        assert first is not None and second is not None
        gap = first[label] - second[label]
        return TIE if abs(gap) <= self.tie + _ROUNDING else float(gap > 0)

    def draw(self, rng: np.random.Generator, weigh: Weigh | None = None) -> list[tuple[int, int]]:
        """Draw one partner for each text; with `shares`, as many pairs as their sum.

        Args:
            rng: Decides order and partners.
            weigh: How likely each candidate is to be drawn, up to a factor. None, or all 0: all alike. Not
                asked where there are `shares`.

        Returns:
            Each text with its partner, in a random order. A text without partners is paired with itself.
        """
        if self.shares is not None:
            pairs = list(self.shares)
            weights = np.array([self.shares[pair] for pair in pairs])
            chosen = rng.choice(len(pairs), size=max(1, round(weights.sum())), p=weights / weights.sum())
            return [pairs[k] for k in chosen]
        drawn = []
        for i in map(int, rng.permutation(len(self.texts))):
            candidates = self.partners[i]
            if not len(candidates):
                drawn.append((i, i))
                continue
            weights = np.ones(len(candidates)) if weigh is None else weigh(i, candidates)
            total = weights.sum()
            drawn.append((i, int(rng.choice(candidates, p=weights / total if total > 0 else None))))
        return drawn


def read_texts(
    rows: Sequence[Row],
    *,
    text: str,
    labels: Sequence[str],
    label: str | None = None,
    votes: Sequence[str] = (),
    annotators: Sequence[str] = (),
) -> list[LabelledText]:
    """Read the texts of a table.

    Args:
        rows: The rows of the table.
        text: The column of the text.
        labels: The names of the classes, in the order that the model is to have them.
        label: The column of the label. None: the class with most votes, of equals the first.
        votes: The columns that hold counts of votes, one for each of `labels`.
        annotators: The columns that hold one annotator's label each.

    Raises:
        UserError: A row's label is none of `labels`, its text is empty, or it has no votes.
    """
    if not labels:
        raise UserError("labels: the classes must be named, in the order that the model is to have them")
    if label is None and not votes and not annotators:
        raise UserError("a text's class comes from label, votes or annotators; name one of them")
    if votes and len(votes) != len(labels):
        raise UserError(f"votes: one column for each of the {len(labels)} labels, got {len(votes)}")
    position = {name: i for i, name in enumerate(labels)}
    texts = []
    for row in rows:
        content = str(row.fields.get(text) or "").strip()
        if not content:
            raise UserError(f"{row.place}: the column {text!r} must hold a text, it is empty")
        annotations: tuple[int | None, ...] = ()
        soft: tuple[float, ...] | None = None
        if annotators:
            annotations = tuple(_position(row, name, position, nullable=True) for name in annotators)
            soft = _shares(row, [sum(one == c for one in annotations) for c in range(len(labels))])
        elif votes:
            soft = _shares(row, [_count(row, name) for name in votes])
        if label is not None:
            label_index = _position(row, label, position, nullable=False)
            assert label_index is not None
        else:
            assert soft is not None
            label_index = int(np.argmax(soft))
        texts.append(LabelledText(text=content, label=label_index, soft=soft, annotations=annotations))
    return texts


def split_texts(
    texts: Sequence[LabelledText], shares: Sequence[float], seed: int
) -> list[list[LabelledText]]:
    """Split texts into parts, equal texts into one part.

    Args:
        texts: The texts.
        shares: The relative size of each part, counted in distinct texts.
        seed: The split depends on the seed and the texts alone, not on their order.

    Returns:
        A list for each share.
    """
    order = seeded_order({one.text for one in texts}, str, seed)
    ends = np.round(np.cumsum(np.asarray(shares) / sum(shares)) * len(order)).astype(int)
    part = {text: int(np.searchsorted(ends, i, side="right")) for i, text in enumerate(order)}
    return [[one for one in texts if part[one.text] == k] for k in range(len(shares))]


def class_weights(texts: Sequence[LabelledText], n_classes: int) -> list[float]:
    """Weights with which every class counts as though it had as many texts: n / (n_classes · n_c).

    Args:
        texts: The training texts.
        n_classes: The number of classes.

    Raises:
        UserError: A class has no text.
    """
    counts = np.bincount([one.label for one in texts], minlength=n_classes)
    if (counts == 0).any():
        raise UserError(f"class {int(np.argmin(counts))} has no text to learn from")
    return [float(len(texts) / (n_classes * count)) for count in counts]


def _shares(row: Row, counts: Sequence[float]) -> tuple[float, ...]:
    total = sum(counts)
    if total <= 0:
        raise UserError(f"{row.place}: must have one vote at least, it has none")
    return tuple(float(count) / total for count in counts)


def _count(row: Row, column: str) -> float:
    try:
        value = float(str(row.fields[column]))
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{row.place}: the column {column!r} must be a count of votes, got {row.fields.get(column)!r:.40}"
        ) from None
    if value < 0:
        raise UserError(f"{row.place}: the column {column!r} must be a count of votes, got {value:g}")
    return value


def _position(row: Row, column: str, position: Mapping[str, int], *, nullable: bool) -> int | None:
    value = row.fields.get(column)
    if nullable and value in (None, ""):
        return None
    if as_text(value) not in position:
        raise UserError(f"{row.place}: {column} is one of {', '.join(position)}, got {value!r:.40}")
    return position[as_text(value)]
