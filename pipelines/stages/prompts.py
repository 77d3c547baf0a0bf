"""Build the content of a request from a stage's templates and an example.

Templates are jinja2, sandboxed, with undefined names refused. They see the example's fields and, under their
names, the outputs of the stage's inputs; an output hides a field of the same name. An output of None (no
sample parsed) is empty: it prints as nothing and loops zero times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
import jinja2.meta

from pipelines.content import Content
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.spec.bounded import limited
from pipelines.spec.stage import StageSpec
from pipelines.spec.templates import Part, compiled, failure, fusion_part, line_in, parts
from pipelines.spec.variants import JsonParser, Refine
from pipelines.stages.truncation import truncated

FUSION_PROMPT = """\
Several replies to this request were written independently.
{% for sample in samples %}
Reply {{ loop.index }}:
{{ sample }}
{% endfor %}
Weigh them against each other and write the one best reply, in the form that the request asks for, \
and nothing else."""


@dataclass(frozen=True)
class Revision:
    """The starting point of a round of refinement.

    Attributes:
        draft: The output to improve, `draft` in the template; None when no sample parsed.
        feedback: What to mend in it, `feedback` in the template; empty when there is none.
    """

    draft: JSON
    feedback: str


def render(
    stage: StageSpec, example: Example, outputs: Mapping[str, JSON], revision: Revision | None = None
) -> Content:
    """Render the prompt of a stage for an example.

    Args:
        stage: The stage.
        example: The example, whose fields the templates can use.
        outputs: Outputs of earlier stages by name, at least those of the stage's inputs.
        revision: The starting point of a round of refinement; None for the first round, and for stages that
            do not refine.

    Returns:
        Chat messages, or a plain prompt for a completion, with the schema if the parser constrains
        generation.

    Raises:
        SpecError: A template can't be rendered; with its file and line.
    """
    variables = _variables(stage, example, outputs, revision)
    if stage.completion:
        return {"prompt": _rendered(parts(stage)[0], variables, outputs), **_constraint(stage)}
    return {"messages": _messages(stage, variables, outputs), **_constraint(stage)}


def _messages(
    stage: StageSpec, variables: Mapping[str, object], outputs: Mapping[str, JSON]
) -> list[dict[str, str]]:
    texts = [_rendered(part, variables, outputs) for part in parts(stage)]
    roles = [message["role"] for message in stage.messages] if stage.messages else ["user"]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def truncations(stage: StageSpec, example: Example, outputs: Mapping[str, JSON]) -> list[str]:
    """Return a note for each value that the prompt of a stage shows shortened for this example."""
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
    """Render the prompt of a fusion.

    If the aggregator has no prompt, the samples and a request to fuse them are appended to the stage's
    prompt.

    Args:
        stage: The stage, whose aggregator is a fusion.
        samples: The texts of the samples, `samples` in the template.
        example: The example, whose fields the template can use.
        outputs: Outputs of earlier stages by name, at least those of the stage's inputs.

    Raises:
        SpecError: A template can't be rendered; with its file and line.
    """
    variables = {**_variables(stage, example, outputs), "samples": list(samples)}
    part = fusion_part(stage)
    if part is not None:
        text = _rendered(part, variables, outputs)
        if stage.completion:
            return {"prompt": text, **_constraint(stage)}
        return {"messages": [{"role": "user", "content": text}], **_constraint(stage)}
    default = Part(f"stages[{stage.name}].aggregator", "<fusion prompt>", FUSION_PROMPT)
    messages = _messages(stage, _variables(stage, example, outputs), outputs)
    request = _rendered(default, variables, outputs)
    if messages[-1]["role"] == "user":
        messages[-1]["content"] += f"\n\n{request}"
    else:
        messages.append({"role": "user", "content": request})
    return {"messages": messages, **_constraint(stage)}


def verified_text(content: Content, answer: str) -> str:
    """Return the text that a verifier classifies: the prompt, then the sample.

    Args:
        content: The prompt as `render` returns it.
        answer: The text of the sample.
    """
    prompt_texts = [content["prompt"]] if "prompt" in content else [m["content"] for m in content["messages"]]
    return "\n\n".join([*prompt_texts, answer.strip()])


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
    """The part of a request that constrains generation to the parser's schema."""
    parser = stage.parser
    if not isinstance(parser, JsonParser) or not parser.constrain:
        return {}
    schema = {"name": stage.name, "schema": parser.schema_, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _rendered(part: Part, variables: Mapping[str, object], outputs: Mapping[str, JSON]) -> str:
    try:
        with limited():
            return compiled(part.text, part.name).render(variables)
    except jinja2.TemplateSyntaxError as error:
        raise failure(part, error.lineno, error) from None
    except Exception as error:
        raise failure(part, line_in(error, part.name), error, variables, outputs) from error
