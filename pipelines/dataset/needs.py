"""What every row of a pipeline's data must have: what prompts, functions, parsers and metrics read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipelines.dataset.rows import Row
from pipelines.errors import DatasetError, SpecError
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.templates import needed_fields, place_of
from pipelines.spec.variants import BuiltinMetric


@dataclass(frozen=True)
class Need:
    """A field that every row must have, what needs it, where in the spec, and the values it may have."""

    field: str
    needer: str
    place: str
    nullable: bool = False
    texts: bool = False
    items: bool = False
    label: bool = False


def row_check(spec: PipelineSpec, *, labels: bool = False) -> Callable[[Row], None]:
    """Return a function that raises DatasetError for a row that lacks what a pipeline needs.

    Args:
        spec: The pipeline.
        labels: Whether a row must have the gold values of the metrics too.
    """
    needs = list(needs_of(spec, labels=labels))
    return lambda row: check_rows([row], needs, spec)


def input_fields(spec: PipelineSpec) -> tuple[str, ...]:
    """Return the fields that an input must have: those that prompts, functions and parsers read.

    Args:
        spec: The pipeline.
    """
    return tuple(dict.fromkeys(need.field for need in needs_of(spec, labels=False)))


def needs_of(spec: PipelineSpec, *, labels: bool) -> Iterator[Need]:
    """Generate what a pipeline needs of every row.

    Args:
        spec: The pipeline.
        labels: Whether it needs the gold values of the metrics, too.
    """
    for stage in spec.stages:
        place = f"stages[{stage.name}]"
        for field in sorted(needed_fields(stage)):
            needer = "prompt" if stage.python is None else "function"
            yield Need(field, f"the {needer} of stage {stage.name!r}", place_of(stage, field))
        if stage.parser.allowed_field is not None:
            needer = f"the parser of stage {stage.name!r}"
            yield Need(stage.parser.allowed_field, needer, f"{place}.parser.allowed", texts=True)
        if labels and isinstance(stage.metric, BuiltinMetric):
            yield _gold(stage.metric, f"the metric of stage {stage.name!r}", f"{place}.metric", nullable=True)
    for name, metric in spec.metrics.items() if labels else ():
        if isinstance(metric, BuiltinMetric):
            yield _gold(metric, f"the metric {name!r}", f"metrics.{name}", nullable=True)
    if labels and isinstance(spec.metric, BuiltinMetric):
        yield _gold(spec.metric, "the pipeline's metric", "metric", nullable=False)


def _gold(metric: BuiltinMetric, needer: str, place: str, *, nullable: bool) -> Need:
    return Need(metric.label, needer, f"{place}.label", nullable=nullable, items=metric.of_sets, label=True)


def refuse_unknown(rows: Sequence[Row], needs: Sequence[Need], spec: PipelineSpec) -> None:
    """Refuse a spec that names a field that no row has: the spec is at fault then, not the rows.

    Args:
        rows: The rows.
        needs: What every row must have.
        spec: The pipeline.

    Raises:
        SpecError: Every such field, with its place in the spec.
    """
    unknown = [need for need in needs if rows and all(need.field not in row.fields for row in rows)]
    problems = [
        spec.error_at(
            need.place,
            f"{need.needer} names {need.field!r}, which no row has",
            remedy=f"the rows have {', '.join(rows[0].fields)}{_or_stage(need, spec)}",
        )
        for need in unknown
    ]
    if problems:
        raise SpecError.all_of(problems)


def _or_stage(need: Need, spec: PipelineSpec) -> str:
    if need.label or need.field not in {stage.name for stage in spec.stages}:
        return ""
    return f"; for the output of stage {need.field!r}, name it among the inputs"


def check_rows(rows: Sequence[Row], needs: Sequence[Need], spec: PipelineSpec) -> None:
    """Raise DatasetError for the first row that lacks what is needed.

    Args:
        rows: The rows.
        needs: What every row must have.
        spec: The pipeline.
    """
    for row in rows:
        for need in needs:
            law = broken_law(row, need)
            if law is not None:
                remedy = f"; {need.needer} needs it{_or_stage(need, spec)}"
                raise DatasetError(f"{row.place}: field {need.field!r} {law}{remedy}")


def broken_law(row: Row, need: Need) -> str | None:
    """Return how a row fails a need, in words; None when it does not."""
    if need.field not in row.fields:
        return f"is missing (the row has {', '.join(row.fields) or 'no fields'})"
    value = row.fields[need.field]
    if value is None:
        return None if need.nullable else "must not be null"
    is_texts = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
    if need.texts and not is_texts:
        return f"must be a list of texts, got {value!r:.60}"
    if need.items and not isinstance(value, list):
        return f"must be a list, got {value!r:.60}"
    return None
