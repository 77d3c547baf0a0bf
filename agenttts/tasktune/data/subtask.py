"""Sub-tasks: what a model is to do. A person writes the YAML file, or reviews what an LLM proposed.

A SubTask says how its inputs become a prompt, how the answer is read (by a pipeline's parser) and how it is
scored (by a pipeline's metric). A stage of a pipeline is a sub-task too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Literal

import jinja2
from jinja2.sandbox import SandboxedEnvironment
from pydantic import Field, field_validator, model_validator

from agenttts.errors import UserError
from agenttts.llm import Message
from pipelines.costs import UNLIMITED_TOKENS
from pipelines.spec.configfile import load_config
from pipelines.spec.stage import StageSpec
from pipelines.spec.strict import Strict
from pipelines.spec.variants import BuiltinMetric, LinesParser, MetricSpec, ParserSpec, TextParser
from pipelines.spec.yaml_file import yaml_text

OUTPUT = "output"
"""The field that holds a row's gold value."""
CHOICES = "choices"
"""The field that holds the answers that are allowed."""
InputType = Literal["text", "list", "json", "chat"]
_ROLES = ("system", "user", "assistant")

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
    """One worked example of a sub-task.

    Attributes:
        inputs: A value for each input field.
        output: The right answer.
    """

    inputs: dict[str, object]
    output: object


class SubTask(Strict):
    """One sub-task of a domain.

    Attributes:
        name: Its name, of letters and digits of any script and underscores; a digit is not first.
        instruction: What the model is told to do.
        inputs: The input fields and their types. A `chat`, a list of messages, is the only input then, and is
            the prompt itself.
        parser: How the answer's text becomes a value.
        metric: How the value is scored. In a file the kind of a metric is enough.
        languages: ISO 639-1 codes of the languages of its rows; empty: any.
        choices: The answers that are allowed, where they are few.
        prompt: A jinja2 template over the inputs, `instruction` and `choices`; None: a plain one.
        max_tokens: The most tokens of an answer.
        examples: Worked examples.
    """

    name: str = Field(pattern=r"^[^\W\d]\w*$")
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
    def _by_kind(cls, value: object) -> object:
        return {"kind": value, "label": OUTPUT} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _choice(cls, data: object) -> object:
        if isinstance(data, Mapping) and data.get("choices") and "parser" not in data:
            return {**data, "parser": {"kind": "choice", "allowed": CHOICES}}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> SubTask:
        for example in self.examples:
            missing = set(self.inputs) - set(example.inputs)
            if missing:
                raise ValueError(f"an example must have every input, it lacks {', '.join(sorted(missing))}")
        if self.chat_input and (len(self.inputs) > 1 or self.prompt is not None):
            raise ValueError("an input of the type chat must be the only one, without a prompt")
        try:
            _TEMPLATES.parse(self.prompt or "")
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"prompt must be a jinja2 template: {error.message}") from None
        return self

    @property
    def chat_input(self) -> str | None:
        """The input that is a whole chat; None where inputs are filled into a prompt."""
        return next((name for name, kind in self.inputs.items() if kind == "chat"), None)

    @property
    def label(self) -> str:
        """The field of a row that holds the gold value."""
        return self.metric.label if isinstance(self.metric, BuiltinMetric) else OUTPUT

    @property
    def list_valued(self) -> bool:
        """Whether the parser makes a list of an answer."""
        return isinstance(self.parser, ParserSpec) and self.parser.list_valued

    def messages(self, inputs: Mapping[str, object]) -> list[Message]:
        """The chat that asks for the answer.

        Args:
            inputs: A value for each input field.

        Raises:
            ValueError: The template fails on these inputs, or a chat is none.
        """
        if self.chat_input:
            chat = as_chat(inputs[self.chat_input])
            if chat[-1]["role"] != "user":
                raise ValueError(f"a chat must end with the user, got {chat[-1]['role']!r}")
            return chat
        values = {name: inputs[name] for name in self.inputs}
        try:
            text = _TEMPLATES.from_string(self.prompt or _PROMPT).render(
                {"instruction": self.instruction, "inputs": values, "choices": self.choices} | values
            )
        except Exception as error:
            raise ValueError(f"the prompt of {self.name} can't be filled: {error}") from error
        return [{"role": "user", "content": text.strip()}]

    def written(self, output: object) -> str:
        """The gold value as a model should write it, so that the parser reads it back.

        Args:
            output: The gold value.

        Raises:
            TypeError: It can't be written: the parser reads lines and it is no list, or it is not JSON-able.
        """
        if isinstance(output, str):
            return output
        if isinstance(self.parser, LinesParser):
            if not isinstance(output, Sequence):
                raise TypeError(f"must be a list, got {output!r:.40}")
            return "\n".join(map(str, output))
        return json.dumps(output, ensure_ascii=False)

    def fields(self, inputs: Mapping[str, object], output: object) -> dict[str, object]:
        """What parser and metric look at.

        Args:
            inputs: A value for each input field.
            output: The gold value.
        """
        fields = {**inputs, self.label: output}
        return {**fields, CHOICES: list(self.choices)} if self.choices else fields

    @classmethod
    def of_stage(cls, stage: StageSpec, metric: MetricSpec, inputs: Sequence[str]) -> SubTask:
        """A stage of a pipeline as a sub-task.

        Args:
            stage: The stage.
            metric: How its answers are scored: by its own metric, or the pipeline's.
            inputs: The fields that its prompt uses.
        """
        return cls(
            name=stage.name,
            instruction=f"the stage {stage.name}",
            inputs=dict.fromkeys(inputs, "json"),
            parser=stage.parser,
            metric=metric,
            max_tokens=stage.sampling.max_tokens or UNLIMITED_TOKENS,
        )


class SubTasks(Strict):
    """The file: a domain and its sub-tasks.

    Attributes:
        domain: What the field is, in a sentence.
        subtasks: The sub-tasks, whose names differ.
    """

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
        """The sub-task of a name.

        Raises:
            UserError: There is none of that name.
        """
        for task in self.subtasks:
            if task.name == name:
                return task
        known = ", ".join(task.name for task in self.subtasks)
        raise UserError(f"no such sub-task, got {name!r}; the sub-tasks are {known}")


def as_chat(value: object) -> list[Message]:
    """Check a list of messages.

    Args:
        value: What should be one: mappings with `role` and `content`; a system prompt comes first.

    Raises:
        ValueError: It is none, or a message is blank.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"a chat must be a list of messages, got {value!r:.40}")
    chat: list[Message] = []
    for number, message in enumerate(value, 1):
        role, content = (
            (message.get(key) for key in ("role", "content"))
            if isinstance(message, Mapping)
            else (None, None)
        )
        if role not in _ROLES or (role == "system" and number > 1):
            where = " first" if role == "system" else ""
            raise ValueError(f"message {number}: role must be {', '.join(_ROLES)}{where}, got {role!r:.40}")
        if not isinstance(content, str) or not content.strip():
            raise ValueError(
                f"message {number}: content must be a text that is not blank, got {content!r:.40}"
            )
        chat.append({"role": role, "content": content})
    return chat


def load_subtasks(path: Path | str, *, functions_from: Path | None = None) -> SubTasks:
    """Read a file of sub-tasks.

    Args:
        path: The file.
        functions_from: The directory of the user's own modules; None: the file's directory.

    Raises:
        SpecError: Something is wrong, with file, line, field and value.
    """
    return load_config(path, SubTasks, functions_from=functions_from)


def subtasks_yaml(tasks: SubTasks) -> str:
    """The text of a file of sub-tasks, as a person would write it."""
    data = tasks.model_dump(mode="json", exclude_defaults=True)
    for task in data["subtasks"]:
        metric = task.get("metric")
        if isinstance(metric, dict) and metric.get("label") == OUTPUT:
            task["metric"] = metric["kind"]
        if task.get("parser") == {"kind": "choice", "allowed": CHOICES}:
            del task["parser"]
    return yaml_text(data)


def template_names() -> list[str]:
    """The names of the domains that come ready: `legal-en`, `legal-zh`, …"""
    folder = files("agenttts.tasktune.data").joinpath("domains")
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def template_text(name: str) -> str:
    """The YAML text of a domain that comes ready.

    Raises:
        UserError: There is none of that name.
    """
    if name not in template_names():
        raise UserError(f"no such domain, got {name!r}; the domains are {', '.join(template_names())}")
    return files("agenttts.tasktune.data").joinpath("domains", f"{name}.yaml").read_text(encoding="utf-8")
