"""One person's judgements of pairs of texts, each stored before the next pair is shown."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agenttts.p2c.preferences import agreement, known_pairs, preference
from agenttts.p2c.texts import TIE, LabelledText
from datastore.records import Preference
from datastore.store import Store


@dataclass(frozen=True, kw_only=True)
class ShownPair:
    """A pair that is to be judged.

    Attributes:
        number: Its number, by which an answer names it.
        label: The name of the class.
        first: The text that stands first.
        second: The text that stands second.
    """

    number: int
    label: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class JudgingState:
    """How far a person is.

    Attributes:
        pair: The next pair; None when all are done.
        done: The number of pairs that are done.
        total: The number of pairs.
        agreement: How often other judges agree with the person; None where nobody judged the same pair.
    """

    pair: ShownPair | None
    done: int
    total: int
    agreement: float | None


class Judging:
    """One person's answers to a list of pairs. Which text of a pair stands first is shuffled.

    Args:
        store: Where the answers go.
        collection: The name of the collection.
        person: Who judges.
        texts: The texts.
        labels: The names of the classes.
        pairs: The positions of two texts each.
        clock: Gives the time in Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        collection: str,
        person: str,
        texts: Sequence[LabelledText],
        labels: Sequence[str],
        pairs: Sequence[tuple[int, int]],
        clock: Callable[[], float],
    ) -> None:
        self._store, self._collection, self._person = store, collection, person
        self._texts, self._labels, self._clock = texts, labels, clock
        self._pairs = [pair if _keeps_order(person, texts, pair) else pair[::-1] for pair in pairs]
        self._lock = threading.Lock()
        keys = [self._record(number, TIE).key for number in range(len(pairs))]
        order = {one.key: i for i, one in enumerate(store.preferences(collection))}  # as they were given
        answered = (number for number, key in enumerate(keys) if key in order)
        self._answered = sorted(answered, key=lambda number: order[keys[number]])

    def state(self) -> JudgingState:
        """How far the person is, and the next pair."""
        with self._lock:
            answered = set(self._answered)
            left = next((number for number in range(len(self._pairs)) if number not in answered), None)
            return JudgingState(
                pair=None if left is None else self._shown(left),
                done=len(answered),
                total=len(self._pairs),
                agreement=agreement(self._store.preferences(self._collection), of=self._person),
            )

    def answer(self, number: int, preferred: float) -> None:
        """Store an answer; a second one to the same pair replaces the first.

        Args:
            number: The number of the pair.
            preferred: 1 for the text that stands first, 0 for the second, 0.5 for neither.

        Raises:
            ValueError: There is no such pair or answer.
        """
        if not 0 <= number < len(self._pairs) or preferred not in (0, 0.5, 1):
            raise ValueError("no such pair or answer")
        with self._lock:
            self._store.put_preferences([self._record(number, float(preferred))])
            self._answered = [other for other in self._answered if other != number] + [number]

    def undo(self) -> None:
        """Remove the last answer."""
        with self._lock:
            if self._answered:
                self._store.remove_preference(self._record(self._answered.pop(), TIE).key)

    def _shown(self, number: int) -> ShownPair:
        first, second = (self._texts[i] for i in self._pairs[number])
        label = self._labels[first.label]
        return ShownPair(number=number, label=label, first=first.text, second=second.text)

    def _record(self, number: int, preferred: float) -> Preference:
        i, j = self._pairs[number]
        return preference(
            self._collection,
            self._texts[i],
            self._texts[j],
            self._labels,
            preferred,
            source="people",
            judge=self._person,
            at=self._clock(),
        )


def judged_pairs(
    store: Store, collection: str, texts: Sequence[LabelledText], labels: Sequence[str]
) -> list[tuple[int, int]]:
    """Find the pairs of a collection that others have judged, for a second person to judge the same.

    Args:
        store: The store of the collection.
        collection: Its name.
        texts: The texts.
        labels: The names of the classes.

    Returns:
        The positions of two texts each; an empty list when the collection is empty.

    Raises:
        UserError: None of the preferences is about two of the texts.
    """
    preferences = store.preferences(collection)
    return list(known_pairs(preferences, texts, labels)) if preferences else []


def _keeps_order(person: str, texts: Sequence[LabelledText], pair: tuple[int, int]) -> bool:
    """Whether the first text of a pair stands first, by a hash of the person and the texts."""
    key = f"{person}|{texts[pair[0]].text}|{texts[pair[1]].text}"
    return hashlib.sha256(key.encode()).digest()[0] % 2 == 0
