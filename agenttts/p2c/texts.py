"""Texts with labels, annotators' votes and preferences, for training classifiers; no torch in it.

A pair is two texts of one label with a preference: which of the two is more of that label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agenttts.errors import UserError
from pipelines.dataset import seeded_order
from pipelines.tables import Row

TIE = 0.5


@dataclass(frozen=True, kw_only=True)
class LabelledText:
    """label: position among the classes. soft: share of votes for each class; None without votes.

    annotations: each annotator's class, None where one did not say.
    """

    text: str
    label: int
    soft: tuple[float, ...] | None = None
    annotations: tuple[int | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which texts can be partners, and what is preferred.

    known: (i, j) → 1.0 where text i is preferred to j, 0.0 where j is, 0.5 for a tie; None: from votes.
    Between votes, a difference of at most `tie` in the label's share is a tie. about: the class that known
    preferences are about, where they compare texts of different classes; None: the class that a pair shares.
    """

    texts: Sequence[LabelledText]
    known: Mapping[tuple[int, int], float] | None = None
    tie: float = 0.0
    about: int | None = None
    partners: Mapping[int, NDArray[np.int64]] = field(init=False)

    def __post_init__(self) -> None:
        by_class: dict[int, list[int]] = {}
        found: dict[int, list[int]] = {i: [] for i in range(len(self.texts))}
        if self.known is None:
            for i, text in enumerate(self.texts):
                if text.soft is None:
                    raise UserError("preferences from votes need the votes of every text; one has none")
                by_class.setdefault(text.label, []).append(i)
            for members in by_class.values():
                for i in members:
                    found[i] = [j for j in members if j != i]
        else:
            for i, j in self.known:
                if self.about is None and self.texts[i].label != self.texts[j].label:
                    raise UserError(
                        f"a preference is between texts of one label, got {self.texts[i].text[:40]!r} and "
                        f"{self.texts[j].text[:40]!r}"
                    )
                found[i].append(j)
                found[j].append(i)
        made = {i: np.array(sorted(set(js)), dtype=np.int64) for i, js in found.items()}
        object.__setattr__(self, "partners", made)
        lonely = {text.label for text in self.texts} - {
            self.texts[i].label for i, js in made.items() if len(js)
        }
        if lonely == {text.label for text in self.texts}:
            raise UserError("no pair of texts has a preference; collect some, or train without")

    @property
    def classes_without_pairs(self) -> set[int]:
        """Classes none of whose texts has a partner: they are learnt from labels alone."""
        have = {self.texts[i].label for i, js in self.partners.items() if len(js)}
        return {text.label for text in self.texts} - have

    @property
    def share_of_ties(self) -> float:
        """Among known preferences, or among 1,000 pairs drawn from the votes."""
        if self.known is not None:
            return float(np.mean([value == TIE for value in self.known.values()]))
        rng = np.random.default_rng(0)
        some = [i for i, js in self.partners.items() if len(js)]
        drawn = [int(some[k]) for k in rng.integers(len(some), size=1000)]
        return float(np.mean([self.preferred(i, int(rng.choice(self.partners[i]))) == TIE for i in drawn]))

    def preferred(self, i: int, j: int) -> float:
        """1.0 where text i is more of the shared label than j, 0.0 where less, 0.5 for a tie."""
        if self.known is not None:
            return self.known[(i, j)] if (i, j) in self.known else 1.0 - self.known[(j, i)]
        label = self.texts[i].label
        first, second = self.texts[i].soft, self.texts[j].soft
        assert first is not None and second is not None
        gap = first[label] - second[label]
        return TIE if abs(gap) <= self.tie + 1e-12 else float(gap > 0)

    def draw(self, rng: np.random.Generator, weigh: Weigh | None = None) -> list[tuple[int, int]]:
        """Each text with one partner, in a random order; those without partners stand with themselves.

        weigh: (i, candidates) → how much each is wanted; at most 64 candidates are looked at.
        """
        drawn = []
        for i in rng.permutation(len(self.texts)):
            candidates = self.partners[int(i)]
            if not len(candidates):
                drawn.append((int(i), int(i)))
                continue
            if weigh is None:
                drawn.append((int(i), int(rng.choice(candidates))))
                continue
            some = candidates if len(candidates) <= 64 else rng.choice(candidates, 64, replace=False)
            weights = np.asarray(weigh(int(i), some), dtype=float)
            total = weights.sum()
            chances = weights / total if total > 0 else None
            drawn.append((int(i), int(rng.choice(some, p=chances))))
        return drawn


Weigh = Callable[[int, NDArray[np.int64]], NDArray[np.float64]]


def read_texts(
    rows: Sequence[Row],
    *,
    text: str,
    labels: Sequence[str],
    label: str | None = None,
    votes: Sequence[str] = (),
    annotators: Sequence[str] = (),
) -> list[LabelledText]:
    """Texts from a table.

    label: the column of the label; else the class with most votes, the first of equals. votes: a column of
    counts for each of `labels`; annotators: columns that hold one annotator's label each. UserError for a row
    whose label is none of `labels`, whose text is empty, or that has no votes.
    """
    if not labels:
        raise UserError("labels: the classes must be named, in the order that the model is to have them")
    if label is None and not votes and not annotators:
        raise UserError("a text's class comes from label, votes or annotators; name one of them")
    if votes and len(votes) != len(labels):
        raise UserError(f"votes: one column for each of the {len(labels)} labels, got {len(votes)}")
    position = {name: i for i, name in enumerate(labels)}
    found = []
    for row in rows:
        said = str(row.fields.get(text) or "").strip()
        if not said:
            raise UserError(f"{row.place}: the column {text!r} must hold a text, it is empty")
        given: tuple[int | None, ...] = ()
        soft: tuple[float, ...] | None = None
        if annotators:
            given = tuple(_position(row, name, position, nullable=True) for name in annotators)
            counts = [sum(one == c for one in given) for c in range(len(labels))]
            soft = _shares(row, counts)
        elif votes:
            soft = _shares(row, [_count(row, name) for name in votes])
        if label is not None:
            own = _position(row, label, position, nullable=False)
            assert own is not None
        else:
            assert soft is not None
            own = int(np.argmax(soft))
        found.append(LabelledText(text=said, label=own, soft=soft, annotations=given))
    return found


def split_texts(
    texts: Sequence[LabelledText], shares: Sequence[float], seed: int
) -> list[list[LabelledText]]:
    """Texts in parts of these shares, equal texts in one part, by the seed alone."""
    order = seeded_order({one.text for one in texts}, str, seed)
    ends = np.round(np.cumsum(np.asarray(shares) / sum(shares)) * len(order)).astype(int)
    part = {text: int(np.searchsorted(ends, i, side="right")) for i, text in enumerate(order)}
    return [[one for one in texts if part[one.text] == k] for k in range(len(shares))]


def class_weights(texts: Sequence[LabelledText], n_classes: int) -> list[float]:
    """n / (n_classes · n_c): as though every class had as many texts. UserError for a class without any."""
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
    if str(value) not in position:
        raise UserError(f"{row.place}: {column} is one of {', '.join(position)}, got {value!r:.40}")
    return position[str(value)]
