"""From a stage's template and an example to what a model is sent. Sending it is left to the clients.

Templates are jinja2, sandboxed, with undefined names refused. They see the example's fields and, under their
names, the outputs of the stage's inputs; an output hides a field of the same name. An output of None (no
sample parsed) is empty: it prints as nothing and loops zero times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import jinja2
import jinja2.meta
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.errors import SpecError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.parts import StageSpec
from pipelines.spec import PipelineSpec
from pipelines.truncation import truncated
from pipelines.variants import Fusion, JsonParser, Refine
from pipelines.wire import Content

FUSION_PROMPT = """\
Several replies to this request were written independently.
{% for sample in samples %}
Reply {{ loop.index }}:
{{ sample }}
{% endfor %}
Weigh them against each other and write the one best reply, in the form that the request asks for, \
and nothing else."""

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)


@dataclass(frozen=True)
class Revision:
    """What a round of refinement starts from: `draft` and `feedback` in the template."""

    draft: JSON
    feedback: str


@dataclass(frozen=True)
class _Part:
    """One template of a stage: its field in the spec, what to call it, its text."""

    field: str
    name: str
    text: str
    file: str | None = None
    is_fusion: bool = False


def render(
    stage: StageSpec, example: Example, outputs: Mapping[str, JSON], revision: Revision | None = None
) -> Content:
    """The prompt of a stage: `messages`, or `prompt` for a completion.

    revision: what a round of refinement starts from; None for the first, without feedback. `outputs` holds at
    least the stage's inputs. SpecError when a template fails, with its file and line.
    """
    variables = _variables(stage, example, outputs, revision)
    if stage.completion:
        return {"prompt": _rendered(_parts(stage)[0], variables, outputs), **_constraint(stage)}
    return {"messages": _messages(stage, variables, outputs), **_constraint(stage)}


def _messages(
    stage: StageSpec, variables: Mapping[str, object], outputs: Mapping[str, JSON]
) -> list[dict[str, str]]:
    texts = [_rendered(part, variables, outputs) for part in _parts(stage)]
    roles = [message["role"] for message in stage.messages] if stage.messages else ["user"]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def truncations(stage: StageSpec, example: Example, outputs: Mapping[str, JSON]) -> list[str]:
    """What the stage's prompt for this example lacks, a note for each value that was cut."""
    variables: dict[str, object] = {
        **example.fields,
        **{name: outputs.get(name) for name in stage.input_names},
    }
    if isinstance(stage.aggregator, Refine):
        variables["draft"] = outputs.get(stage.aggregator.start)
    return truncated(stage, variables)[1]


def render_fusion(
    stage: StageSpec, samples: Sequence[str], example: Example, outputs: Mapping[str, JSON]
) -> Content:
    """What the fuser of a stage is sent, as `render` gives it: its prompt, with the samples' texts in
    `samples`.

    Without a prompt of its own, the stage's prompt with the samples and a request to fuse them at its end.
    """
    variables = {**_variables(stage, example, outputs), "samples": list(samples)}
    part = _fusion_part(stage)
    if part is not None:
        text = _rendered(part, variables, outputs)
        if stage.completion:
            return {"prompt": text, **_constraint(stage)}
        return {"messages": [{"role": "user", "content": text}], **_constraint(stage)}
    default = _Part(f"stages[{stage.name}].aggregator", "<fusion prompt>", FUSION_PROMPT)
    messages = _messages(stage, _variables(stage, example, outputs), outputs)
    request = _rendered(default, variables, outputs)
    if messages[-1]["role"] == "user":
        messages[-1]["content"] += f"\n\n{request}"
    else:
        messages.append({"role": "user", "content": request})
    return {"messages": messages, **_constraint(stage)}


def verified_text(content: Content, answer: str) -> str:
    """What a verifier reads: the prompt's text, as `render` gives it, and a sample's."""
    asked = [content["prompt"]] if "prompt" in content else [m["content"] for m in content["messages"]]
    return "\n\n".join([*asked, answer.strip()])


def needed_fields(stage: StageSpec) -> frozenset[str]:
    """Names that the stage's templates take from every example.

    Names that a template tests (`if x`, `x is defined`, `x | default(...)`) are not needed. SpecError when a
    template does not parse.
    """
    tested = {name for part in _all_parts(stage) for name in _tested(_parsed(part))}
    return used_fields(stage) - tested


def used_fields(stage: StageSpec) -> frozenset[str]:
    """Names that the stage's templates can take from an example. SpecError when a template does not parse."""
    used = set[str]()
    for part in _all_parts(stage):
        own = {"samples"} if part.is_fusion else set[str]()
        used |= jinja2.meta.find_undeclared_variables(_parsed(part)) - own
    return frozenset(used - _own_names(stage) - set(stage.input_names) - set(_ENVIRONMENT.globals))


def _own_names(stage: StageSpec) -> frozenset[str]:
    """What a stage's template gets beside fields and inputs."""
    return frozenset({"draft", "feedback"} if isinstance(stage.aggregator, Refine) else ())


def check_templates(spec: PipelineSpec) -> None:
    """Raise a SpecError that lists every template of the spec that does not parse."""
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


def _parts(stage: StageSpec) -> tuple[_Part, ...]:
    field = f"stages[{stage.name}]"
    if stage.messages is None:
        file = stage.template_file
        name = file or f"<{field}.prompt>"
        return (_Part(f"{field}.prompt_file" if file else f"{field}.prompt", name, stage.prompt or "", file),)
    fields = [f"{field}.messages[{i}].content" for i in range(len(stage.messages))]
    contents = [message["content"] for message in stage.messages]
    return tuple(_Part(f, f"<{f}>", text) for f, text in zip(fields, contents, strict=True))


def _fusion_part(stage: StageSpec) -> _Part | None:
    aggregator = stage.aggregator
    if not isinstance(aggregator, Fusion) or aggregator.prompt is None:
        return None
    field = f"stages[{stage.name}].aggregator.prompt"
    return _Part(field, f"<{field}>", aggregator.prompt, is_fusion=True)


def _all_parts(stage: StageSpec) -> tuple[_Part, ...]:
    fusion = _fusion_part(stage)
    return _parts(stage) if fusion is None else (*_parts(stage), fusion)


def _variables(
    stage: StageSpec, example: Example, outputs: Mapping[str, JSON], revision: Revision | None = None
) -> dict[str, object]:
    variables: dict[str, object] = dict(example.fields)
    if isinstance(stage.aggregator, Refine):
        revision = revision or Revision(outputs.get(stage.aggregator.start), "")
        draft = jinja2.ChainableUndefined(name="draft") if revision.draft is None else revision.draft
        variables |= {"draft": draft, "feedback": revision.feedback}
    for name in stage.input_names:
        output = outputs[name]
        variables[name] = jinja2.ChainableUndefined(name=name) if output is None else output
    return truncated(stage, variables)[0]


def _constraint(stage: StageSpec) -> Content:
    """What has the server generate values of the parser's schema only; a part of the samples' identity."""
    parser = stage.parser
    if not isinstance(parser, JsonParser) or not parser.constrain:
        return {}
    schema = {"name": stage.name, "schema": parser.schema_, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _rendered(part: _Part, variables: Mapping[str, object], outputs: Mapping[str, JSON]) -> str:
    try:
        return _template(part.text, part.name).render(variables)
    except jinja2.TemplateSyntaxError as error:
        raise _failure(part, error.lineno, error) from None
    except Exception as error:
        raise _failure(part, _line(error, part.name), error, variables, outputs) from error


@lru_cache(maxsize=256)
def _template(text: str, name: str) -> jinja2.Template:
    code = _ENVIRONMENT.compile(text, name=name, filename=name)
    return jinja2.Template.from_code(_ENVIRONMENT, code, _ENVIRONMENT.make_globals(None))


def _parsed(part: _Part) -> nodes.Template:
    try:
        _template(part.text, part.name)  # names unknown filters and tests, which parsing alone does not
        return _ENVIRONMENT.parse(part.text)
    except jinja2.TemplateSyntaxError as error:
        raise _failure(part, error.lineno, error) from None


def _tested(tree: nodes.Template) -> Iterator[str]:
    guards: list[nodes.Node] = [branch.test for branch in tree.find_all(nodes.If)]
    guards += [choice.test for choice in tree.find_all(nodes.CondExpr)]
    guards += [test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined")]
    guards += [f.node for f in tree.find_all(nodes.Filter) if f.name in ("default", "d") and f.node]
    for guard in guards:
        names = [guard] if isinstance(guard, nodes.Name) else list(guard.find_all(nodes.Name))
        yield from (name.name for name in names)


def _line(error: Exception, template: str) -> int | None:
    line, frame = None, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == template:
            line = frame.tb_lineno
        frame = frame.tb_next
    return line


def _failure(
    part: _Part,
    line: int | None,
    error: Exception,
    variables: Mapping[str, object] | None = None,
    outputs: Mapping[str, JSON] | None = None,
) -> SpecError:
    kind = "template error" if isinstance(error, jinja2.TemplateError) else type(error).__name__
    where = "" if part.file or line is None else f" in line {line} of the template"
    remedy = None
    if variables is not None:
        remedy = f"it can use {', '.join(sorted(variables))}"
        empty = [name for name, output in (outputs or {}).items() if output is None and name in variables]
        remedy += f"; no sample of {', '.join(empty)} parsed here, test for that" if empty else ""
    return SpecError(f"{kind}{where}: {error}", file=part.file, line=line, field=part.field, remedy=remedy)
