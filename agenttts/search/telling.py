"""What prompts tell a model: too much, where one shows a gold value, or nothing of the example.

Neither fails in a search, and a score that a leak makes is certified like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agenttts.search.findings import Finding
from pipelines.examples import Example
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.templates import constant_prompts, place_of, shown_inputs, used_fields
from pipelines.spec.variants import BuiltinMetric


def telling_prompts(spec: PipelineSpec, examples: Sequence[Example]) -> Iterator[Finding]:
    """Warn of prompts that show gold values, of those that show nothing, and of outputs that hide a field.

    What scores samples (a verifier, a scorer, the feedback of a refinement) may read a gold value: it shows
    none to the model that answers.

    Args:
        spec: The pipeline, whose templates parse.
        examples: The examples of both splits, whose fields outputs may hide; empty where they can't be read.
    """
    gold = _metric_by_label(spec)
    fields = {field for example in examples for field in example.fields}
    for stage in spec.stages:
        yield from _leaks(spec, stage, gold)
        for place in constant_prompts(stage):
            message = (
                "names no field of the rows and no input, so that every example gets the same prompt; "
                "name one, such as {{ question }}"
            )
            yield Finding(severity="warning", place=place, message=message)
        for name in sorted(shown_inputs(stage) & fields - set(gold)):
            message = (
                f"is also a field of the rows; stage {stage.name!r} reads the output under that name, never "
                "the field; rename the stage where the field is meant"
            )
            yield Finding(severity="warning", place=f"stages[{name}].name", message=message)


def _leaks(spec: PipelineSpec, stage: StageSpec, gold: dict[str, str]) -> Iterator[Finding]:
    reader = "prompt" if stage.python is None else "function"
    for field in sorted(used_fields(stage) & set(gold)):
        remedy = "leave it out of what the stage reads"
        if field in {other.name for other in spec.stages} - {stage.name}:
            remedy += f", or name stage {field!r} among the inputs if its output is meant"
        message = (
            f"the {reader} of stage {stage.name!r} reads {field!r}, the gold value of {gold[field]}: "
            f"scores that a stage gets with the answer before it say nothing; {remedy}"
        )
        yield Finding(severity="warning", place=place_of(stage, field), message=message)
    allowed = stage.parser.allowed_field
    if allowed in gold:
        message = (
            f"the parser of stage {stage.name!r} takes no value but those of {allowed!r}, the gold value of "
            f"{gold[allowed]}; name a field that lists wrong values, too"
        )
        yield Finding(severity="warning", place=f"stages[{stage.name}].parser.allowed", message=message)


def _metric_by_label(spec: PipelineSpec) -> dict[str, str]:
    """The metrics' fields of gold values, each with the metric that reads it, in words."""
    named = [(f"the metric of stage {stage.name!r}", stage.metric) for stage in spec.stages]
    named += [(f"the metric {name!r}", metric) for name, metric in spec.metrics.items()]
    named.append(("the pipeline's metric", spec.metric))
    return {metric.label: words for words, metric in named if isinstance(metric, BuiltinMetric)}
