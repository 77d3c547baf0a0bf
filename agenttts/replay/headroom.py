"""The headroom of a stage's samples: how often one sample, their vote, or any of them is right.

The gap between the vote and any of them is what a better way to choose, such as a verifier, could gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agenttts.blocking import run_blocking
from agenttts.stats import Interval, Stream, mean_interval, pass_at_k, stream_rng, vote_curve
from datastore import Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.errors import PipelineError
from pipelines.examples import Example
from pipelines.reading.comparing import vote_key
from pipelines.runtime.runtime import Runtime
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.variants import BestOfN, LengthWeighted, Plurality, SetVote, Weighted
from pipelines.stages import metrics
from pipelines.stages.parsers import Parsed, parse

_RIGHT = 1 - 1e-9
_ORDERS = 100
_INDEPENDENT = (Plurality, SetVote, Weighted, LengthWeighted, BestOfN)
"""Aggregators of samples that do not depend on each other."""


@dataclass(frozen=True, kw_only=True)
class StageHeadroom:
    """The share of examples that a stage gets right, with 95 % intervals.

    The shares are over the examples that have a gold value for the stage's metric.

    Attributes:
        stage: The name of the stage.
        model: The model that drew the samples.
        n_samples: The number n of samples in the other fields.
        pass_at_1: The share for one sample, by the whole metric.
        maj_at_n: The share for the plurality of n samples; None when the stage votes otherwise.
        pass_at_n: The share where at least one of n samples is right; unbiased, over all samples drawn.
    """

    stage: str
    model: str
    n_samples: int
    pass_at_1: Interval
    maj_at_n: Interval | None
    pass_at_n: Interval


def headroom(
    spec: PipelineSpec, store: Store, examples: Sequence[Example], allocation: Allocation, seed: int = 0
) -> list[StageHeadroom]:
    """Measure the headroom of an allocation's stages on recorded samples, without calling a model.

    Args:
        spec: The pipeline.
        store: The store, with the banks attached.
        examples: The examples to measure on.
        allocation: The allocation whose samples are measured.
        seed: The seed of the random orders and of the intervals.

    Returns:
        One entry for each stage that has a metric and draws its samples independently; empty when the bank
        lacks a sample.
    """
    runtime = Runtime(spec, store, None, run_id=None, replay=True)
    try:
        return run_blocking(_headroom(runtime, store, examples, allocation, seed))
    except PipelineError:
        return []


async def _headroom(
    runtime: Runtime, store: Store, examples: Sequence[Example], allocation: Allocation, seed: int
) -> list[StageHeadroom]:
    outcomes = [await runtime.run_example(allocation, example, with_score=False) for example in examples]
    by_stage = []
    for position, stage in enumerate(runtime.spec.stages):
        choice = allocation[stage.name]
        aggregator = stage.aggregator_for(choice.option)
        if stage.metric is None or not isinstance(aggregator, _INDEPENDENT):
            continue
        keys = {
            example.id: outcome.stages[position].prompt_key
            for example, outcome in zip(examples, outcomes, strict=True)
            if len(outcome.stages) > position and outcome.stages[position].prompt_key is not None
        }
        drawn = await store.get_samples([key for key in keys.values() if key is not None])
        texts = {i: [sample.text for sample in drawn.get(key or "", ())] for i, key in keys.items()}
        by_example = [(example, texts[example.id]) for example in examples if example.id in texts]
        of_stage = _of_stage(stage, choice, by_example, seed)
        if of_stage is not None:
            by_stage.append(of_stage)
    return by_stage


def _of_stage(
    stage: StageSpec, choice: StageChoice, drawn: Sequence[tuple[Example, Sequence[str]]], seed: int
) -> StageHeadroom | None:
    assert stage.metric is not None
    n = choice.n_samples
    passes_1, majorities, passes_n = list[float](), list[float](), list[float]()
    rng = stream_rng(seed, Stream.HEADROOM)
    for example, texts in drawn:
        parsed = [parse(stage.parser, text, example) for text in texts]
        values = [result.value if isinstance(result, Parsed) else None for result in parsed]
        scores = [metrics.score(stage.metric, value, example) for value in values]
        if len(texts) < n or any(score is None for score in scores):
            continue
        right = [
            value is not None and (score or 0.0) >= _RIGHT
            for value, score in zip(values, scores, strict=True)
        ]
        passes_1.append(sum(right) / len(right))
        passes_n.append(pass_at_k(len(right), sum(right), n))
        votes = [(key, hit) for value, hit in zip(values, right, strict=True) if (key := vote_key(value))]
        keys, good = [key for key, _ in votes], {key for key, hit in votes if hit}
        curve = vote_curve(keys, good, rng, n_orders=_ORDERS) if keys else np.zeros(1)
        majorities.append(float(curve[min(n, len(curve)) - 1]))
    pass_at_1, maj_at_n, pass_at_n = (mean_interval(c, rng) for c in (passes_1, majorities, passes_n))
    if pass_at_1 is None or maj_at_n is None or pass_at_n is None:
        return None
    return StageHeadroom(
        stage=stage.name,
        model=choice.model,
        n_samples=n,
        pass_at_1=pass_at_1,
        maj_at_n=maj_at_n if isinstance(stage.aggregator, Plurality) else None,
        pass_at_n=pass_at_n,
    )
