"""The templates of a stage: the names that they use, whether they parse, and the line of an error.

Templates are jinja2, sandboxed and bounded (`pipelines.spec.bounded`), with undefined names refused.
`pipelines.stages.prompts` renders them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import jinja2
import jinja2.meta
from jinja2 import nodes

from pipelines.errors import SpecError
from pipelines.jsonvalues import JSON
from pipelines.spec.bounded import BoundedEnvironment
from pipelines.spec.functions import parameters
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.variants import Fusion, Refine

_ENVIRONMENT = BoundedEnvironment()


@dataclass(frozen=True)
class Part:
    """One template of a stage.

    Attributes:
        field: The field of the spec that holds it, for messages.
        name: The file name under which it is compiled: its file, or `<field>`.
        text: The source of the template.
        file: The file that it was read from; None when it is written in the spec itself.
        is_fusion: Whether it is the prompt of a fusion, which also sees `samples`.
    """

    field: str
    name: str
    text: str
    file: str | None = None
    is_fusion: bool = False


def needed_fields(stage: StageSpec) -> frozenset[str]:
    """Return the fields that a stage needs in every example: those its templates use, or its function.

    Names that a template tests (`if x`, `x is defined`, `x | default(...)`) and parameters of a function that
    have a default are not needed.

    Raises:
        SpecError: A template does not parse.
    """
    if stage.python is not None:
        return frozenset(_called_with(stage, parameters(stage.python).required))
    tested = {name for part in _all_parts(stage) for name in _tested(_parsed(part))}
    return used_fields(stage) - tested


def used_fields(stage: StageSpec) -> frozenset[str]:
    """Return the fields that the templates of a stage, or its function, can read from an example.

    Raises:
        SpecError: A template does not parse.
    """
    if stage.python is not None:
        takes = parameters(stage.python)
        return frozenset(_called_with(stage, (*takes.required, *takes.optional)))
    used = set[str]()
    for part in _all_parts(stage):
        used |= _names(part) - ({"samples"} if part.is_fusion else set())
    return frozenset(used - _own_names(stage) - set(stage.input_names))


def shown_inputs(stage: StageSpec) -> frozenset[str]:
    """Return the inputs of a stage that its templates use, or all where it runs a function."""
    if stage.python is not None:
        return frozenset(stage.input_names)
    used = {name for part in _all_parts(stage) for name in _names(part)}
    return frozenset(used & set(stage.input_names))


def constant_prompts(stage: StageSpec) -> tuple[str, ...]:
    """Return the fields of the spec that hold prompts which name nothing: the same text for every example.

    Raises:
        SpecError: A template does not parse.
    """
    if stage.python is not None:
        return ()
    prompts = [_prompt_parts(stage, name) for name in stage.prompt_names]
    return tuple(prompt[0].field for prompt in prompts if not any(_names(part) for part in prompt))


def _called_with(stage: StageSpec, names: Iterable[str]) -> set[str]:
    """Those of a function's parameters that no input, no file and not every option gives."""
    provided = set.intersection(*(set(arguments) for arguments in stage.arguments.values())) | set(
        stage.files
    )
    return set(names) - provided - set(stage.input_names)


def place_of(stage: StageSpec, name: str) -> str:
    """Return the field of the spec whose template uses a name that `used_fields` returns."""
    if stage.python is not None:
        return f"stages[{stage.name}].python"
    users = (part.field for part in _all_parts(stage) if name in _names(part))
    return next(users, f"stages[{stage.name}]")


def _own_names(stage: StageSpec) -> frozenset[str]:
    """The variables of a template that are neither fields nor inputs."""
    return frozenset({"draft", "feedback"} if isinstance(stage.aggregator, Refine) else ())


def check_templates(spec: PipelineSpec) -> None:
    """Check that every template parses, and that `truncate` names only fields that templates use.

    Raises:
        SpecError: One error for all problems.
    """
    problems = []
    for stage in spec.stages:
        try:
            needed_fields(stage)
        except SpecError as error:
            problems.append(error if error.file else spec.error_at(error.field or "", error.message))
            continue
        for index, rule in enumerate(stage.truncate):
            if rule.field not in used_fields(stage) | set(stage.input_names) | _own_names(stage):
                field = f"stages[{stage.name}].truncate[{index}].field"
                law = f"must be a field that the prompt uses, got {rule.field!r}"
                problems.append(spec.error_at(field, law))
    if problems:
        raise SpecError.all_of(problems)


def parts(stage: StageSpec) -> tuple[Part, ...]:
    """Return the templates of a stage's prompt: one, or one for each chat message."""
    field = f"stages[{stage.name}]"
    if stage.messages is None:
        file = stage.template_file
        name = file or f"<{field}.prompt>"
        return (Part(f"{field}.prompt_file" if file else f"{field}.prompt", name, stage.prompt or "", file),)
    fields = [f"{field}.messages[{i}].content" for i in range(len(stage.messages))]
    contents = [message["content"] for message in stage.messages]
    return tuple(Part(f, f"<{f}>", text) for f, text in zip(fields, contents, strict=True))


def fusion_part(stage: StageSpec) -> Part | None:
    """Return the template of a fusion's prompt; None when the stage has none."""
    aggregator = stage.aggregator
    if not isinstance(aggregator, Fusion) or aggregator.prompt is None:
        return None
    field = f"stages[{stage.name}].aggregator.prompt"
    return Part(field, f"<{field}>", aggregator.prompt, is_fusion=True)


def _all_parts(stage: StageSpec) -> tuple[Part, ...]:
    """The templates of all prompts of a stage, that of a fusion included; none of a function."""
    if stage.python is not None:
        return ()
    fusion = fusion_part(stage)
    prompts = [part for name in stage.prompt_names for part in _prompt_parts(stage, name)]
    return (*prompts, *([] if fusion is None else [fusion]))


def _prompt_parts(stage: StageSpec, name: str | None) -> list[Part]:
    """The templates of one prompt of a stage, by its name in the spec; None: the stage's own."""
    templates = parts(stage.prompted(name))
    field = f"stages[{stage.name}].prompts.{name}"
    return [part if name is None else replace(part, field=field) for part in templates]


def _names(part: Part) -> set[str]:
    """The names that a template takes from outside: fields, inputs, and what a fusion or a revision gives."""
    return jinja2.meta.find_undeclared_variables(_parsed(part)) - set(_ENVIRONMENT.globals)


@lru_cache(maxsize=256)
def compiled(text: str, name: str) -> jinja2.Template:
    """Compile a template for the sandbox; `name` stands in its tracebacks as the file."""
    return _ENVIRONMENT.bounded(text, name)


def _parsed(part: Part) -> nodes.Template:
    try:
        compiled(part.text, part.name)  # names unknown filters and tests, which parsing alone does not
        return _ENVIRONMENT.parse(part.text)
    except jinja2.TemplateSyntaxError as error:
        raise failure(part, error.lineno, error) from None


def _tested(tree: nodes.Template) -> Iterator[str]:
    guards: list[nodes.Node] = [branch.test for branch in tree.find_all(nodes.If)]
    guards += [choice.test for choice in tree.find_all(nodes.CondExpr)]
    guards += [test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined")]
    guards += [f.node for f in tree.find_all(nodes.Filter) if f.name in ("default", "d") and f.node]
    for guard in guards:
        names = [guard] if isinstance(guard, nodes.Name) else list(guard.find_all(nodes.Name))
        yield from (name.name for name in names)


def line_in(error: Exception, template: str) -> int | None:
    """Return the line of the named template that raised an error; None when it was raised elsewhere."""
    line, frame = None, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == template:
            line = frame.tb_lineno
        frame = frame.tb_next
    return line


def failure(
    part: Part,
    line: int | None,
    error: Exception,
    variables: Mapping[str, object] | None = None,
    outputs: Mapping[str, JSON] | None = None,
) -> SpecError:
    """Build the SpecError for a template that does not parse or can't be rendered.

    Args:
        part: The template.
        line: The 1-based line of the error in it; None when unknown.
        error: The exception that was raised.
        variables: The variables that the template could use, for the remedy; None when it did not parse.
        outputs: The outputs of earlier stages by name; None stands for no outputs.
    """
    kind = "template error" if isinstance(error, jinja2.TemplateError) else type(error).__name__
    where = "" if part.file or line is None else f" in line {line} of the template"
    remedy = None
    if variables is not None:
        remedy = f"it can use {', '.join(sorted(variables))}"
        empty = [name for name, output in (outputs or {}).items() if output is None and name in variables]
        remedy += f"; no sample of {', '.join(empty)} parsed here, test for that" if empty else ""
    return SpecError(f"{kind}{where}: {error}", file=part.file, line=line, field=part.field, remedy=remedy)
