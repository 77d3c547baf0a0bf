"""A pipeline as data: stages, models, dataset, metric and budget. `files` reads it from YAML.

Every `PipelineSpec` obeys `rules`: each stage comes after its inputs, the inputs of every stage are filled
in, and prompt files are read. `pipelines.stages.prompts` and `pipelines.dataset` check whether templates and
rows fit each other; `agenttts check` asks whether the servers answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, PrivateAttr, model_validator

from datastore.keys import model_key
from pipelines.errors import SpecError, listed
from pipelines.spec.configfile import ConfigFile
from pipelines.spec.fields import BudgetSpec, DatasetSpec
from pipelines.spec.functions import reference
from pipelines.spec.models import ModelSpec
from pipelines.spec.rules import broken_laws, in_order, used_models
from pipelines.spec.stage import StageSpec
from pipelines.spec.strict import About, Strict
from pipelines.spec.variants import JsonParser, MetricSpec, Verifier


class PipelineSpec(Strict):
    """A pipeline, the models that it may use, the data that it is tuned on and the metric to maximise.

    Raises pydantic's ValidationError when a field is invalid by itself, SpecError when fields contradict each
    other.
    """

    name: str = Field(
        min_length=1, description="what runs and reports call the pipeline", examples=["support"]
    )
    about: About = ""
    stages: tuple[StageSpec, ...] = Field(
        min_length=1,
        description="the steps, each after its inputs; the last one's output is the pipeline's",
        examples=[
            [
                {
                    "name": "answer",
                    "prompt": "{{ question }}",
                    "models": ["small"],
                    "max_samples": 8,
                    "prompt_tokens": 64,
                    "generated_tokens": 16,
                }
            ]
        ],
    )
    models: dict[str, ModelSpec] = Field(
        min_length=1,
        description="the models that stages may use, by the name that stages call them",
        examples=[{"small": {"base_url": "http://127.0.0.1:8001/v1", "active_params": 4e9}}],
    )
    dataset: DatasetSpec = Field(
        description="the examples that the search scores allocations on, and those that it never sees",
        examples=[{"search": "search.jsonl", "test": "test.jsonl"}],
    )
    metric: MetricSpec = Field(
        description="the score to maximise", examples=[{"kind": "exact_match", "label": "answer"}]
    )
    metrics: dict[str, MetricSpec] = Field(
        default_factory=dict,
        description="further metrics by name, reported for winner and best default; they steer nothing",
        examples=[{"words": {"kind": "token_f1", "label": "answer"}}],
    )
    budget: BudgetSpec = Field(description="what one query may cost", examples=[{"units": 400}])
    bank: str | None = Field(
        default=None,
        description="a recorded sample bank (Parquet) beside the spec, attached read-only",
        examples=["bank.parquet"],
    )
    root: Path = Field(default=Path(), exclude=True, description="directory that relative paths start from")
    _source: ConfigFile | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _complete(self) -> PipelineSpec:
        clash = next((key for key in _variant_keys(self.models) if key in self.models), None)
        if clash is not None:
            law = f"must differ from the variants of {clash.rpartition('/')[0]!r}, got {clash!r}"
            raise SpecError(law, field=f"models.{clash}", remedy="rename the model or the variant")
        models = _with_variants(self.models)
        stages = [_with_variant_names(stage, self.models) for stage in _with_inputs(self.stages)]
        problems = broken_laws(stages, models, self.dataset, self.budget, self.root)
        if problems:
            raise SpecError.all_of(problems)
        ordered = tuple(_with_files(stage, self.root) for stage in in_order(stages))
        object.__setattr__(self, "stages", ordered)
        object.__setattr__(self, "models", models)
        return self

    @property
    def order(self) -> tuple[StageSpec, ...]:
        """The stages in an order in which each comes after its inputs."""
        return self.stages

    @property
    def output_stage(self) -> StageSpec:
        """The last stage, whose output is the output of the pipeline."""
        return self.stages[-1]

    @property
    def n_answering(self) -> int:
        """How many stages have models that answer; the others run a function."""
        return sum(stage.python is None for stage in self.stages)

    def stage(self, name: str) -> StageSpec:
        """Return the stage of a name.

        Raises:
            SpecError: No stage has this name.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise SpecError(f"unknown stage {name!r}; the stages are {listed(s.name for s in self.stages)}")

    def model(self, name: str) -> ModelSpec:
        """Return the model of a key in `models`.

        Raises:
            SpecError: No model has this key.
        """
        if name not in self.models:
            raise SpecError(f"unknown model {name!r}; the models are {listed(self.models)}")
        return self.models[name]

    @property
    def verifiers(self) -> frozenset[str]:
        """Keys of the models that serve as verifiers, in an aggregator or as an option of a stage."""
        fixed = {s.aggregator.model for s in self.stages if isinstance(s.aggregator, Verifier)}
        return frozenset(fixed.union(*(stage.verifiers for stage in self.stages)))

    @property
    def used_models(self) -> tuple[str, ...]:
        """Keys of the models that a stage may call, those that aggregate included, in `models`' order."""
        return used_models(self.stages, self.models)

    def served_name(self, model: str) -> str:
        """Return the name that requests to the server use for a model."""
        return self.model(model).served_name or model

    def model_key(self, name: str) -> str:
        """Return the key of a model in the store, made of its served name and its revision, if it has one."""
        return model_key(self.served_name(name), self.model(name).revision)

    def source_key(self, stage: str, model: str) -> str:
        """Return the key of what draws a stage's samples: a model's, or a function's name and its option.

        Args:
            stage: The name of the stage.
            model: The `model` of the stage's choice.
        """
        function = self.stage(stage).python
        return self.model_key(model) if function is None else f"python:{reference(function)}#{model}"

    @property
    def bank_path(self) -> Path | None:
        """The Parquet file of recorded samples, which need not exist; None when the spec names none."""
        return None if self.bank is None else self.root / self.bank

    def error_at(self, field: str, message: str, *, remedy: str | None = None) -> SpecError:
        """Build a SpecError about a field of this spec.

        Args:
            field: The field, such as `stages[answer].prompt`.
            message: The rule that is broken and the value that breaks it.
            remedy: What to do about it; None when the message says enough.

        Returns:
            The error, with file and line when the spec was read from a file.
        """
        file = None if self._source is None else self._source.file
        line = None if self._source is None else self._source.line_of(field)
        return SpecError(message, file=file, line=line, field=field, remedy=remedy)

    def place_of(self, field: str) -> str:
        """Return a field as messages name it: after file and line, if the spec was read from a file."""
        line = None if self._source is None else self._source.line_of(field)
        return field if self._source is None or line is None else f"{self._source.file}:{line}: {field}"


def _with_inputs(stages: Sequence[StageSpec]) -> list[StageSpec]:
    completed = []
    for index, stage in enumerate(stages):
        before = (stages[index - 1].name,) if index else ()
        completed.append(stage if stage.inputs is not None else stage.model_copy(update={"inputs": before}))
    return completed


def _variant_keys(models: Mapping[str, ModelSpec]) -> list[str]:
    return [f"{key}/{name}" for key, model in models.items() for name in model.variants]


def _with_variants(models: Mapping[str, ModelSpec]) -> dict[str, ModelSpec]:
    """The models with each variant as a model of its own in place of the model that has it."""
    expanded = dict[str, ModelSpec]()
    for key, model in models.items():
        family = models.get(model.parent or "")
        if family is not None and family.variants:
            model = model.model_copy(update={"parent": f"{model.parent}/{next(iter(family.variants))}"})
        expanded |= {f"{key}/{name}": model.variant(name, key) for name in model.variants} or {key: model}
    return expanded


def _with_variant_names(stage: StageSpec, models: Mapping[str, ModelSpec]) -> StageSpec:
    """The stage with a model's variants wherever it names a model that has some."""

    def named(key: str) -> list[str]:
        return [f"{key}/{name}" for name in models[key].variants] if key in models else []

    def meant(key: str) -> list[str]:
        """The options that a key of `lengths` stands for: of q, q/think; of q:steps, q/think:steps."""
        model, colon, prompt = key.partition(":")
        return [f"{name}{colon}{prompt}" for name in named(model) if name in candidates]

    candidates = tuple(name for key in stage.models for name in named(key) or [key])
    of_all = {name: own for key, own in stage.lengths.items() for name in meant(key)}
    single = {key: own for key, own in stage.lengths.items() if not meant(key)}
    if candidates == stage.models and not of_all:
        return stage
    return stage.model_copy(update={"models": candidates, "lengths": {**of_all, **single}})


def _with_files(stage: StageSpec, root: Path) -> StageSpec:
    """The stage with its prompts and its schema read, and the directory that its function's files lie in."""
    parser = stage.parser
    if stage.files:
        stage = stage.model_copy()
        stage._root = root
    if isinstance(parser, JsonParser) and parser.schema_file is not None:
        schema = json.loads((root / parser.schema_file).read_text(encoding="utf-8"))
        read = parser.model_copy(update={"schema_": schema, "schema_file": None})
        stage = stage.model_copy(update={"parser": read})
    if any(variant.file is not None for variant in stage.prompts.values()):
        prompts = {name: variant.read(root) for name, variant in stage.prompts.items()}
        stage = stage.model_copy(update={"prompts": prompts})
    if stage.prompt_file is None:
        return stage
    file = root / stage.prompt_file
    complete = stage.model_copy(update={"prompt": file.read_text(encoding="utf-8"), "prompt_file": None})
    complete._template_file = str(file)
    return complete
