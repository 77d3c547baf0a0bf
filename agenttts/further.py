"""The further metrics of a spec, from the stored outputs of a test trial, after everything is decided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agenttts.stats import mean_interval
from agenttts.streams import Stream, stream_rng
from agenttts.trial import TrialResult, trial_id
from datastore.store import Store
from pipelines import metrics
from pipelines.errors import CustomCodeFailed
from pipelines.examples import Example
from pipelines.spec import PipelineSpec


def further_metrics(
    spec: PipelineSpec, store: Store, run_id: str, trial: TrialResult, examples: Sequence[Example], seed: int
) -> dict[str, dict[str, Any]]:
    """Each metric's mean over the examples that it can score, its 95 % interval, and their number.

    An example whose metric raises, or that has no gold value, is missing.
    """
    by_id = {example.id: example for example in examples}
    outputs = {
        result.example_id: None if result.output is None else json.loads(result.output)
        for result in store.stage_results(trial_id(run_id, trial.number))
        if result.stage == spec.output_stage.name and result.status == "ok" and result.example_id in by_id
    }
    found: dict[str, dict[str, Any]] = {}
    for position, (name, metric) in enumerate(spec.metrics.items()):
        scores: list[float | None] = []
        for example_id, output in outputs.items():
            try:
                scores.append(metrics.score(metric, output, by_id[example_id]))
            except CustomCodeFailed:
                scores.append(None)
        interval = mean_interval(scores, stream_rng(seed, Stream.FURTHER_METRIC, position))
        if interval is not None:
            ci = [interval.low, interval.high]
            n = sum(score is not None for score in scores)
            found[name] = {"mean": interval.mean, "ci": ci, "n": n}
    return found
