"""What a pipeline is, as data: stages, models, dataset, metric, budget. `files` reads it from YAML.

A `PipelineSpec` that exists is consistent (`laws`): its stages stand in an order in which each comes after
its inputs, their inputs are spelt out and prompt files are read. Whether templates and rows fit each other is
left to `prompts` and `dataset`, whether servers answer to the preflight.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, PrivateAttr, model_validator

from datastore.keys import model_key
from pipelines.errors import SpecError
from pipelines.spec.configfile import ConfigFile
from pipelines.spec.fields import (
    BudgetSpec,
    DatasetSpec,
    ModelSampling,
    ModelSpec,
    Price,
    ReferenceSpec,
    SamplingSpec,
    Speed,
    StageSpec,
    TruncateSpec,
)
from pipelines.spec.rules import broken_laws, in_order, listed
from pipelines.spec.strict import Strict
from pipelines.spec.variants import JsonParser, MetricSpec, Verifier

__all__ = [
    "BudgetSpec",
    "DatasetSpec",
    "ModelSampling",
    "ModelSpec",
    "PipelineSpec",
    "Price",
    "ReferenceSpec",
    "SamplingSpec",
    "Speed",
    "StageSpec",
    "Strict",
    "TruncateSpec",
]


class PipelineSpec(Strict):
    """A pipeline, the models it may use, the data it is tuned on and the metric that decides.

    Raises pydantic's ValidationError for a field on its own, SpecError for laws between fields.
    """

    name: str = Field(min_length=1)
    stages: tuple[StageSpec, ...] = Field(min_length=1)
    models: dict[str, ModelSpec] = Field(min_length=1)
    dataset: DatasetSpec
    metric: MetricSpec
    metrics: dict[str, MetricSpec] = Field(
        default_factory=dict,
        description="further metrics by name, reported for winner and best default; they steer nothing",
    )
    budget: BudgetSpec
    bank: str | None = Field(
        default=None, description="a recorded sample bank (Parquet) beside the spec, attached read-only"
    )
    root: Path = Field(default=Path(), exclude=True, description="directory that relative paths start from")
    _source: ConfigFile | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _complete(self) -> PipelineSpec:
        stages = _with_inputs(self.stages)
        problems = broken_laws(stages, self.models, self.dataset, self.root)
        if problems:
            raise SpecError.all_of(problems)
        ordered = tuple(_with_files(stage, self.root) for stage in in_order(stages))
        object.__setattr__(self, "stages", ordered)
        return self

    @property
    def order(self) -> tuple[StageSpec, ...]:
        """The stages, each after its inputs."""
        return self.stages

    @property
    def output_stage(self) -> StageSpec:
        """The stage whose output is the pipeline's."""
        return self.stages[-1]

    def stage(self, name: str) -> StageSpec:
        """The stage of that name. SpecError when there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise SpecError(f"unknown stage {name!r}; the stages are {listed(s.name for s in self.stages)}")

    def model(self, name: str) -> ModelSpec:
        """The model of that key. SpecError when there is none."""
        if name not in self.models:
            raise SpecError(f"unknown model {name!r}; the models are {listed(self.models)}")
        return self.models[name]

    @property
    def verifiers(self) -> frozenset[str]:
        """The models that classify samples, as an aggregator or as a choice of the search."""
        fixed = {s.aggregator.model for s in self.stages if isinstance(s.aggregator, Verifier)}
        return frozenset(fixed.union(*(stage.verifiers for stage in self.stages)))

    def served_name(self, model: str) -> str:
        """What requests call the model."""
        return self.model(model).served_name or model

    def model_key(self, name: str) -> str:
        """What identifies the model of that key in the store: its served name, and its revision if any."""
        return model_key(self.served_name(name), self.model(name).revision)

    @property
    def bank_path(self) -> Path | None:
        """The file of the recorded samples that the spec names, there or not; None when it names none."""
        return None if self.bank is None else self.root / self.bank

    def error_at(self, field: str, message: str, *, remedy: str | None = None) -> SpecError:
        """A SpecError about a field such as `stages[answer].prompt`, with file and line where known."""
        file = None if self._source is None else self._source.file
        line = None if self._source is None else self._source.line_of(field)
        return SpecError(message, file=file, line=line, field=field, remedy=remedy)


def _with_inputs(stages: Sequence[StageSpec]) -> list[StageSpec]:
    completed = []
    for index, stage in enumerate(stages):
        before = (stages[index - 1].name,) if index else ()
        completed.append(stage if stage.inputs is not None else stage.model_copy(update={"inputs": before}))
    return completed


def _with_files(stage: StageSpec, root: Path) -> StageSpec:
    """The stage with its prompt and its schema read."""
    parser = stage.parser
    if isinstance(parser, JsonParser) and parser.schema_file is not None:
        schema = json.loads((root / parser.schema_file).read_text(encoding="utf-8"))
        read = parser.model_copy(update={"schema_": schema, "schema_file": None})
        stage = stage.model_copy(update={"parser": read})
    if stage.prompt_file is None:
        return stage
    file = root / stage.prompt_file
    complete = stage.model_copy(update={"prompt": file.read_text(encoding="utf-8"), "prompt_file": None})
    complete._template_file = str(file)
    return complete
