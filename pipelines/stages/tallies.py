"""What was counted of a stage's samples: votes and probability of each value, and the output that they give.

weighted: half the share of the ballots, half the share of the probability. The probability of a value is the
sum of exp(log-probability) over the distinct texts that have it: a text drawn twice is no more probable than
the model said the first time. Where texts practically never repeat, or a ballot has no log-probability, it
steps back to the plain vote. length_weighted: a ballot weighs exp(-tokens / t0).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.reading.comparing import vote_key
from pipelines.spec.stage import StageSpec
from pipelines.stages.candidates import Candidate
from pipelines.stages.counts import Count
from pipelines.stages.parsers import allowed_values

LEAST_MASS = 0.1
"""Below this probability of all texts seen together, texts practically never repeat, and their probabilities
say little of the whole: on the zoo's retrieval, sets by weights are no better than by votes up to here."""
SLACK = 1e-9
"""So that 0.1 of 10 is 1."""


@dataclass(slots=True)
class Tally:
    """What has been counted for one value, or for one item of the lists."""

    value: JSON
    votes: int = 0
    probability: float = 0.0


class Tallies:
    """What was counted of the samples of one stage for one prompt, and what it comes to.

    Args:
        of_lists: Whether values are lists that are voted on item by item.
        order: Items in the order in which they are returned, the values that the prompt allows; others follow
            as first drawn. None means no order.

    Attributes:
        n_samples: How many candidates were added.
        n_ballots: How many of them have a vote.
        tallies: What was counted for each key of a value or an item, in the order of first drawing.
        order: The items in the order in which they are returned.
        texts: The distinct texts.
        seen_mass: The probability of these together.
        parsed_mass: The probability of those that have a vote.
        likeliest: The probability of the likeliest of those.
        lacks_logprobs: Whether a ballot came without a log-probability.
    """

    __slots__ = (
        "_lengths",
        "_of_lists",
        "lacks_logprobs",
        "likeliest",
        "n_ballots",
        "n_samples",
        "order",
        "parsed_mass",
        "seen_mass",
        "tallies",
        "texts",
    )

    def __init__(self, *, of_lists: bool, order: Sequence[str] | None = None) -> None:
        self._of_lists = of_lists
        self.order = tuple(order or ())
        self.tallies: dict[str, Tally] = {}
        self.texts: set[str] = set()
        self._lengths: list[tuple[tuple[str, ...], int]] = []
        self.seen_mass = self.parsed_mass = self.likeliest = 0.0
        self.lacks_logprobs = False
        self.n_samples = self.n_ballots = 0

    @classmethod
    def of(cls, stage: StageSpec, count: Count, example: Example) -> Self:
        """Return an empty count for a stage's prompt.

        Args:
            stage: The stage.
            count: How it will be counted, at any threshold and by any vote of the same form.
            example: The example that the prompt was made from.
        """
        of_lists = count.threshold is not None
        return cls(of_lists=of_lists, order=allowed_values(stage.parser, example) if of_lists else None)

    def add(self, candidate: Candidate) -> None:
        """Count one more sample, the next in the order of the draw."""
        self.n_samples += 1
        keys = self._keys(candidate.value)
        new, logprob = candidate.text not in self.texts, candidate.logprob_sum
        mass = math.exp(logprob) if new and logprob is not None else 0.0
        if new:
            self.texts.add(candidate.text)
            self.seen_mass += mass
        if keys is None:
            return
        self.n_ballots += 1
        self.lacks_logprobs = self.lacks_logprobs or logprob is None
        self.parsed_mass += mass
        self.likeliest = max(self.likeliest, mass)
        self._lengths.append((keys, candidate.generated_tokens))
        for key in keys:
            tally = self.tallies[key]
            tally.votes += 1
            tally.probability += mass

    def add_all(self, candidates: Iterable[Candidate]) -> None:
        """Count samples in the order of their draw, whatever the order in which they are given."""
        for candidate in sorted(candidates, key=lambda c: c.index):
            self.add(candidate)

    def _keys(self, value: JSON) -> tuple[str, ...] | None:
        """The keys that a value votes for, with a tally each; None when it has no vote."""
        if value is None or (self._of_lists and not isinstance(value, list)):
            return None
        items: Sequence[JSON] = value if self._of_lists and isinstance(value, list) else (value,)
        keyed = dict[str, JSON]()
        for item in items:
            key = (
                _text_key(item, self._of_lists)
                if isinstance(item, str)
                else vote_key(item, case=self._of_lists)
            )
            if key:
                keyed[key] = item
        if not keyed and not self._of_lists:
            return None
        for key, item in keyed.items():
            if key not in self.tallies:
                self.tallies[key] = Tally(item)
        return tuple(keyed)

    def steps_back(self, count: Count) -> bool:
        """Whether a weighted vote is counted as a plain one here.

        Of weighted: a ballot has no log-probability, or the texts seen are so improbable that hardly any
        would repeat. Of length_weighted: every ballot is too long for its weight to be a number.
        """
        if count.kind == "weighted":
            return self.lacks_logprobs or self.seen_mass < LEAST_MASS or self.parsed_mass <= 0
        return count.kind == "length_weighted" and self._length_weight(count) <= 0

    def output(self, count: Count) -> JSON:
        """Return what the samples so far come to; None when none of them has a vote."""
        if not self.n_ballots:
            return None
        weights, total = self.weights(count)
        if count.threshold is None:
            return self.tallies[first_best(weights)].value
        position = _positions(self.order)
        chosen = sorted(self.chosen(count, weights, total), key=lambda key: position.get(key, len(position)))
        return [self.tallies[key].value for key in chosen]

    @property
    def unseen_mass(self) -> float:
        """The probability of all texts that were not drawn yet."""
        return max(0.0, 1.0 - self.seen_mass)

    def chosen(self, count: Count, weights: Mapping[str, float], total: float) -> list[str]:
        """Return the keys of the items that weigh enough, of a count with a threshold.

        Args:
            count: How the samples are counted.
            weights: The weight of each key.
            total: The weight of all ballots together.
        """
        assert count.threshold is not None
        least = 0.0 if count.union else count.threshold * total - SLACK
        return [key for key, weight in weights.items() if weight >= least]

    def weights(self, count: Count) -> tuple[dict[str, float], float]:
        """Return the weight of each key, in the order of first drawing, and of all ballots together.

        Args:
            count: How the samples are counted.
        """
        n = self.n_ballots
        if count.kind == "plain" or self.steps_back(count):
            return {key: tally.votes for key, tally in self.tallies.items()}, n
        if count.kind == "weighted":
            mass = self.parsed_mass
            return {key: (t.votes / n + t.probability / mass) / 2 for key, t in self.tallies.items()}, 1.0
        weights = dict.fromkeys(self.tallies, 0.0)
        for keys, tokens in self._lengths:
            weight = math.exp(-tokens / count.t0)
            for key in keys:
                weights[key] += weight
        return weights, self._length_weight(count)

    def _length_weight(self, count: Count) -> float:
        return math.fsum(math.exp(-tokens / count.t0) for _, tokens in self._lengths)

    def discount(self, count: Count) -> float:
        """Return the largest share of the unseen probability that may speak against the output and leave it.

        Args:
            count: How the samples are counted; there is a ballot.

        Returns:
            1 or more where no share of it can change the output; negative where the output is another one
            by the probability seen so far alone.
        """
        unseen = max(self.unseen_mass, SLACK)
        weights, total = self.weights(count)
        if count.threshold is None:
            best = first_best(weights)
            second = max((t.probability for key, t in self.tallies.items() if key != best), default=0.0)
            return (self.tallies[best].probability - second) / unseen
        chosen, threshold, mass = set(self.chosen(count, weights, total)), count.threshold, self.parsed_mass
        least = mass * threshold / (max(1 - threshold, SLACK) * unseen)  # of an item that no list named
        for key, tally in self.tallies.items():
            if key in chosen:
                least = min(least, (tally.probability / threshold - mass) / unseen)
            else:
                room = threshold * mass - tally.probability
                least = min(least, room / (max(1 - threshold, SLACK) * unseen))
        return least


@lru_cache(maxsize=1 << 16)
def _text_key(text: str, case: bool) -> str | None:
    return vote_key(text, case=case)


@lru_cache(maxsize=1 << 12)
def _positions(order: tuple[str, ...]) -> Mapping[str, int]:
    keyed = ((_text_key(item, True), index) for index, item in reversed(list(enumerate(order))))
    return {key: index for key, index in keyed if key is not None}


def first_best(weights: Mapping[str, float]) -> str:
    """The key with the greatest weight; of equals, the one that was drawn first."""
    return max(weights, key=lambda key: weights[key])


def best_other(weights: Mapping[str, float], best: str) -> float:
    """The greatest weight of another key; 0 where there is none."""
    return max((weight for key, weight in weights.items() if key != best), default=0.0)
