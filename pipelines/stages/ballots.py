"""The running count of a stage's samples for one prompt: what they come to, and whether more can change it.

Candidates are added one by one in the order of their draw. After any number of them a `Count`, the rule by
which votes are counted, gives the output; `decided` and `confident` say whether drawing may stop, and
`features` what a calibrated confidence reads. Live execution and replay use this one class, so that both give
the same.

Stopping by votes: adaptive consistency (arXiv 2305.11860) and early-stopping self-consistency (arXiv
2401.10480). The rules by probability and for sets are ours: log-probabilities say how much is still unseen.
"""

from __future__ import annotations

import math
from dataclasses import replace

from pipelines.policy import Stop
from pipelines.stages.counts import Count, share_above
from pipelines.stages.tallies import SLACK, Tallies, Tally, best_other, first_best

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


class Ballots(Tallies):
    """The samples of one stage for one prompt so far."""

    __slots__ = ()

    def stops(self, count: Count, stop: Stop, n_max: int) -> bool:
        """Return whether drawing stops after these samples.

        Args:
            count: How the samples are counted.
            stop: The rule.
            n_max: The largest number of samples, at which it stops in any case.
        """
        if self.n_samples >= n_max:
            return True
        if stop.kind == "decided":
            return self.decided(count, n_max)
        return stop.level is not None and self.confident(count, stop.level)

    def next_check(self, count: Count, stop: Stop, n_max: int) -> int:
        """Return after how many samples in all it is asked next whether to stop: all are drawn at once.

        decided: not before it can hold. A plain vote of 32 values can't be decided before 16 samples, nor
        one on lists at threshold 0.25 before 25. A plain vote asks as soon as it can hold, so that no sample
        is drawn needlessly; as the rest halves with each question, there are few. The others ask when the
        samples have grown by the stop's factor, since a likely text may decide at any time.

        Args:
            count: How the samples are counted.
            stop: The rule.
            n_max: The largest number of samples.
        """
        following = n_max if stop.kind == "fixed" else stop.following(self.n_samples)
        if stop.kind == "decided":
            earliest = self.n_samples + self._fewest(count, n_max - self.n_samples)
            following = earliest if count.kind == "plain" else max(following, earliest)
        return min(following, n_max)

    def _fewest(self, count: Count, left: int) -> int:
        """How many further samples it takes at least until the output may be decided, if all goes well."""
        n, unseen = self.n_ballots + left, self.unseen_mass if count.kind == "weighted" else 0.0
        mass = self.parsed_mass + unseen
        if count.kind == "length_weighted" or not n:
            return 1
        by_mass = n / mass if count.kind == "weighted" and mass else 0.0  # in ballots
        if count.threshold is None:
            weights, _ = self.weights(count)
            best = self.tallies[first_best(weights)] if weights else Tally(None)
            rivals = [tally for tally in self.tallies.values() if tally is not best]
            lead = best.votes - max((rival.votes for rival in rivals), default=0)
            sure = best.probability + unseen - max((rival.probability for rival in rivals), default=0.0)
            return max(1, math.ceil((left - lead - by_mass * sure) / 2 - SLACK))
        share = n * count.threshold * (2 if by_mass else 1)
        strictly = 2 * SLACK
        needs = [left - share + strictly]  # until an item that is still unseen is out for good
        for tally in self.tallies.values():
            within = share - by_mass * (tally.probability + unseen) - tally.votes
            beyond = left + tally.votes + by_mass * tally.probability - share + strictly
            needs.append(min(within, beyond))
        return max(1, math.ceil(max(needs) - SLACK))

    def decided(self, count: Count, n_max: int) -> bool:
        """Return whether no further samples, up to `n_max` in all, can change the output.

        Of weighted, as far as the texts that are still unseen have no more than the probability that those
        seen leave, and have a log-probability.

        Args:
            count: How the samples are counted.
            n_max: The largest number of samples.
        """
        left = n_max - self.n_samples
        if left <= 0 or not self.n_ballots:
            return left <= 0
        if self.steps_back(count):
            if count.kind != "weighted" or not self.lacks_logprobs:
                return False  # shorter or likelier texts may still come, and weigh
            count = replace(count, kind="plain")
        if count.threshold is None:
            return self._value_decided(count, left)
        if count.union:
            return False
        chosen = set(self.chosen(count, *self.weights(count)))
        for key in (None, *self.tallies):
            low, high = self._range(count, key, left)
            if low < count.threshold if key in chosen else high >= count.threshold - 10 * SLACK:
                return False
        return True

    def _value_decided(self, count: Count, left: int) -> bool:
        """Whether the best value stays ahead of each other, and of one not seen yet, if it gets all."""
        weights, _ = self.weights(count)
        best = first_best(weights)
        if count.kind == "plain":
            keys = list(weights)
            before = max((weights[key] for key in keys[: keys.index(best)]), default=-math.inf)
            after = max((weights[key] for key in keys[keys.index(best) + 1 :]), default=0.0)
            return weights[best] - before > left and weights[best] - after >= left
        if count.kind == "length_weighted":
            return weights[best] - best_other(weights, best) > left + SLACK
        first, unseen = self.tallies[best], self.unseen_mass
        others = [(t.votes, t.probability) for key, t in self.tallies.items() if key != best]
        leads = (
            (first.votes - votes - left) / (self.n_ballots + left)
            + (first.probability - probability - unseen) / (self.parsed_mass + unseen)
            for votes, probability in (*others, (0, 0.0))
        )
        return min(leads) > SLACK

    def _range(self, count: Count, key: str | None, left: int) -> tuple[float, float]:
        """The least and the most weight of an item after as many further samples; None: a new item."""
        tally = Tally(None) if key is None else self.tallies[key]
        if count.kind == "length_weighted":
            weights, total = self.weights(count)
            weight = weights.get(key or "", 0.0)
            return weight / (total + left), (weight + left) / (total + left)
        low, high = tally.votes / (self.n_ballots + left), (tally.votes + left) / (self.n_ballots + left)
        if count.kind == "plain":
            return low, high
        mass = self.parsed_mass + self.unseen_mass
        return (
            (low + tally.probability / mass) / 2,
            (high + (tally.probability + self.unseen_mass) / mass) / 2,
        )

    def confident(self, count: Count, level: float) -> bool:
        """Return whether it is improbable that further samples change the output.

        plain and length_weighted: the probability that the best value is more frequent than the second, or
        that each item is on its side of the threshold, is at least `level`, by the beta posterior from the
        votes (adaptive consistency, arXiv 2305.11860). weighted: the output stays if a share `level` of the
        probability still unseen all speaks against it; 1 means all of it. Where it steps back, too little
        is seen: never.

        Args:
            count: How the samples are counted.
            level: From 0 to 1; the higher, the surer.
        """
        if not self.n_ballots:
            return False
        if count.kind == "weighted":
            return not self.steps_back(count) and self.discount(count) >= level
        weights, total = self.weights(count)
        if count.threshold is None:
            best = first_best(weights)
            second = max((t.votes for key, t in self.tallies.items() if key != best), default=0)
            votes = self.tallies[best].votes
            return share_above(votes, votes + second, 0.5) >= level
        chosen = set(self.chosen(count, weights, total))
        for key in (None, *self.tallies):
            votes = 0 if key is None else self.tallies[key].votes
            above = share_above(votes, self.n_ballots, count.threshold)
            if (above if key in chosen else 1 - above) < level:
                return False
        return True

    def features(self, count: Count) -> tuple[float, ...]:
        """Return what a calibrated confidence reads: VALUE_FEATURES, or SET_FEATURES of votes on lists.

        Probabilities that the server does not return count as 0 here.

        Args:
            count: How the samples are counted.
        """
        return self._value_features(count) if count.threshold is None else self._set_features(count)

    def _value_features(self, count: Count) -> tuple[float, ...]:
        weights = self.weights(count)[0] if self.n_ballots else {"": 0.0}
        best = first_best(weights)
        first = self.tallies.get(best, Tally(None))
        second = max((t.probability for key, t in self.tallies.items() if key != best), default=0.0)
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
        weights, total = self.weights(count)
        shares = [weight / total for weight in weights.values()] if self.n_ballots else []
        size = len(self.chosen(count, weights, total)) if self.n_ballots else 0
        return (
            min(0.3, *(abs(share - count.threshold) for share in (0.0, *shares))),
            self.n_ballots / max(1, self.n_samples),
            len(self.texts) / max(1, self.n_samples),
            float(min(size, 4)),
            float(size == 0),
            float(size == 1),
            math.log1p(len(self.order)),
            math.log1p(self.n_ballots),
            min(1.0, self.seen_mass),
            min(1.0, self.parsed_mass),
            self.likeliest,
            min(2.0, max(0.0, self.discount(count))) if self.n_ballots else 0.0,
            math.log(math.prod(max(share, 1 - share) for share in shares) + 1e-3),
        )
