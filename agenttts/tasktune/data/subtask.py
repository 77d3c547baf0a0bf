"""Sub-tasks: what a model is to do. A person writes the YAML file, or reviews what an LLM proposed.

A SubTask says how its inputs become a prompt, how the answer is read (a pipeline's parser) and how it is
scored (a pipeline's metric). A stage of a pipeline is one too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2.sandbox import SandboxedEnvironment
from pydantic import Field, field_validator, model_validator

from agenttts.errors import UserError
from pipelines.configfile import load_config
from pipelines.parts import StageSpec
from pipelines.strict import Strict
from pipelines.variants import BuiltinMetric, LinesParser, MetricSpec, ParserSpec, TextParser
from pipelines.yamlfile import yaml_text

OUTPUT = "output"
"""The field that holds a row's gold value."""
CHOICES = "choices"
InputType = Literal["text", "list", "json"]

_TEMPLATES = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
_PROMPT = """\
{{ instruction }}
{% for name, value in inputs.items() %}
{{ name }}:{% if value is string %} {{ value }}{% elif value is sequence and value is not mapping %}
{%- for item in value %}
- {{ item if item is string else json(item) }}
{%- endfor %}{% else %} {{ json(value) }}{% endif %}
{%- endfor %}
{% if choices %}
[{{ choices | join(' / ') }}]
{% endif %}"""
_TEMPLATES.globals["json"] = partial(json.dumps, ensure_ascii=False)


class TaskExample(Strict):
    """One worked example of a sub-task."""

    inputs: dict[str, Any]
    output: Any


class SubTask(Strict):
    """One sub-task of a domain."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    instruction: str = Field(min_length=1, description="what the model is told to do")
    inputs: dict[str, InputType] = Field(min_length=1, description="input fields and their types")
    parser: ParserSpec = Field(default=TextParser(), description="how the answer's text becomes a value")
    metric: MetricSpec = Field(description="how the value is scored: a metric's kind, or a pipeline's metric")
    languages: tuple[str, ...] = Field(default=(), description="ISO 639-1 codes; empty: any")
    choices: tuple[str, ...] = Field(default=(), description="the answers that are allowed, if they are few")
    prompt: str | None = Field(
        default=None,
        description="jinja2 template over the inputs, `instruction` and `choices`; else a plain one",
    )
    max_tokens: int = Field(default=256, gt=0, description="most tokens of an answer")
    examples: tuple[TaskExample, ...] = ()

    @field_validator("metric", mode="before")
    @classmethod
    def _by_kind(cls, value: Any) -> Any:
        return {"kind": value, "label": OUTPUT} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _choice(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("choices") and "parser" not in data:
            return {**data, "parser": {"kind": "choice", "allowed": CHOICES}}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> SubTask:
        for example in self.examples:
            missing = set(self.inputs) - set(example.inputs)
            if missing:
                raise ValueError(f"an example must have every input, it lacks {', '.join(sorted(missing))}")
        try:
            _TEMPLATES.parse(self.prompt or "")
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"prompt must be a jinja2 template: {error.message}") from None
        return self

    @property
    def label(self) -> str:
        """The field of a row that holds the gold value."""
        return self.metric.label if isinstance(self.metric, BuiltinMetric) else OUTPUT

    @property
    def list_valued(self) -> bool:
        return self.parser.list_valued

    def messages(self, inputs: Mapping[str, Any]) -> list[dict[str, str]]:
        """The chat that asks for the answer. ValueError when the template fails on these inputs."""
        values = {name: inputs[name] for name in self.inputs}
        try:
            text = _TEMPLATES.from_string(self.prompt or _PROMPT).render(
                {"instruction": self.instruction, "inputs": values, "choices": self.choices} | values
            )
        except Exception as error:
            raise ValueError(f"the prompt of {self.name} can't be filled: {error}") from error
        return [{"role": "user", "content": text.strip()}]

    def written(self, output: Any) -> str:
        """The gold value as a model should write it: so that the parser reads it back."""
        if isinstance(output, str):
            return output
        if isinstance(self.parser, LinesParser):
            return "\n".join(map(str, output))
        return json.dumps(output, ensure_ascii=False)

    def fields(self, inputs: Mapping[str, Any], output: Any) -> dict[str, Any]:
        """What parser and metric look at."""
        found = {**inputs, self.label: output}
        return {**found, CHOICES: list(self.choices)} if self.choices else found

    @classmethod
    def of_stage(cls, stage: StageSpec, metric: MetricSpec, inputs: Sequence[str]) -> SubTask:
        """The stage as a sub-task; `metric` is its own, or the pipeline's."""
        return cls(
            name=stage.name,
            instruction=f"the stage {stage.name}",
            inputs=dict.fromkeys(inputs, "json"),
            parser=stage.parser,
            metric=metric,
            max_tokens=stage.sampling.max_tokens,
        )


class SubTasks(Strict):
    """The file: a domain and its sub-tasks."""

    domain: str = Field(min_length=1)
    subtasks: tuple[SubTask, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _named_once(self) -> SubTasks:
        names = [task.name for task in self.subtasks]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"names must differ, got {twice!r} twice")
        return self

    def task(self, name: str) -> SubTask:
        """The sub-task of that name. UserError when there is none."""
        for task in self.subtasks:
            if task.name == name:
                return task
        known = ", ".join(task.name for task in self.subtasks)
        raise UserError(f"no such sub-task, got {name!r}; the sub-tasks are {known}")


def load_subtasks(path: Path | str, *, functions_from: Path | None = None) -> SubTasks:
    """Read the file. SpecError, with file, line, field and value, for what is wrong.

    functions_from: where modules of the user's own lie; the file's directory where not given.
    """
    return load_config(path, SubTasks, functions_from=functions_from)


def subtasks_yaml(tasks: SubTasks) -> str:
    """The file's text, as a person would write it."""
    data = tasks.model_dump(mode="json", exclude_defaults=True)
    for task in data["subtasks"]:
        metric = task.get("metric")
        if isinstance(metric, dict) and metric.get("label") == OUTPUT:
            task["metric"] = metric["kind"]
        if task.get("parser") == {"kind": "choice", "allowed": CHOICES}:
            del task["parser"]
    return yaml_text(data)


def template_names() -> list[str]:
    """The domains that come ready: `legal-en`, `legal-zh`, …"""
    folder = files("agenttts.tasktune.data").joinpath("domains")
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def template_text(name: str) -> str:
    """The YAML of a ready domain. UserError when there is none of that name."""
    if name not in template_names():
        raise UserError(f"no such domain, got {name!r}; the domains are {', '.join(template_names())}")
    return files("agenttts.tasktune.data").joinpath("domains", f"{name}.yaml").read_text(encoding="utf-8")
