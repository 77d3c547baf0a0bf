"""The running count of a stage's samples for one prompt: what they come to, and whether more can change it.

Candidates are added one by one in the order of their draw. After any number of them a `Count`, the rule by
which votes are counted, gives the output; `decided` and `confident` say whether drawing may stop, and
`features` what a calibrated confidence reads. Live execution and replay use this one class, so that both give
the same.

weighted: half the share of the ballots, half the share of the probability. The probability of a value is the
sum of exp(log-probability) over the distinct texts that have it: a text drawn twice is no more probable than
the model said the first time. Where texts practically never repeat, or a ballot has no log-probability, it
steps back to the plain vote. length_weighted: a ballot weighs exp(-tokens / t0).

Stopping by votes: adaptive consistency (arXiv 2305.11860) and early-stopping self-consistency (arXiv
2401.10480). The rules by probability and for sets are ours: log-probabilities say how much is still unseen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.policy import Stop
from pipelines.reading.comparing import vote_key
from pipelines.spec.fields import StageSpec
from pipelines.stages.candidates import Candidate
from pipelines.stages.counts import Count, share_above
from pipelines.stages.parsers import allowed_values

LEAST_MASS = 0.01
"""Below this probability of all texts seen together, texts practically never repeat."""
SLACK = 1e-9
"""So that 0.1 of 10 is 1."""
VALUE_FEATURES = (
    "share_logit",
    "log_ballots",
    "parsed_share",
    "probability_logit",
    "second_probability",
    "unseen_mass",
)
SET_FEATURES = (
    "margin",
    "parsed_share",
    "distinct_share",
    "size",
    "is_empty",
    "is_single",
    "log_allowed",
    "log_ballots",
    "seen_mass",
    "parsed_mass",
    "likeliest",
    "decided_discount",
    "log_certainty",
)


@dataclass(slots=True)
class _Tally:
    """What has been counted for one value, or for one item of the lists."""

    value: JSON
    votes: int = 0
    probability: float = 0.0


class Ballots:
    """The samples of one stage for one prompt so far.

    Args:
        of_lists: Whether values are lists that are voted on item by item.
        order: Items in the order in which they are returned, the values that the prompt allows; others follow
            as first drawn. None means no order.

    Attributes:
        n_samples: How many candidates were added.
        n_ballots: How many of them have a vote.
    """

    __slots__ = (
        "_lengths",
        "_likeliest",
        "_missing",
        "_of_lists",
        "_order",
        "_parsed_mass",
        "_seen_mass",
        "_tallies",
        "_texts",
        "n_ballots",
        "n_samples",
    )  # fmt: skip

    def __init__(self, *, of_lists: bool, order: Sequence[str] | None = None) -> None:
        self._of_lists = of_lists
        self._order = tuple(order or ())
        self._tallies: dict[str, _Tally] = {}
        self._texts: set[str] = set()
        self._lengths: list[tuple[tuple[str, ...], int]] = []
        self._seen_mass = self._parsed_mass = self._likeliest = 0.0
        self._missing = False
        self.n_samples = self.n_ballots = 0

    @classmethod
    def of(cls, stage: StageSpec, count: Count, example: Example) -> Ballots:
        """Return empty ballots for a stage's prompt.

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
        new, logprob = candidate.text not in self._texts, candidate.logprob_sum
        mass = math.exp(logprob) if new and logprob is not None else 0.0
        if new:
            self._texts.add(candidate.text)
            self._seen_mass += mass
        if keys is None:
            return
        self.n_ballots += 1
        self._missing = self._missing or logprob is None
        self._parsed_mass += mass
        self._likeliest = max(self._likeliest, mass)
        self._lengths.append((keys, candidate.generated_tokens))
        for key in keys:
            tally = self._tallies[key]
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
            if key not in self._tallies:
                self._tallies[key] = _Tally(item)
        return tuple(keyed)

    def steps_back(self, count: Count) -> bool:
        """Whether a weighted vote is counted as a plain one here.

        Of weighted: a ballot has no log-probability, or the texts seen are so improbable that hardly any
        would repeat. Of length_weighted: every ballot is too long for its weight to be a number.
        """
        if count.kind == "weighted":
            return self._missing or self._seen_mass < LEAST_MASS or self._parsed_mass <= 0
        return count.kind == "length_weighted" and self._total_length_weight(count) <= 0

    def output(self, count: Count) -> JSON:
        """Return what the samples so far come to; None when none of them has a vote."""
        if not self.n_ballots:
            return None
        weights, total = self._weights(count)
        if count.threshold is None:
            return self._tallies[_first_best(weights)].value
        position = _positions(self._order)
        chosen = sorted(self._chosen(count, weights, total), key=lambda key: position.get(key, len(position)))
        return [self._tallies[key].value for key in chosen]

    def stops(self, count: Count, stop: Stop, n_max: int) -> bool:
        """Return whether a stage that draws at most `n_max` samples stops after these."""
        if self.n_samples >= n_max:
            return True
        if stop.kind == "decided":
            return self.decided(count, n_max)
        return stop.level is not None and self.confident(count, stop.level)

    def decided(self, count: Count, n_max: int) -> bool:
        """Return whether no further samples, up to `n_max` in all, can change the output.

        Of weighted, as far as the texts that are still unseen have no more than the probability that those
        seen leave, and have a log-probability.
        """
        left = n_max - self.n_samples
        if left <= 0 or not self.n_ballots:
            return left <= 0
        if self.steps_back(count):
            if not self._missing:
                return False  # longer or likelier texts may still come, and weigh
            count = replace(count, kind="plain")
        if count.threshold is None:
            return self._value_decided(count, left)
        if count.union:
            return False
        chosen = set(self._chosen(count, *self._weights(count)))
        for key in (None, *self._tallies):
            low, high = self._range(count, key, left)
            if low < count.threshold if key in chosen else high >= count.threshold - 10 * SLACK:
                return False
        return True

    def _value_decided(self, count: Count, left: int) -> bool:
        """Whether the best value stays ahead of each other, and of one not seen yet, if it gets all."""
        weights, _ = self._weights(count)
        best = _first_best(weights)
        if count.kind == "plain":
            keys = list(weights)
            before = max((weights[key] for key in keys[: keys.index(best)]), default=-math.inf)
            after = max((weights[key] for key in keys[keys.index(best) + 1 :]), default=0.0)
            return weights[best] - before > left and weights[best] - after >= left
        if count.kind == "length_weighted":
            return weights[best] - _best_other(weights, best) > left + SLACK
        first, unseen = self._tallies[best], self.unseen_mass
        others = [(t.votes, t.probability) for key, t in self._tallies.items() if key != best]
        leads = (
            (first.votes - votes - left) / (self.n_ballots + left)
            + (first.probability - probability - unseen) / (self._parsed_mass + unseen)
            for votes, probability in (*others, (0, 0.0))
        )
        return min(leads) > SLACK

    def _range(self, count: Count, key: str | None, left: int) -> tuple[float, float]:
        """The least and the most weight of an item after as many further samples; None: a new item."""
        tally = _Tally(None) if key is None else self._tallies[key]
        if count.kind == "length_weighted":
            weights, total = self._weights(count)
            weight = weights.get(key or "", 0.0)
            return weight / (total + left), (weight + left) / (total + left)
        low, high = tally.votes / (self.n_ballots + left), (tally.votes + left) / (self.n_ballots + left)
        if count.kind == "plain":
            return low, high
        mass = self._parsed_mass + self.unseen_mass
        return (
            (low + tally.probability / mass) / 2,
            (high + (tally.probability + self.unseen_mass) / mass) / 2,
        )

    def confident(self, count: Count, level: float) -> bool:
        """Return whether it is improbable that further samples change the output.

        plain and length_weighted: the probability that the best value is more frequent than the second, or
        that each item is on its side of the threshold, is at least `level`, by the beta posterior from the
        votes (adaptive consistency, arXiv 2305.11860). weighted: the output stays if a share `level` of the
        probability still unseen all speaks against it; 1 means all of it.
        """
        if not self.n_ballots:
            return False
        if count.kind == "weighted" and not self.steps_back(count):
            return self._discount(count) >= level
        weights, total = self._weights(count)
        if count.threshold is None:
            best = _first_best(weights)
            second = max((t.votes for key, t in self._tallies.items() if key != best), default=0)
            votes = self._tallies[best].votes
            return share_above(votes, votes + second, 0.5) >= level
        chosen = set(self._chosen(count, weights, total))
        for key in (None, *self._tallies):
            votes = 0 if key is None else self._tallies[key].votes
            above = share_above(votes, self.n_ballots, count.threshold)
            if (above if key in chosen else 1 - above) < level:
                return False
        return True

    @property
    def unseen_mass(self) -> float:
        """The probability of all texts that were not drawn yet."""
        return max(0.0, 1.0 - self._seen_mass)

    def features(self, count: Count) -> tuple[float, ...]:
        """Return what a calibrated confidence reads: VALUE_FEATURES, or SET_FEATURES of votes on lists.

        Log-probabilities that the server does not return count as 0 here.
        """
        return self._value_features(count) if count.threshold is None else self._set_features(count)

    def _value_features(self, count: Count) -> tuple[float, ...]:
        weights = self._weights(count)[0] if self.n_ballots else {"": 0.0}
        best = _first_best(weights)
        first = self._tallies.get(best, _Tally(None))
        second = max((t.probability for key, t in self._tallies.items() if key != best), default=0.0)
        p = first.probability
        return (
            math.log((first.votes + 0.5) / (self.n_samples - first.votes + 0.5)),
            math.log1p(self.n_ballots),
            self.n_ballots / max(1, self.n_samples),
            math.log(p + 1e-4) - math.log(1 - min(p, 1 - 1e-4)),
            second,
            self.unseen_mass,
        )

    def _set_features(self, count: Count) -> tuple[float, ...]:
        assert count.threshold is not None
        weights, total = self._weights(count)
        shares = [weight / total for weight in weights.values()] if self.n_ballots else []
        size = len(self._chosen(count, weights, total)) if self.n_ballots else 0
        return (
            min(0.3, *(abs(share - count.threshold) for share in (0.0, *shares))),
            self.n_ballots / max(1, self.n_samples),
            len(self._texts) / max(1, self.n_samples),
            float(min(size, 4)),
            float(size == 0),
            float(size == 1),
            math.log1p(len(self._order)),
            math.log1p(self.n_ballots),
            min(1.0, self._seen_mass),
            min(1.0, self._parsed_mass),
            self._likeliest,
            min(2.0, max(0.0, self._discount(count))) if self.n_ballots else 0.0,
            math.log(math.prod(max(share, 1 - share) for share in shares) + 1e-3),
        )

    def _chosen(self, count: Count, weights: Mapping[str, float], total: float) -> list[str]:
        assert count.threshold is not None
        least = 0.0 if count.union else count.threshold * total - SLACK
        return [key for key, weight in weights.items() if weight >= least]

    def _weights(self, count: Count) -> tuple[dict[str, float], float]:
        """The weight of each key in the order of first drawing, and of all ballots together."""
        n = self.n_ballots
        if count.kind == "plain" or self.steps_back(count):
            return {key: tally.votes for key, tally in self._tallies.items()}, n
        if count.kind == "weighted":
            mass = self._parsed_mass
            return {key: (t.votes / n + t.probability / mass) / 2 for key, t in self._tallies.items()}, 1.0
        weights = dict.fromkeys(self._tallies, 0.0)
        for keys, tokens in self._lengths:
            weight = math.exp(-tokens / count.t0)
            for key in keys:
                weights[key] += weight
        return weights, self._total_length_weight(count)

    def _total_length_weight(self, count: Count) -> float:
        return math.fsum(math.exp(-tokens / count.t0) for _, tokens in self._lengths)

    def _discount(self, count: Count) -> float:
        """The largest share of the unseen probability that may speak against the output and leave it."""
        unseen = max(self.unseen_mass, SLACK)
        weights, total = self._weights(count)
        if count.threshold is None:
            best = _first_best(weights)
            second = max((t.probability for key, t in self._tallies.items() if key != best), default=0.0)
            return (self._tallies[best].probability - second) / unseen
        chosen, threshold, mass = set(self._chosen(count, weights, total)), count.threshold, self._parsed_mass
        least = mass * threshold / (max(1 - threshold, SLACK) * unseen)  # of an item that no list named
        for key, tally in self._tallies.items():
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


def _first_best(weights: Mapping[str, float]) -> str:
    """The key with the greatest weight; of equals, the one that was drawn first."""
    return max(weights, key=lambda key: weights[key])


def _best_other(weights: Mapping[str, float], best: str) -> float:
    return max((weight for key, weight in weights.items() if key != best), default=0.0)
