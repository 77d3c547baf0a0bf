"""What a model is sent, and how templates fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines import (
    BudgetSpec,
    BuiltinMetric,
    DatasetSpec,
    Example,
    Fusion,
    ModelSpec,
    PipelineSpec,
    SpecError,
    StageSpec,
)
from pipelines.spec.templates import check_templates, needed_fields
from pipelines.stages.prompts import render, render_fusion

EXAMPLE = Example("1", {"question": "Who?", "candidates": ["A runs B.", "C runs D."], "hint": None})


def stage(**changes: Any) -> StageSpec:
    given: dict[str, Any] = {"name": "answer", "models": ("m",), "max_samples": 4}
    given |= {"prompt_tokens": 10, "generated_tokens": 5}
    return StageSpec(**{**given, **changes})


def in_pipeline(*stages: StageSpec, root: Path = Path()) -> PipelineSpec:
    return PipelineSpec(
        name="p",
        stages=stages,
        models={"m": ModelSpec(base_url="http://localhost:1/v1", active_params=1e6)},
        dataset=DatasetSpec(search="s.jsonl", test="t.jsonl"),
        metric=BuiltinMetric(kind="exact_match", label="answer"),
        budget=BudgetSpec(units=10),
        root=root,
    )


def test_prompt_is_one_user_message_or_a_completion() -> None:
    """A prompt becomes a chat of one user message, or plain text for a completion."""
    prompt = "Q: {{ question }}\n{%- for c in candidates %}\n {{ c }}\n{%- endfor %}\nA:"
    text = "Q: Who?\n A runs B.\n C runs D.\nA:"
    assert render(stage(prompt=prompt), EXAMPLE, {}) == {"messages": [{"role": "user", "content": text}]}
    assert render(stage(prompt=prompt, completion=True), EXAMPLE, {}) == {"prompt": text}


def test_messages_keep_roles_and_upstream_outputs_have_names() -> None:
    """Each message's content is a template, and sees outputs of the stage's inputs under their names."""
    messages = ({"role": "system", "content": "Short."}, {"role": "user", "content": "{{ retrieve[0] }}"})
    rendered = render(stage(messages=messages, inputs=("retrieve",)), EXAMPLE, {"retrieve": ["A runs B."]})
    assert rendered["messages"][0] == {"role": "system", "content": "Short."}
    assert rendered["messages"][1] == {"role": "user", "content": "A runs B."}


def test_fields_are_data_not_templates() -> None:
    """Template syntax inside an example's field is sent as it stands."""
    hostile = Example("1", {"question": "{{ 7 * 7 }}{% for %}"})
    assert render(stage(prompt="{{ question }}", completion=True), hostile, {}) == {
        "prompt": "{{ 7 * 7 }}{% for %}"
    }


def test_output_of_none_is_empty() -> None:
    """Where no upstream sample parsed, the output prints as nothing, loops zero times and is not defined."""
    prompt = "[{{ r }}{% for x in r %}{{ x }}{% endfor %}{{ r | join }}{{ r.a }}]{% if r %}no{% endif %}"
    assert render(stage(prompt=prompt, completion=True, inputs=("r",)), EXAMPLE, {"r": None}) == {
        "prompt": "[]"
    }


def test_undefined_variable_is_named_with_what_there_is() -> None:
    """An unknown name is an error that names the stage, the line, the variable and those there are."""
    with pytest.raises(SpecError) as caught:
        render(stage(prompt="a\n{{ qestion }}", inputs=("r",)), EXAMPLE, {"r": "x"})
    assert str(caught.value) == (
        "stages[answer].prompt: template error in line 2 of the template: 'qestion' is undefined; "
        "it can use candidates, hint, question, r"
    )


def test_failing_prompt_file_is_named_with_its_line(tmp_path: Path) -> None:
    """A prompt file that fails while rendering is reported under its own name and line."""
    (tmp_path / "p.j2").write_text("{{ question }}\n\n{{ question / 2 }}\n")
    spec = in_pipeline(stage(prompt_file="p.j2"), root=tmp_path)
    with pytest.raises(SpecError) as caught:
        render(spec.stages[0], EXAMPLE, {})
    assert str(caught.value).startswith(f"{tmp_path}/p.j2:3: stages[answer].prompt_file: TypeError: ")


@pytest.mark.parametrize("prompt", ["{{ ''.__class__.__mro__ }}", "{{ candidates.append('x') }}"])
def test_templates_are_sandboxed(prompt: str) -> None:
    """Templates reach neither Python's internals nor change an example."""
    with pytest.raises(SpecError):
        render(stage(prompt=prompt), EXAMPLE, {})
    assert len(EXAMPLE["candidates"]) == 2


def test_unparsable_templates_are_all_listed() -> None:
    """Checking a spec names every template that does not parse, unknown filters among them."""
    spec = in_pipeline(stage(name="a", prompt="{{ x | nofilter }}"), stage(name="b", prompt="x\n{% if %}"))
    with pytest.raises(SpecError) as caught:
        check_templates(spec)
    first, second = str(caught.value).splitlines()
    assert first.startswith("stages[a].prompt: template error in line 1 of the template: No filter named")
    assert second.startswith("stages[b].prompt: template error in line 2 of the template: ")


def test_needed_fields_leave_out_inputs_and_guarded_names() -> None:
    """A row needs what a template uses unguarded, other than outputs of inputs and jinja's own names."""
    prompt = (
        "{{ question }}{{ r }}{% for i in range(2) %}{{ i }}{% endfor %}"
        "{% if hint %}{{ hint }}{% endif %}{{ a | default('') }}{{ b if b is defined }}"
    )
    assert needed_fields(stage(prompt=prompt, inputs=("r",))) == {"question"}


def test_fusion_prompts() -> None:
    """The fuser gets its own template with the samples, else the stage's prompt followed by the samples."""
    own = Fusion(model="m", prompt="{{ question }} {{ samples | join('|') }} {{ tone }}")
    fused = stage(prompt="{{ question }}", aggregator=own)
    example = Example("1", {"question": "Who?", "tone": "kind"})
    assert render_fusion(fused, ["x", "y"], example, {})["messages"][0]["content"] == "Who? x|y kind"
    assert needed_fields(fused) == {"question", "tone"}
    default = stage(prompt="{{ question }}", aggregator=Fusion(model="m"))
    (message,) = render_fusion(default, ["x1", "y2"], EXAMPLE, {})["messages"]
    assert message["role"] == "user" and message["content"].startswith("Who?\n\n")
    assert message["content"].index("x1") < message["content"].index("y2")
