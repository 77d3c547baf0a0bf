"""A run's own samples at one stage as training rows: rejection sampling on what the search has paid for.

Which samples are right is decided in `agenttts.replay.judged`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from agenttts.errors import UserError
from agenttts.replay.judged import RIGHT, JudgedPrompt, judged_prompts
from agenttts.tasktune.data.rows import Dropped, Gathered, PreferencePair, TaskRow
from agenttts.tasktune.data.subtask import OUTPUT, SubTask
from datastore.records import Sample
from datastore.store import Store
from pipelines.examples import Example
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.templates import used_fields
from pipelines.spec.variants import BuiltinMetric, JsonParser, LinesParser, MetricSpec, PythonParser
from pipelines.stages.parsers import Parsed, parse

MOST_WEIGHT = 4
"""The most that a row can weigh, however rare a right sample is."""


def stage_task(spec: PipelineSpec, stage: StageSpec) -> SubTask:
    """A stage as a sub-task.

    It is scored by its own metric, or by the pipeline's where it is the last stage and has none. Else its
    answers are compared with one that led to a right end.

    Args:
        spec: The pipeline.
        stage: The stage.

    Raises:
        UserError: The stage sends completions, so that no row can be made of it.
    """
    if stage.completion:
        raise UserError(f"stage {stage.name} sends plain completions; tuning needs chat messages")
    metric: MetricSpec = stage.metric or (
        spec.metric if stage.name == spec.output_stage.name else _likeness(stage)
    )
    inputs = [*sorted(used_fields(stage)), *stage.input_names]
    return SubTask.of_stage(stage, metric, inputs or ["input"])


def example_inputs(spec: PipelineSpec, example: Example) -> dict[str, object]:
    """What the pipeline sees of an example, by field; gold values are left out.

    Args:
        spec: The pipeline.
        example: The example.
    """
    names = sorted(frozenset[str]().union(*(used_fields(stage) for stage in spec.stages)))
    return {name: example.fields[name] for name in names if name in example.fields}


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
    """Make rows of the right samples of a stage in a run, and pairs of right and wrong ones.

    The rows of an example weigh more the rarer a right sample is.

    Args:
        store: The store of the run.
        run_id: The run; None: the newest.
        spec: The pipeline that the run searched.
        stage: The stage.
        per_input: The most distinct right answers for each example; the most frequent come first, then those
            that their model was surest of.
        pairs_per_input: The most pairs for each prompt.
        right: The score from which a sample counts as right.
        only: The ids of the search examples to look at; None: all.

    Raises:
        UserError: The run has no samples of the stage, or no row can be made of it.
    """
    run = store.run(run_id)
    by_example: dict[str, list[JudgedPrompt]] = defaultdict(list)
    for prompt in await judged_prompts(store, run.run_id, spec, stage, right=right, only=only):
        by_example[prompt.example.id].append(prompt)
    stage_rows = _StageRows(spec, stage, stage_task(spec, stage), run.run_id)
    rows: list[TaskRow] = []
    pairs: list[PreferencePair] = []
    dropped: list[Dropped] = []
    for example_id in sorted(by_example):
        prompts = by_example[example_id]
        n_right = sum(len(samples) for prompt in prompts for samples in prompt.right.values())
        n_all = n_right + sum(len(samples) for prompt in prompts for samples in prompt.wrong.values())
        if not n_right:
            reason = f"none of {n_all} samples is right"
            dropped.append(Dropped(step="right", reason=reason, source=stage_rows.source(example_id)))
            continue
        weight = min(MOST_WEIGHT, max(1, round(math.sqrt(n_all / n_right))))
        left = per_input
        for prompt in prompts:
            best = sorted(
                prompt.right,
                key=lambda text, samples=prompt.right: (  # type: ignore[misc]
                    -len(samples[text]),
                    -_confidence(samples[text]),
                    text,
                ),
            )
            rows += [stage_rows.row(prompt, text, weight) for text in best[: max(0, left)]]
            left -= len(best)
            pairs += stage_rows.pairs(prompt, best, pairs_per_input)
    return Gathered(rows=rows, pairs=pairs, dropped=dropped)


@dataclass(frozen=True)
class _StageRows:
    """Makes rows and pairs of one stage of a run."""

    spec: PipelineSpec
    stage: StageSpec
    task: SubTask
    run_id: str

    def source(self, example_id: str) -> str:
        return f"run {self.run_id}, stage {self.stage.name}, example {example_id}"

    def row(self, prompt: JudgedPrompt, text: str, weight: int) -> TaskRow:
        example, (sample, model) = prompt.example, prompt.right[text][0]
        source = f"{self.source(example.id)}, {model}, prompt {sample.prompt_key}, sample {sample.index}"
        return TaskRow(
            task=self.task.name,
            messages=prompt.messages,
            completion=text,
            inputs=example_inputs(self.spec, example),
            fields=self._fields(example, text),
            group=example.id,
            source=source,
            weight=weight,
        )

    def pairs(self, prompt: JudgedPrompt, best: list[str], most: int) -> list[PreferencePair]:
        wrong = sorted(prompt.wrong, key=lambda text: (-len(prompt.wrong[text]), text))
        return [
            PreferencePair(
                task=self.task.name,
                messages=prompt.messages,
                chosen=chosen,
                rejected=rejected,
                group=prompt.example.id,
                source=f"{self.source(prompt.example.id)}, prompt {prompt.right[chosen][0][0].prompt_key}",
            )
            for chosen, rejected in list(zip(best, wrong, strict=False))[:most]
        ]

    def _fields(self, example: Example, text: str) -> dict[str, object]:
        """The example's own, and the answer's value where others are compared with it."""
        if self.task.label in example.fields or not isinstance(self.task.metric, BuiltinMetric):
            return dict(example.fields)
        parsed = parse(self.stage.parser, text, example)
        return {**example.fields, self.task.label: parsed.value if isinstance(parsed, Parsed) else None}


def _likeness(stage: StageSpec) -> BuiltinMetric:
    """A metric that compares an answer with one that is right."""
    match stage.parser:
        case LinesParser():
            return BuiltinMetric(kind="set_f1", label=OUTPUT)
        case JsonParser() | PythonParser():
            return BuiltinMetric(kind="accuracy", label=OUTPUT)
    return BuiltinMetric(kind="exact_match", label=OUTPUT)


def _confidence(samples: Iterable[tuple[Sample, str]]) -> float:
    """The largest mean log probability among the samples; minus infinity where none is known."""
    known = [sample.mean_logprob for sample, _ in samples if sample.mean_logprob is not None]
    return max(known, default=-math.inf)
