"""Plain votes written out, against which the shipped count is checked, and stages to vote at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipelines import Candidate, StageSpec, TextParser
from pipelines.jsonvalues import JSON
from pipelines.reading.comparing import vote_key


def stage(aggregator: Any, parser: Any = None) -> StageSpec:
    """A stage of one model with 8 samples at most."""
    return StageSpec(
        name="s",
        prompt="x",
        models=("m",),
        max_samples=8,
        prompt_tokens=1,
        generated_tokens=1,
        aggregator=aggregator,
        parser=parser or TextParser(),
    )


def plurality(candidates: Iterable[Candidate]) -> JSON:
    """Return the value with the most votes, written as in its first sample.

    Ties go to the value that was drawn first. None when no sample parsed.
    """
    votes: dict[str, list[Candidate]] = {}
    for candidate in _parsed(candidates):
        if key := vote_key(candidate.value):
            votes.setdefault(key, []).append(candidate)
    return max(votes.values(), key=len)[0].value if votes else None


def set_vote(
    candidates: Iterable[Candidate],
    threshold: float = 0.5,
    union: bool = False,
    order: Sequence[str] | None = None,
) -> list[JSON] | None:
    """Return the items that enough of the samples name.

    Args:
        candidates: The samples. Those whose value is not a list have no vote.
        threshold: The share of the lists that must name an item, in (0, 1].
        union: Take every item that any list names, whatever the threshold.
        order: Items in the order in which they are returned; others follow as first drawn. None means no
            order.

    Returns:
        The items, empty when no item has enough votes; None when no sample has a vote.
    """
    ballots = [c.value for c in _parsed(candidates) if isinstance(c.value, list)]
    if not ballots:
        return None
    first = dict[str, JSON]()
    votes = dict[str, int]()
    for ballot in ballots:
        for key, item in {key: item for item in ballot if (key := vote_key(item, case=True))}.items():
            first.setdefault(key, item)
            votes[key] = votes.get(key, 0) + 1
    least = 0.0 if union else threshold * len(ballots) - 1e-9  # so that 0.1 of 10 is 1
    position = {vote_key(item, case=True): i for i, item in reversed(list(enumerate(order or ())))}
    chosen = [key for key in first if votes[key] >= least]
    return [first[key] for key in sorted(chosen, key=lambda key: position.get(key, len(position)))]


def _parsed(candidates: Iterable[Candidate]) -> list[Candidate]:
    return sorted((c for c in candidates if c.value is not None), key=lambda c: c.index)
