"""How n samples of a stage become one output. Pure functions of the samples, whatever order they come in.

A sample that did not parse has no vote; where none parsed the output is None, which is a model's failure and
scores as empty, not an error. LLM fusion needs a further draw: its prompt is in `prompts`, the runtime sends
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from datastore.keys import canonical_json
from pipelines.errors import AggregationFailed, ConfigurationError, CustomCodeFailed
from pipelines.examples import Example
from pipelines.jsonvalues import JSON, plain
from pipelines.spec.fields import StageSpec
from pipelines.spec.functions import UserFunction, reference
from pipelines.spec.strict import PythonFunction
from pipelines.spec.variants import BestOfN, Plurality, PythonAggregator, SetVote
from pipelines.stages.parsers import allowed_values, normal_space


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sample of a stage: the index-th draw, its text and its parsed value (None: it did not parse).

    `mean_logprob` is the mean natural log-probability of its tokens; None where the server gives none.
    """

    index: int
    text: str
    value: JSON
    mean_logprob: float | None = None


Score = Callable[[Candidate, Example, Mapping[str, JSON]], float | None]


def aggregate(
    stage: StageSpec, candidates: Iterable[Candidate], example: Example, outputs: Mapping[str, JSON]
) -> JSON:
    """The stage's output from its samples; None when no sample parsed.

    `outputs` are those of the stage's inputs, by name, for a scorer of the user's own. Raises
    AggregationFailed when best-of-n has nothing to go by, CustomCodeFailed when a function misbehaves,
    ValueError for LLM fusion and verifiers.
    """
    drawn = sorted(candidates, key=lambda c: c.index)
    match stage.aggregator:
        case Plurality():
            return plurality(drawn)
        case SetVote(threshold=threshold, union=union):
            return set_vote(drawn, threshold, union, allowed_values(stage.parser, example))
        case BestOfN(scorer=PythonFunction(python=score)):
            return best_of_n(drawn, score, example, outputs)
        case BestOfN():
            return best_of_n(drawn, mean_logprob, example, outputs)
        case PythonAggregator(python=function):
            return _own(function, drawn, example)
        case asking:
            raise ValueError(f"{asking.kind} asks a model: the runtime does it")


def vote_key(value: JSON) -> str:
    """Values with the same key are the same vote: texts whatever their case and spacing, the rest as JSON."""
    return f'"{normal_space(value).casefold()}' if isinstance(value, str) else canonical_json(value)


def plurality(candidates: Iterable[Candidate]) -> JSON:
    """The value with the most votes, as first drawn; of values with equally many, the first drawn."""
    votes: dict[str, list[Candidate]] = {}
    for candidate in _parsed(candidates):
        votes.setdefault(vote_key(candidate.value), []).append(candidate)
    return max(votes.values(), key=len)[0].value if votes else None


def set_vote(
    candidates: Iterable[Candidate],
    threshold: float = 0.5,
    union: bool = False,
    order: Sequence[str] | None = None,
) -> list[JSON] | None:
    """The items that a share `threshold` or more of the parsed lists name; with `union`, any of them.

    Items stand in the order of `order`, then as first drawn. The list is empty when no item has enough votes.
    Values that are not lists have no vote; None when nothing has.
    """
    ballots = [c.value for c in _parsed(candidates) if isinstance(c.value, list)]
    if not ballots:
        return None
    first = dict[str, JSON]()
    votes = dict[str, int]()
    for ballot in ballots:
        for key, item in {_item_key(item): item for item in ballot}.items():
            first.setdefault(key, item)
            votes[key] = votes.get(key, 0) + 1
    least = 0.0 if union else threshold * len(ballots) - 1e-9  # so that 0.1 of 10 is 1
    position = {_item_key(item): i for i, item in reversed(list(enumerate(order or ())))}
    kept = [key for key in first if votes[key] >= least]
    return [first[key] for key in sorted(kept, key=lambda key: position.get(key, len(position)))]


def best_of_n(
    candidates: Iterable[Candidate], score: Score, example: Example, outputs: Mapping[str, JSON]
) -> JSON:
    """The value of the sample with the highest score; of equals, the first drawn.

    A score of None or NaN is no score. AggregationFailed when samples parsed and none has a score.
    """
    parsed = _parsed(candidates)
    scored = [(s, c) for c in parsed if (s := _scored(score, c, example, outputs)) is not None]
    if not scored:
        if parsed:
            raise AggregationFailed(
                f"best_of_n needs a score for at least one sample, got none from {reference(score)}"
            )
        return None
    return max(scored, key=lambda pair: pair[0])[1].value


def mean_logprob(candidate: Candidate, example: Example, outputs: Mapping[str, JSON]) -> float | None:
    """Score of a sample by the mean log-probability of its tokens."""
    return candidate.mean_logprob


def _item_key(item: JSON) -> str:
    return f'"{item}' if isinstance(item, str) else canonical_json(item)


def _parsed(candidates: Iterable[Candidate]) -> list[Candidate]:
    return sorted((c for c in candidates if c.value is not None), key=lambda c: c.index)


def _scored(
    score: Score, candidate: Candidate, example: Example, outputs: Mapping[str, JSON]
) -> float | None:
    try:
        value = score(candidate, example, outputs)
        number = None if value is None else float(value)
    except ConfigurationError:
        raise
    except Exception as error:
        raise CustomCodeFailed(f"scorer {reference(score)} raised {type(error).__name__}: {error}") from error
    return None if number is None or math.isnan(number) else number


def _own(function: UserFunction, candidates: Sequence[Candidate], example: Example) -> JSON:
    try:
        return plain(function(candidates, example))
    except Exception as error:
        raise CustomCodeFailed(
            f"aggregator {reference(function)} raised {type(error).__name__}: {error}"
        ) from error
