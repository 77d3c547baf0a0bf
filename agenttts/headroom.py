"""What a stage's samples hold beyond their vote: how often one is right, the vote, and any of them.

The gap between the vote and any of them is what a better way to choose, such as a verifier, could bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agenttts.blocking import run_blocking
from agenttts.stats import Interval, mean_interval, pass_at_k, vote_curve
from datastore import Store
from pipelines import metrics
from pipelines.aggregators import vote_key
from pipelines.allocation import Allocation
from pipelines.errors import PipelineError
from pipelines.examples import Example
from pipelines.parsers import Parsed, parse
from pipelines.runtime import Runtime
from pipelines.spec import BestOfN, PipelineSpec, Plurality, SetVote, StageSpec

_RIGHT = 1 - 1e-9
_ORDERS = 100


@dataclass(frozen=True, kw_only=True)
class StageHeadroom:
    """Chances over the examples that have a gold value for the stage's metric, each with a 95 % interval.

    one: a sample is right, by the whole metric. vote: the plurality of n is; None where the stage votes
    otherwise. any: one of n at least is (pass@n, unbiased: over all samples that were drawn).
    """

    stage: str
    model: str
    n_samples: int
    one: Interval
    vote: Interval | None
    any: Interval


def headroom(
    spec: PipelineSpec, store: Store, examples: Sequence[Example], allocation: Allocation, seed: int = 0
) -> list[StageHeadroom]:
    """For each stage with a metric that draws its samples side by side; [] where the bank lacks some.

    Costs no call. Pure but for reading the store.
    """
    runtime = Runtime(spec, store, None, run_id=None, replay=True)
    try:
        return run_blocking(_found(runtime, store, examples, allocation, seed))
    except PipelineError:
        return []


async def _found(
    runtime: Runtime, store: Store, examples: Sequence[Example], allocation: Allocation, seed: int
) -> list[StageHeadroom]:
    outcomes = [await runtime.run_example(allocation, example, with_score=False) for example in examples]
    found = []
    for position, stage in enumerate(runtime.spec.stages):
        own = stage.aggregator_of(allocation[stage.name].model)
        if stage.metric is None or not isinstance(own, Plurality | SetVote | BestOfN):
            continue
        keys = {
            example.id: outcome.stages[position].prompt_key
            for example, outcome in zip(examples, outcomes, strict=True)
            if len(outcome.stages) > position and outcome.stages[position].prompt_key is not None
        }
        drawn = await store.get_samples([key for key in keys.values() if key is not None])
        texts = {i: [sample.text for sample in drawn.get(key or "", ())] for i, key in keys.items()}
        n = allocation[stage.name].n_samples
        told = _stage(stage, n, [(e, texts[e.id]) for e in examples if e.id in texts], seed)
        if told is not None:
            one, vote, any_right = told
            found.append(
                StageHeadroom(
                    stage=stage.name,
                    model=allocation[stage.name].model,
                    n_samples=n,
                    one=one,
                    vote=vote,
                    any=any_right,
                )
            )
    return found


def _stage(
    stage: StageSpec, n: int, drawn: Sequence[tuple[Example, Sequence[str]]], seed: int
) -> tuple[Interval, Interval | None, Interval] | None:
    assert stage.metric is not None
    ones, votes, anys = list[float](), list[float](), list[float]()
    rng = np.random.default_rng([seed, 7])
    for example, texts in drawn:
        parsed = [parse(stage.parser, text, example) for text in texts]
        values = [found.value if isinstance(found, Parsed) else None for found in parsed]
        scores = [metrics.score(stage.metric, value, example) for value in values]
        if len(texts) < n or any(score is None for score in scores):
            continue
        right = [
            value is not None and (score or 0.0) >= _RIGHT
            for value, score in zip(values, scores, strict=True)
        ]
        ones.append(sum(right) / len(right))
        anys.append(pass_at_k(len(right), sum(right), n))
        keys = [vote_key(value) for value in values if value is not None]
        good = {vote_key(value) for value, hit in zip(values, right, strict=True) if hit}
        curve = vote_curve(keys, good, rng, n_orders=_ORDERS) if keys else np.zeros(1)
        votes.append(float(curve[min(n, len(curve)) - 1]))
    one, voted, any_right = (mean_interval(some, rng) for some in (ones, votes, anys))
    if one is None or voted is None or any_right is None:
        return None
    return one, voted if isinstance(stage.aggregator, Plurality) else None, any_right
