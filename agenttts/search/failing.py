"""Examples that scored low in a trial, as texts for the agent: what the stages read and what they made of it.

Only fields that prompts or functions read are shown, and never the label of a metric.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from agenttts.proposers.base import FailingExample
from agenttts.results.trials import TrialResult, trial_id
from datastore.store import Store
from pipelines.examples import Example
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.templates import used_fields
from pipelines.spec.variants import BuiltinMetric


def failing_examples(
    store: Store, run_id: str, spec: PipelineSpec, examples: Sequence[Example], trial: TrialResult, count: int
) -> list[FailingExample]:
    """Return the examples with the lowest scores of a trial, the lowest first, and none that is perfect.

    Args:
        store: The store of the run.
        run_id: The run.
        spec: The pipeline.
        examples: The examples of the search.
        trial: The trial.
        count: The largest number of examples.
    """
    scores = {example_id: score for example_id, score in trial.scores.items() if score is not None}
    lowest = sorted((score, example_id) for example_id, score in scores.items() if score < 1)[:count]
    by_id = {example.id: example for example in examples}
    fields = _shown_fields(spec)
    outputs: dict[str, dict[str, str]] = {}
    for result in store.stage_results(trial_id(run_id, trial.number)):
        text = result.reason or "no output" if result.output is None else result.output
        outputs.setdefault(result.example_id, {})[result.stage] = text
    return [
        FailingExample(
            trial=trial.number,
            score=score,
            inputs=_texts(by_id[example_id], fields),
            outputs={
                stage.name: outputs[example_id][stage.name]
                for stage in spec.stages
                if stage.name in outputs.get(example_id, {})
            },
        )
        for score, example_id in lowest
        if example_id in by_id
    ]


def _shown_fields(spec: PipelineSpec) -> list[str]:
    """The fields that stages read, without the labels of metrics."""
    metrics = [spec.metric, *spec.metrics.values(), *(s.metric for s in spec.stages if s.metric is not None)]
    labels = {metric.label for metric in metrics if isinstance(metric, BuiltinMetric)}
    return sorted(set().union(*(used_fields(stage) for stage in spec.stages)) - labels)


def _texts(example: Example, fields: Sequence[str]) -> Mapping[str, str]:
    values = {name: example[name] for name in fields if name in example}
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
    }
