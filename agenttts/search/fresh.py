"""The purchase of fresh examples: which trial is scored on the next few, while that may change the choice.

One batch at a time goes to the trial whose scores can still change the choice most. When the choice is
settled, the winner's batches that are left follow and then those of the best default, so that what is claimed
of them rests on all examples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agenttts.results.choosing import Choice
from agenttts.results.fresh import SPLIT
from agenttts.results.selection import Scoreboard, gain_of_knowing
from agenttts.results.trials import TrialResult
from pipelines.allocation import Allocation
from pipelines.examples import Example

MOST_RIVALS = 6
"""Trials that fresh examples are bought for, beside the best default."""
WORTH = 0.0005
"""The choice is settled when knowing more of no rival is expected to raise the score by as much."""
_BATCHES = 4
_LEAST_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Purchase:
    """The next trial on fresh examples.

    Attributes:
        trial: The trial on the search's examples.
        examples: The fresh examples to score its allocation on.
        reason: Why, in words.
    """

    trial: TrialResult
    examples: Sequence[Example]
    reason: str


def next_purchase(choice: Choice, fresh: Sequence[Example], extra: Sequence[TrialResult]) -> Purchase | None:
    """Return the next trial to score on fresh examples.

    Args:
        choice: The choice as it stands.
        fresh: The fresh examples.
        extra: The trials of the confirmation so far.

    Returns:
        The purchase; None when no further one is worth its cost.
    """
    if choice.board is None or not fresh:
        return None
    bought = Counter(t.allocation for t in extra if t.split == SPLIT and t.policy is None)
    shelf = _Shelf(choice.candidates, fresh, bought)
    pick, reason = _most_telling(choice, choice.board, shelf)
    if pick is None:
        for trial, role in ((choice.best, "winner"), (choice.baseline, "best default")):
            index = next((i for i, t in enumerate(choice.candidates) if trial is t), None)
            if index is not None and shelf.left(index):
                pick, reason = index, f"The {role} on fresh examples: what is claimed of it rests on all."
                break
    if pick is None:
        return None
    return Purchase(trial=choice.candidates[pick], examples=shelf.batch(pick), reason=reason)


class _Shelf:
    """The batches of fresh examples, and how many of them each candidate has."""

    def __init__(
        self, candidates: Sequence[TrialResult], fresh: Sequence[Example], bought: Counter[Allocation]
    ) -> None:
        size = max(_LEAST_BATCH, math.ceil(len(fresh) / _BATCHES))
        self._batches = [fresh[i : i + size] for i in range(0, len(fresh), size)]
        self._bought = [bought[t.allocation] for t in candidates]

    def left(self, candidate: int) -> int:
        """The number of examples that the candidate was not scored on."""
        return sum(map(len, self._batches[self._bought[candidate] :]))

    def count(self, candidate: int) -> int:
        """The number of batches that the candidate has."""
        return self._bought[candidate]

    def batch(self, candidate: int) -> Sequence[Example]:
        """The candidate's next batch."""
        return self._batches[self._bought[candidate]]

    def open(self) -> list[int]:
        """The candidates that batches may be bought for: any of those that have some, and a few others."""
        begun = sum(count > 0 for count in self._bought)
        return [i for i, count in enumerate(self._bought) if self.left(i) and (count or begun < MOST_RIVALS)]


def _most_telling(choice: Choice, board: Scoreboard, shelf: _Shelf) -> tuple[int | None, str]:
    if choice.rule.goal.min_quality is not None:
        return _cheapest_in_question(choice, board, shelf)
    leader = max(
        range(len(choice.candidates)),
        key=lambda i: (round(float(board.levels[i]), 12), -choice.candidates[i].number),
    )
    rivals = [i for i in range(len(choice.candidates)) if i != leader]
    if not rivals:
        return None, ""
    leads, stds = [], []
    for rival in rivals:
        _, spread, count = board.paired(leader, rival)
        more = max(shelf.left(rival), shelf.left(leader))
        leads.append(float(board.levels[leader] - board.levels[rival]))
        stds.append(spread * math.sqrt(1 / max(count, 1) - 1 / (max(count, 1) + more)))
    gains = gain_of_knowing(leads, stds)
    can_buy = set(shelf.open())
    for position in np.argsort(-gains, kind="stable"):
        if gains[position] < WORTH:
            break
        pair = sorted((leader, rivals[position]), key=shelf.count)
        pick = next((i for i in pair if i in can_buy), None)
        if pick is not None and rivals[position] in can_buy | {i for i in rivals if shelf.count(i)}:
            first, second = (choice.candidates[i].number for i in (leader, rivals[position]))
            return pick, f"Trials {first} and {second} can't be told apart: fresh examples for the choice."
    return None, ""


def _cheapest_in_question(choice: Choice, board: Scoreboard, shelf: _Shelf) -> tuple[int | None, str]:
    """The cheapest candidate that may be shown to have the required score and is not yet."""
    required = choice.rule.goal.min_quality or 0.0
    can_buy = set(shelf.open())
    for i in sorted(range(len(choice.candidates)), key=lambda i: choice.rule.burden(choice.candidates[i])):
        if board.bound_after(i, shelf.left(i)) < required:
            continue
        if board.n_fresh[i] and board.lower_bound(i) >= required:
            break
        if i in can_buy:
            number = choice.candidates[i].number
            return i, f"Trial {number} seems to reach {required:g}: fresh examples show whether it does."
    return None, ""
