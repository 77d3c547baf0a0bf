"""A run's own samples at one stage as training rows: rejection sampling on what the search has paid for.

A sample is right where the stage's metric says so, or, of a stage without one, where the pipeline scored well
with that very output. Trials on the test split are never looked at.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agenttts.errors import UserError
from agenttts.report import attach_spec_bank
from agenttts.tasktune.data.rows import Dropped, Gathered, PreferencePair, TaskRow
from agenttts.tasktune.data.subtask import OUTPUT, SubTask
from datastore.records import Sample, StageResult
from datastore.store import Store
from pipelines import metrics
from pipelines.aggregators import vote_key
from pipelines.dataset import load_examples
from pipelines.examples import Example
from pipelines.parsers import Parsed, parse
from pipelines.prompts import used_fields
from pipelines.runtime import MISSING
from pipelines.spec import PipelineSpec, StageSpec
from pipelines.variants import BuiltinMetric, JsonParser, LinesParser, PythonParser

RIGHT = 1.0
"""The score from which a sample counts as right."""
MOST_WEIGHT = 4


Texts = dict[str, list[tuple[Sample, str]]]
"""Samples by their text, each with the key of the model that drew it."""


@dataclass
class Asked:
    """One prompt's samples, whichever model drew them, by their text."""

    example: Example
    messages: tuple[Mapping[str, str], ...]
    drawn: dict[str, list[tuple[Sample, str]]] = field(default_factory=lambda: defaultdict(list))


def stage_task(spec: PipelineSpec, stage: StageSpec) -> SubTask:
    """The stage as a sub-task: its own metric, or the pipeline's where it is the last and has none.

    Else its answers are compared with one that led to a right end. UserError for a stage that no row can be
    made of: one that sends completions.
    """
    if stage.completion:
        raise UserError(f"stage {stage.name} sends plain completions; tuning needs chat messages")
    metric = stage.metric or (spec.metric if stage.name == spec.output_stage.name else _likeness(stage))
    inputs = [*sorted(used_fields(stage)), *stage.input_names]
    return SubTask.of_stage(stage, metric, inputs or ["input"])


def _likeness(stage: StageSpec) -> BuiltinMetric:
    match stage.parser:
        case LinesParser():
            return BuiltinMetric(kind="set_f1", label=OUTPUT)
        case JsonParser() | PythonParser():
            return BuiltinMetric(kind="accuracy", label=OUTPUT)
    return BuiltinMetric(kind="exact_match", label=OUTPUT)


def example_inputs(spec: PipelineSpec, example: Example) -> dict[str, Any]:
    """What the pipeline sees of an example, by field: what tells examples apart, gold values left out."""
    names = sorted(frozenset[str]().union(*(used_fields(stage) for stage in spec.stages)))
    return {name: example.fields[name] for name in names if name in example.fields}


async def judged_prompts(
    store: Store,
    run_id: str | None,
    spec: PipelineSpec,
    stage: StageSpec,
    *,
    right: float = RIGHT,
    only: Collection[str] | None = None,
) -> list[tuple[Asked, Texts, Texts]]:
    """Every prompt of a stage in a run (None: the newest), with its right samples and its wrong ones.

    only: ids of the search examples to look at. UserError when the run has no samples of the stage.
    """
    attach_spec_bank(spec, store)
    run = store.run(run_id)
    examples = {e.id: e for e in load_examples(spec, "search") if only is None or e.id in only}
    trials = [t for t in store.trials(run.run_id) if t.split != "test"]
    results: dict[str, StageResult] = {}
    outputs: dict[str, dict[str, bool]] = defaultdict(dict)
    for trial in trials:
        scores = store.scores(trial.trial_id)
        for found in store.stage_results(trial.trial_id):
            if found.stage != stage.name or found.example_id not in examples or found.status != "ok":
                continue
            if found.prompt_key is not None:
                results.setdefault(found.prompt_key, found)
            score = scores.get(found.example_id)
            if found.output is not None and score is not None and score.score is not None:
                key = vote_key(json.loads(found.output))
                known = outputs[found.example_id].get(key, False)
                outputs[found.example_id][key] = known or score.score >= right
    if not results:
        raise UserError(f"run {run.run_id} has no samples of stage {stage.name} on its search split")
    return [
        (one, *_judged(stage, one, outputs[one.example.id], right))
        for one in await _asked(store, results, examples)
    ]


async def trace_rows(
    store: Store,
    run_id: str | None,
    spec: PipelineSpec,
    stage: StageSpec,
    *,
    per_input: int = 4,
    pairs_per_input: int = 2,
    right: float = RIGHT,
    only: Collection[str] | None = None,
) -> Gathered:
    """Right samples of a stage in a run (None: the newest) as rows, and pairs of right and wrong ones.

    per_input: distinct right answers kept for each example, the best and most frequent first. only: ids of
    the examples to look at. An example's rows weigh more the rarer a right sample is.
    """
    run = store.run(run_id)
    by_example: dict[str, list[tuple[Asked, Texts, Texts]]] = defaultdict(list)
    for one, good, bad in await judged_prompts(store, run.run_id, spec, stage, right=right, only=only):
        by_example[one.example.id].append((one, good, bad))
    task = stage_task(spec, stage)
    rows: list[TaskRow] = []
    pairs: list[PreferencePair] = []
    dropped: list[Dropped] = []
    for example_id in sorted(by_example):
        judged = by_example[example_id]
        n_right = sum(len(drawn) for _, good, _ in judged for drawn in good.values())
        n_all = n_right + sum(len(drawn) for _, _, bad in judged for drawn in bad.values())
        source = f"run {run.run_id}, stage {stage.name}, example {example_id}"
        if not n_right:
            dropped.append(Dropped(step="right", reason=f"none of {n_all} samples is right", source=source))
            continue
        weight = min(MOST_WEIGHT, max(1, round(math.sqrt(n_all / n_right))))
        kept = 0
        for one, good, bad in judged:
            best = sorted(good, key=lambda text: (-len(good[text]), -_confidence(good[text]), text))
            for text in best[: max(0, per_input - kept)]:
                kept += 1
                sample, model = good[text][0]
                rows.append(
                    TaskRow(
                        task=task.name,
                        messages=one.messages,
                        completion=text,
                        inputs=example_inputs(spec, one.example),
                        fields=_fields(stage, task, one.example, text),
                        group=example_id,
                        source=f"{source}, {model}, prompt {sample.prompt_key}, sample {sample.index}",
                        weight=weight,
                    )
                )
            wrong = sorted(bad, key=lambda text: (-len(bad[text]), text))
            for chosen, rejected in list(zip(best, wrong, strict=False))[:pairs_per_input]:
                pairs.append(
                    PreferencePair(
                        task=task.name,
                        messages=one.messages,
                        chosen=chosen,
                        rejected=rejected,
                        group=example_id,
                        source=f"{source}, prompt {good[chosen][0][0].prompt_key}",
                    )
                )
    return Gathered(rows=rows, pairs=pairs, dropped=dropped)


def _fields(stage: StageSpec, task: SubTask, example: Example, text: str) -> dict[str, Any]:
    """The example's own, and the answer's value where that is what others are compared with."""
    if task.label in example.fields or not isinstance(task.metric, BuiltinMetric):
        return dict(example.fields)
    parsed = parse(stage.parser, text, example)
    return {**example.fields, task.label: parsed.value if isinstance(parsed, Parsed) else None}


async def _asked(
    store: Store, results: Mapping[str, StageResult], examples: Mapping[str, Example]
) -> list[Asked]:
    """Prompts by example and messages, the samples of all models together."""
    found: dict[tuple[str, str], Asked] = {}
    drawn = await store.get_samples(sorted(results))
    for key in sorted(results):
        result = results[key]
        prompt = await store.get_prompt(key)
        content = json.loads(prompt.content) if prompt is not None else {}
        if "messages" not in content:
            continue
        messages = content["messages"]
        place = (result.example_id, json.dumps(messages, ensure_ascii=False))
        one = found.setdefault(place, Asked(examples[result.example_id], tuple(messages)))
        for sample in drawn[key]:
            one.drawn[sample.text].append((sample, result.model_key))
    return list(found.values())


def _judged(stage: StageSpec, one: Asked, outputs: Mapping[str, bool], right: float) -> tuple[Texts, Texts]:
    """The right texts and the wrong ones, each with its draws; what can't be told is in neither."""
    good: Texts = {}
    bad: Texts = {}
    for text, drawn in one.drawn.items():
        verdict = _is_right(stage, text, one.example, outputs, right)
        if verdict is not None:
            (good if verdict else bad)[text] = drawn
    return good, bad


def _is_right(
    stage: StageSpec, text: str, example: Example, outputs: Mapping[str, bool], right: float
) -> bool | None:
    try:
        parsed = parse(stage.parser, text, example)
        if not isinstance(parsed, Parsed):
            return False
        if stage.metric is not None:
            score = metrics.score(stage.metric, parsed.value, example)
            return None if score is None else score >= right
        return outputs.get(vote_key(parsed.value))
    except MISSING:
        return None


def _confidence(drawn: Iterable[tuple[Sample, str]]) -> float:
    known = [sample.mean_logprob for sample, _ in drawn if sample.mean_logprob is not None]
    return max(known, default=-math.inf)
