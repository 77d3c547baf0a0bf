"""Scores and costs of a trial by example id, as arrays: a trial on very many examples takes little memory."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Self

from agenttts.results.trials import QueryCost
from pipelines.examples import Example


class ExampleIds:
    """The ids of examples in order; trials on the same examples share one of these.

    Args:
        ids: The ids.

    Attributes:
        places: The place of each id, in order.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self.places = {example_id: place for place, example_id in enumerate(ids)}

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Self:
        """Return the ids of examples; for the same examples in the same order the same object.

        Args:
            examples: The examples.
        """
        return cls._of(tuple(example.id for example in examples))

    def first(self, n: int) -> list[str]:
        """Return the first ids.

        Args:
            n: How many.
        """
        return list(islice(self.places, n))

    @classmethod
    @lru_cache(maxsize=8)
    def _of(cls, ids: tuple[str, ...]) -> Self:
        return cls(ids)


class ScoresByExample(Mapping[str, float | None]):
    """The scores of the first of some examples; None where an example is missing.

    Args:
        ids: The ids of the examples.
        scores: The scores of the first ones; NaN stands for None.
    """

    def __init__(self, ids: ExampleIds, scores: Sequence[float]) -> None:
        self._ids = ids
        self._scores = scores

    @classmethod
    def of(cls, ids: ExampleIds, scores: Mapping[str, float | None]) -> Mapping[str, float | None]:
        """Return scores in the order of the ids, as an array where they are those of the first examples.

        Args:
            ids: The ids of the examples.
            scores: The scores by id.
        """
        first = ids.first(len(scores))
        if all(example_id in scores for example_id in first):
            values = (scores[example_id] for example_id in first)
            return cls(ids, array("d", (math.nan if value is None else value for value in values)))
        return {example_id: scores[example_id] for example_id in ids.places if example_id in scores}

    def __getitem__(self, example_id: str) -> float | None:
        place = self._ids.places[example_id]
        if place >= len(self._scores):
            raise KeyError(example_id)
        return _known(self._scores[place])

    def __iter__(self) -> Iterator[str]:
        return islice(self._ids.places, len(self._scores))

    def __len__(self) -> int:
        return len(self._scores)

    def __repr__(self) -> str:
        return repr(dict(self))


class CostsByExample(Mapping[str, QueryCost]):
    """What the scored ones of some examples took.

    Args:
        ids: The ids of the examples.
        scores: The scores of all of them; what has none has no cost either. NaN stands for None.
        flops: FLOPs of all of them; NaN where they are not known.
        usd: US dollars of all of them; NaN where they are not known.
    """

    def __init__(
        self, ids: ExampleIds, scores: Sequence[float], flops: Sequence[float], usd: Sequence[float]
    ) -> None:
        self._ids = ids
        self._scores = scores
        self._flops, self._usd = flops, usd
        self._n = sum(not math.isnan(score) for score in scores)

    def __getitem__(self, example_id: str) -> QueryCost:
        place = self._ids.places[example_id]
        if place >= len(self._scores) or math.isnan(self._scores[place]):
            raise KeyError(example_id)
        return QueryCost(_known(self._flops[place]), _known(self._usd[place]))

    def __iter__(self) -> Iterator[str]:
        pairs = zip(self._ids.places, self._scores, strict=False)  # a trial may be on the first ones
        return (example_id for example_id, score in pairs if not math.isnan(score))

    def __len__(self) -> int:
        return self._n

    def __repr__(self) -> str:
        return repr(dict(self))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
