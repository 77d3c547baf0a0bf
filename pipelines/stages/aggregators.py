"""Aggregate n samples of a stage into one output. The order in which samples arrive makes no difference.

A sample that did not parse has no vote. If no sample parsed, the output is None, which is not an error and
scores as an empty answer. Fusion and verifiers call a model: `prompts` builds their prompts,
`pipelines.runtime` sends them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from pipelines.errors import AggregationFailed, ConfigurationError, CustomCodeFailed
from pipelines.examples import Example
from pipelines.jsonvalues import JSON, plain
from pipelines.spec.functions import UserFunction, reference
from pipelines.spec.stage import StageSpec
from pipelines.spec.strict import PythonFunction
from pipelines.spec.variants import BestOfN, LengthWeighted, Plurality, PythonAggregator, SetVote, Weighted
from pipelines.stages.ballots import Ballots
from pipelines.stages.candidates import Candidate
from pipelines.stages.counts import Count

Score = Callable[[Candidate, Example, Mapping[str, JSON]], float | None]


def aggregate(
    stage: StageSpec, candidates: Iterable[Candidate], example: Example, outputs: Mapping[str, JSON]
) -> JSON:
    """Aggregate the samples of a stage into its output.

    Args:
        stage: The stage, whose aggregator is applied.
        candidates: The samples, in any order.
        example: The example that the prompt was made from.
        outputs: The outputs of the stage's inputs by name, for a user-defined scorer.

    Returns:
        The output; None when no sample parsed.

    Raises:
        AggregationFailed: Samples parsed, but best-of-n got no score for any of them.
        CustomCodeFailed: A user-defined function raised an exception, or returned a value that is not
            JSON-able.
        ValueError: The aggregator calls a model (fusion, verifier, refinement).
    """
    drawn = sorted(candidates, key=lambda c: c.index)
    match stage.aggregator:
        case Plurality() | SetVote() | Weighted() | LengthWeighted():
            return _counted(stage, drawn, example)
        case BestOfN(scorer=PythonFunction(python=score)):
            return best_of_n(drawn, score, example, outputs)
        case BestOfN():
            return best_of_n(drawn, mean_logprob, example, outputs)
        case PythonAggregator(python=function):
            return _own(function, drawn, example)
        case other:
            raise ValueError(f"aggregate() can't apply {other.kind}, which calls a model")


def _counted(stage: StageSpec, candidates: Sequence[Candidate], example: Example) -> JSON:
    count = Count.of(stage.aggregator)
    assert count is not None
    ballots = Ballots.of(stage, count, example)
    ballots.add_all(candidates)
    return ballots.output(count)


def plurality(candidates: Iterable[Candidate]) -> JSON:
    """Return the value with the most votes, written as in its first sample.

    Ties go to the value that was drawn first. None when no sample parsed.
    """
    ballots = Ballots(of_lists=False)
    ballots.add_all(sorted(candidates, key=lambda c: c.index))
    return ballots.output(Count())


def best_of_n(
    candidates: Iterable[Candidate], score: Score, example: Example, outputs: Mapping[str, JSON]
) -> JSON:
    """Return the value of the sample with the highest score; of equals, the first drawn.

    Args:
        candidates: The samples; only those that parsed are scored.
        score: A function (candidate, example, outputs) -> number; None or NaN means no score.
        example: The example that the prompt was made from.
        outputs: The outputs of the stage's inputs by name.

    Returns:
        The value; None when no sample parsed.

    Raises:
        AggregationFailed: Samples parsed, but none of them has a score.
        CustomCodeFailed: The function raised an exception.
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
    """Score a sample by the mean log-probability of its tokens; None when the server returned none."""
    return candidate.mean_logprob


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
