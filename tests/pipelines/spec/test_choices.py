"""What a stage chooses from, as specs state it: variants, prompts, lengths, functions; and their laws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from pipelines import Costed, PipelineSpec, SamplingSpec, SpecError, load_spec, spec_digest, spec_schema
from pipelines.allocation import StageOption
from pipelines.dataset import load_examples
from pipelines.spec.files import dump_spec, restore_spec
from pipelines.spec.functions import code_digest, require_ready, resolve
from pipelines.stages.prompts import render, truncations
from tests.agenttts.choosing import FUNCTION, forget, write_choosing
from tests.agenttts.small_specs import small_spec

MODEL = {"base_url": "http://127.0.0.1:9/v1", "active_params": 1e6}
ANSWER = {
    "name": "answer",
    "prompt": "{{ question }}",
    "models": ["q"],
    "max_samples": 2,
    "sampling": {"max_tokens": 16},
    "prompt_tokens": 16,
    "generated_tokens": 8,
}


def spec_of(*stages: dict[str, Any], models: dict[str, Any] | None = None, **fields: Any) -> PipelineSpec:
    return PipelineSpec.model_validate(
        {
            "name": "choices",
            "stages": list(stages) or [ANSWER],
            "models": models or {"q": MODEL},
            "dataset": {"search": "search.jsonl", "test": "test.jsonl"},
            "metric": {"kind": "exact_match", "label": "answer"},
            "budget": {"units": 60},
            **fields,
        }
    )


def edited(spec: Path, old: str, new: str) -> Path:
    text = spec.read_text()
    assert old in text
    spec.write_text(text.replace(old, new, 1))
    return spec


def refusal(spec: Path) -> str:
    with pytest.raises(SpecError) as refused:
        load_spec(spec)
    return str(refused.value)


def line_with(spec: Path, text: str) -> int:
    return next(i for i, line in enumerate(spec.read_text().splitlines(), 1) if text in line)


VARIED = {
    **MODEL,
    "served_name": "org/q",
    "request": {"top_k": 20, "reasoning_effort": "low"},
    "sampling": {"temperature": 0.6, "max_tokens": 32},
    "variants": {
        "think": {"request": {"reasoning_effort": "high"}, "sampling": {"max_tokens": None}},
        "plain": {},
    },
}


def test_a_model_with_variants_is_one_model_for_each() -> None:
    """A variant has the model's fields, its own request and sampling going before them field by field."""
    spec = spec_of(models={"q": VARIED})
    assert list(spec.models) == ["q/think", "q/plain"] and spec.stages[0].models == ("q/think", "q/plain")
    think, plain = spec.models.values()
    assert think.request == {"top_k": 20, "reasoning_effort": "high"} and not think.variants
    stage = SamplingSpec(temperature=1.0, top_p=0.9, max_tokens=256)
    assert think.sampled(stage) == SamplingSpec(temperature=0.6, top_p=0.9, max_tokens=None)
    assert plain.request == VARIED["request"] and plain.sampled(stage).max_tokens == 32
    assert spec.served_name("q/think") == spec.served_name("q/plain") == "org/q"
    assert spec.model_key("q/think") == spec.model_key("q/plain")
    unnamed = spec_of(models={"q": {**MODEL, "variants": {"a": {}, "b": {}}}})
    assert unnamed.served_name("q/a") == unnamed.served_name("q/b") == "q"


def test_a_stage_may_name_one_variant_alone() -> None:
    """`q/think` is that variant; `q` is all of them, beside other models."""
    models = {"q": VARIED, "large": {**MODEL, "active_params": 4e6}}
    spec = spec_of({**ANSWER, "models": ["q/think", "large"]}, models=models)
    assert spec.stages[0].models == ("q/think", "large")
    both = spec_of({**ANSWER, "models": ["large", "q"]}, models=models)
    assert both.stages[0].models == ("large", "q/think", "q/plain")


def test_an_adapter_may_have_a_parent_with_variants() -> None:
    """Its parent is the model that all variants are."""
    models = {"q": VARIED, "tuned": {**MODEL, "served_name": "tuned", "parent": "q"}}
    spec = spec_of({**ANSWER, "models": ["q", "tuned"]}, models=models)
    assert spec.models["tuned"].parent == "q/think"


@pytest.mark.parametrize(
    ("models", "field", "law"),
    [
        ({"q": VARIED, "q/think": MODEL}, "models.q/think", "must differ from the variants of 'q'"),
        (
            {"q": {**MODEL, "served_name": "s"}, "r": {**MODEL, "served_name": "s", "active_params": 2e6}},
            "models.r",
            "must cost what 'q' costs",
        ),
    ],
)
def test_models_that_could_be_taken_for_each_other_are_refused(
    models: dict[str, Any], field: str, law: str
) -> None:
    """A model named as a variant, and entries of one served model that differ in size or price."""
    with pytest.raises(SpecError, match=law) as refused:
        spec_of(models=models)
    assert refused.value.problems[0].field == field
    priced = {"price": {"prompt_usd_per_million": 1, "generated_usd_per_million": 2}}
    with pytest.raises(SpecError, match="must cost what 'a' costs"):
        spec_of(
            {**ANSWER, "models": ["a", "b"]},
            models={"a": {**MODEL, "served_name": "s"}, "b": {**MODEL, **priced, "served_name": "s"}},
        )


def test_a_fault_of_a_variant_is_reported_with_its_line(tmp_path: Path) -> None:
    """File, line, field and rule, whether the variant or the model itself is at fault."""
    spec = write_choosing(tmp_path)
    edited(spec, "max_tokens: 16}", "max_tokens: 0}")
    assert f"{spec}:{line_with(spec, 'fast:')}: models.q.variants.fast.sampling.max_tokens" in refusal(spec)
    edited(spec, "max_tokens: 0}", "max_tokens: 16}, speeed: 3")
    assert f"{spec}:{line_with(spec, 'fast:')}: models.q.variants.fast.speeed" in refusal(spec)
    edited(spec, ", speeed: 3", "")
    edited(spec, "http://127.0.0.1:9/v1", "nowhere")
    assert f"{spec}:{line_with(spec, 'base_url')}: models.q/think.base_url: must start with" in refusal(spec)


def test_an_unknown_key_of_a_variant_is_reported_with_the_keys_that_there_are(tmp_path: Path) -> None:
    """Names that a person chose stand between a key and the schema that knows it."""
    spec = edited(write_choosing(tmp_path), "{max_tokens: 16}}", "{max_tokens: 16}, active_params: 1e9}")
    assert (
        "models.q.variants.fast.active_params: unknown key; the keys here are sampling, request"
        in refusal(spec)
    )


def test_a_spec_with_all_of_it_can_be_written_and_read_again(tmp_path: Path) -> None:
    """What the store records gives the same spec, with prompts as they were, wherever their files went."""
    path = write_choosing(tmp_path)
    spec = load_spec(path)
    (tmp_path / "steps.j2").unlink()
    again = restore_spec(dump_spec(spec))
    assert spec_digest(again) == spec_digest(spec) and dump_spec(again) == dump_spec(spec)
    assert again.stages[0].options == spec.stages[0].options and again.stages[0].python is not None
    assert again.stages[1].prompts["steps"].text == spec.stages[1].prompts["steps"].text


def test_the_digest_of_specs_without_any_of_it_is_what_it_was() -> None:
    """Runs of before can be resumed: fields that a spec does not use are not in its digest."""
    digest = "76544ec98f6389ed23f5188360f1051945570d371430de4eb9bd0e383a31905e"
    assert spec_digest(small_spec()) == digest


def test_words_about_a_pipeline_change_neither_digest_nor_samples(tmp_path: Path) -> None:
    """`about` of pipeline, stage, model and variant is written and read, and nothing rests on it."""
    path = write_choosing(tmp_path)
    before = spec_digest(load_spec(path))
    text = path.read_text().replace("name: choosing", "name: choosing\nabout: Colours.")
    text = text.replace("    served_name: small", "    served_name: small\n    about: A small one.")
    text = text.replace("think: {request", "think: {about: It thinks., request")
    path.write_text(text.replace("  - name: answer", "  - name: answer\n    about: Name it."))
    spec = load_spec(path)
    assert spec_digest(spec) == before
    again = restore_spec(dump_spec(spec))
    assert (again.about, again.stage("answer").about) == ("Colours.", "Name it.")
    assert again.models["q/think"].about == "A small one. It thinks."
    assert "about" in spec_schema()["properties"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("reasoning_effort: high", "reasoning_effort: low"),
        ("overlap, top_k: 1", "overlap, top_k: 3"),
        ("      alphabet: {method: alphabet}\n", ""),
        ("flops: 1e9", "flops: 2e9"),
        ("generated_tokens: 40", "generated_tokens: 41"),
    ],
)
def test_the_digest_knows_what_a_stage_chooses_from(old: str, new: str, tmp_path: Path) -> None:
    """A change of a variant, an option, a cost or a length is another pipeline."""
    spec = write_choosing(tmp_path)
    before = spec_digest(load_spec(spec))
    assert spec_digest(load_spec(edited(spec, old, new))) != before


def test_the_digest_knows_the_texts_of_prompts_and_the_file_of_a_function(tmp_path: Path) -> None:
    """A change of a prompt's file or anywhere in a function's module is another pipeline."""
    path = write_choosing(tmp_path)
    digests = [spec_digest(load_spec(path))]
    (tmp_path / "steps.j2").write_text("Other {{ find }} {{ question }}")
    digests.append(spec_digest(load_spec(path)))
    module = next(tmp_path.glob("retriever_*.py"))
    module.write_text(FUNCTION + "\nHELPER = 1\n")
    assert spec_digest(load_spec(path)) == digests[1]  # what runs is still what was imported
    forget(path)
    digests.append(spec_digest(load_spec(path)))
    assert len(set(digests)) == 3


def test_the_digest_of_a_function_is_that_of_what_was_imported(tmp_path: Path) -> None:
    """A file that changes after its import does not lend its digest to the code that still runs."""
    (tmp_path / "digested.py").write_text("def f():\n    return 1\n")
    function = resolve("digested:f", tmp_path)
    before = code_digest(function)
    (tmp_path / "digested.py").write_text("def f():\n    return 2\n")
    assert code_digest(function) == before and function() == 1


def test_each_spec_has_its_own_module_of_a_name(tmp_path: Path) -> None:
    """Two directories with modules of the same names load side by side; neither sees the other's."""
    functions = []
    for name in ("first", "second"):
        (tmp_path / name / "aiding").mkdir(parents=True)
        (tmp_path / name / "aiding/__init__.py").write_text("")
        (tmp_path / name / "aiding/words.py").write_text(f"WORD = {name!r}\n")
        own = f"def require_ready():\n    return [{name!r}]\n"
        (tmp_path / name / "namesake.py").write_text(
            f"from aiding.words import WORD\n\ndef f():\n    return WORD\n\n{own}"
        )
        functions.append(resolve("namesake:f", tmp_path / name))
    assert [function() for function in functions] == ["first", "second"]
    assert [require_ready(function) for function in functions] == [("first",), ("second",)]
    with pytest.raises(SpecError, match=r"'json' is loaded from .*rename the module"):
        (tmp_path / "json.py").write_text("def f():\n    return 1\n")
        resolve("json:f", tmp_path)


def test_the_schema_knows_the_keys(tmp_path: Path) -> None:
    """`agenttts schema` accepts a file with all of it, and refuses an unknown key in each."""
    schema = spec_schema()
    data = YAML(typ="safe").load(write_choosing(tmp_path).read_text())
    jsonschema.validate(data, schema)
    for part in (data["stages"][0]["cost"], data["models"]["q"]["variants"]["think"]):
        part["unknown"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, schema)
        del part["unknown"]


def test_prompts_are_files_or_texts_beside_the_stages_own() -> None:
    """Each model with each prompt is an option; the own prompt has no name, and may be left out."""
    beside = spec_of({**ANSWER, "prompts": {"short": {"text": "Short: {{ question }}"}}}).stages[0]
    assert [str(option) for option in beside.options] == ["q", "q:short"]
    assert beside.option("q:short") == StageOption("q", None, "short")
    named = {name: value for name, value in ANSWER.items() if name != "prompt"}
    texts = {"a": {"text": "A {{ question }}"}, "b": {"text": "B {{ question }}"}}
    alone = spec_of({**named, "prompts": texts}).stages[0]
    assert [str(option) for option in alone.options] == ["q:a", "q:b"]
    assert alone.prompted("b").prompt == "B {{ question }}" and alone.prompted("b").prompt_names == (None,)
    judged = spec_of(
        {**ANSWER, "prompts": {"short": {"text": "S {{ question }}"}}, "verifiers": ["judge"]},
        models={"q": MODEL, "judge": MODEL},
    ).stages[0]
    assert [str(o) for o in judged.options] == ["q", "q:short", "q@judge", "q:short@judge"]
    assert judged.option("q:short@judge") == StageOption("q", "judge", "short")


def test_prompts_replace_messages_and_prompt_files(tmp_path: Path) -> None:
    """A named prompt is sent as one user message, whatever the stage's own is."""
    (tmp_path / "own.j2").write_text("Own {{ question }}")
    (tmp_path / "other.j2").write_text("Other {{ question }}")
    no_prompt = {name: value for name, value in ANSWER.items() if name != "prompt"}
    write_rows(tmp_path)
    for own in (
        {"prompt_file": "own.j2"},
        {"messages": [{"role": "user", "content": "Own {{ question }}"}]},
    ):
        spec = spec_of({**no_prompt, **own, "prompts": {"other": "other.j2"}}, root=tmp_path)
        example = load_examples(spec, "search")[0]
        first, other = (render(spec.stages[0].prompted(name), example, {}) for name in (None, "other"))
        assert first == {"messages": [{"role": "user", "content": "Own why?"}]}
        assert other == {"messages": [{"role": "user", "content": "Other why?"}]}


def write_rows(root: Path, **fields: Any) -> None:
    for split, question in (("search", "why?"), ("test", "how?")):
        row = {"question": question, "answer": "so", **fields}
        (root / f"{split}.jsonl").write_text(json.dumps(row) + "\n")


@pytest.mark.parametrize(
    ("text", "law"),
    [("{{ find }", "template error"), ("{{ find | nothing }}", "template error")],
)
def test_every_prompt_is_parsed(text: str, law: str, tmp_path: Path) -> None:
    """A prompt that does not parse is reported with its own file and line."""
    spec = write_choosing(tmp_path)
    (tmp_path / "steps.j2").write_text("first line\n" + text)
    assert f"{tmp_path / 'steps.j2'}:2: stages[answer].prompts.steps: {law}" in refusal(spec)


def test_a_prompt_needs_one_of_file_and_text(tmp_path: Path) -> None:
    """A file that is missing and an entry with both are refused where they stand."""
    spec = write_choosing(tmp_path)
    edited(spec, "steps.j2", "none.j2")
    place = f"{spec}:{line_with(spec, 'none.j2')}: stages[answer].prompts.steps"
    assert f"{place}: {tmp_path / 'none.j2'} can't be read: No such file" in refusal(spec)
    edited(spec, "none.j2", "{file: steps.j2, text: T}")
    assert f"{place}: must have exactly one of file and text" in refusal(spec)


def test_fields_that_any_prompt_names_must_be_there(tmp_path: Path) -> None:
    """The rows must have what each prompt uses; the error names the prompt."""
    write_rows(tmp_path)
    spec = spec_of({**ANSWER, "prompts": {"b": {"text": "{{ question }} {{ hint }}"}}}, root=tmp_path)
    with pytest.raises(SpecError, match="names 'hint', which no row has") as refused:
        load_examples(spec, "search")
    assert "stages[answer].prompts.b" in str(refused.value)


def test_what_is_cut_is_cut_in_every_prompt(tmp_path: Path) -> None:
    """`truncate` may name a field that one prompt alone uses, and is noted for that prompt."""
    write_rows(tmp_path, context="x" * 50)
    cut = [{"field": "context", "chars": 10}]
    prompts = {"long": {"text": "{{ context }} {{ question }}"}}
    spec = spec_of({**ANSWER, "truncate": cut, "prompts": prompts}, root=tmp_path)
    example = load_examples(spec, "search")[0]
    content = render(spec.stages[0].prompted("long"), example, {})
    assert len(content["messages"][0]["content"]) < 40
    assert truncations(spec.stages[0].prompted("long"), example, {})


def test_options_that_read_alike_are_refused() -> None:
    """A model whose name is that of another with a prompt could not be told apart from it."""
    with pytest.raises(SpecError, match="options must be told apart, got 'q', 'q:s', 'q:s', 'q:s:s'"):
        spec_of(
            {**ANSWER, "models": ["q", "q:s"], "prompts": {"s": {"text": "{{ question }}"}}},
            models={"q": MODEL, "q:s": MODEL},
        )


def test_lengths_are_those_of_the_option_that_is_named_most_closely() -> None:
    """`q/think:steps` goes before `q/think`, that before the stage; `q` stands for all its variants."""
    lengths = {
        "q": {"prompt_tokens": 20},
        "q/think": {"generated_tokens": 12},
        "q:steps": {"generated_tokens": 4.5},
    }
    spec = spec_of(
        {**ANSWER, "prompts": {"steps": {"text": "{{ question }}"}}, "lengths": lengths},
        models={"q": {**MODEL, "variants": {"think": {}, "fast": {}}}},
    )
    stage = spec.stages[0]
    assert {str(o): stage.lengths_of(o) for o in stage.options} == {
        "q/think": (16, 12),
        "q/think:steps": (16, 4.5),
        "q/fast": (20, 8),
        "q/fast:steps": (20, 4.5),
    }


@pytest.mark.parametrize(
    ("lengths", "field", "law"),
    [
        ({"r": {"prompt_tokens": 2}}, "lengths.r", "must be one of the stage's options"),
        ({"q:none": {"prompt_tokens": 2}}, "lengths.q:none", "must be one of the stage's options"),
        ({"q": {"generated_tokens": 17}}, "lengths.q.generated_tokens", "must be <= sampling.max_tokens"),
        ({"q": {"prompt_tokens": 90}}, "lengths.q.prompt_tokens", "must be <= the context_length of 'q'"),
    ],
)
def test_lengths_obey_the_laws_of_lengths(lengths: dict[str, Any], field: str, law: str) -> None:
    """Unknown options, answers over max_tokens and prompts over the context are refused at their key."""
    with pytest.raises(SpecError, match=law) as refused:
        spec_of({**ANSWER, "lengths": lengths}, models={"q": {**MODEL, "context_length": 100}})
    assert refused.value.problems[0].field == f"stages[answer].{field}"


def test_the_line_of_a_length_is_that_of_its_key(tmp_path: Path) -> None:
    """A key that stands for all variants of a model is found too."""
    spec = edited(write_choosing(tmp_path), "q/think: {generated_tokens: 40}", "q: {generated_tokens: 65}")
    place = f"{spec}:{line_with(spec, 'lengths')}: stages[answer].lengths.q/think.generated_tokens"
    assert f"{place}: must be <= sampling.max_tokens" in refusal(spec)


def find(question: str, method: str = "a", top_k: int = 1) -> list[str]:
    return [question] * top_k


def by_position(question: str, /) -> str:
    return question


def of_inputs(find: list[str]) -> str:
    return find[0]


def any_names(**named: object) -> Costed:
    return Costed(value=sorted(named))


def hinted(question: str, hint: str) -> str:
    return question + hint


FIND = {"name": "find", "python": find}
END = {"name": "end", "python": of_inputs}
OF_MODELS = "belongs to stages where models answer"
OF_FUNCTIONS = "belongs to stages that run a function"
READING = {**ANSWER, "prompt": "{{ find }} {{ question }}"}


def test_a_stage_runs_a_function_with_named_options() -> None:
    """Each option is a choice; a stage without any has one, named as the function."""
    spec = spec_of({**FIND, "options": {"a": {}, "b": {"top_k": 2}}}, READING)
    assert spec.stages[0].options == (StageOption("a"), StageOption("b"))
    assert spec_of(FIND, READING).stages[0].options == (StageOption("find"),)
    assert spec.n_answering == 1 and spec.used_models == ("q",)


def test_costs_are_those_of_the_option() -> None:
    """`costs` goes before `cost`."""
    costs = {"options": {"a": {}, "b": {}}, "cost": {"flops": 1}, "costs": {"b": {"usd": 2}}}
    stage = spec_of({**FIND, **costs}, READING).stages[0]
    assert stage.cost_of(StageOption("a")).flops == 1
    assert (stage.cost_of(StageOption("b")).flops, stage.cost_of(StageOption("b")).usd) == (0, 2)


@pytest.mark.parametrize(
    ("stages", "field", "law"),
    [
        ([{**FIND, "python": by_position}, READING], "find].python", "must take all by name, got 'question'"),
        ([{**FIND, "options": {"a": {"depth": 1}}}, READING], "find].options.a", "must be a parameter of"),
        ([{**FIND, "costs": {"no": {"usd": 1}}}, READING], "find].costs.no", "must be one of the options"),
        ([{**FIND, "models": ["q"]}, READING], "find].models", OF_MODELS),
        ([{**FIND, "max_samples": 3}, READING], "find].max_samples", OF_MODELS),
        ([FIND, {**READING, "options": {"a": {}}}], "answer].options", OF_FUNCTIONS),
        ([FIND, {**READING, "cost": {"usd": 1}}], "answer].cost", OF_FUNCTIONS),
        ([ANSWER, {"name": "end", "python": find}], "end].inputs", "must take 'answer', an input"),
        ([FIND, {**END, "options": {"a": {"find": 1}}}], "end].options.a", "that no input gives"),
    ],
)
def test_the_laws_of_functions(stages: list[dict[str, Any]], field: str, law: str) -> None:
    """Parameters, options, costs, inputs and the fields of other stages are checked, each at its place."""
    with pytest.raises(SpecError, match=law) as refused:
        spec_of(*stages)
    assert refused.value.problems[0].field == f"stages[{field}"


def test_a_function_may_take_any_names() -> None:
    """With `**named` every input and option fits, and no field is needed."""
    spec = spec_of(ANSWER, {"name": "end", "python": any_names, "options": {"a": {"x": 1}}})
    assert spec.output_stage.name == "end"


@pytest.mark.parametrize("missing", ["models", "max_samples", "prompt_tokens", "generated_tokens"])
def test_stages_where_models_answer_still_need_their_fields(missing: str) -> None:
    """What a stage with a function leaves out is required of the others."""
    with pytest.raises(SpecError, match="is required") as refused:
        spec_of({name: value for name, value in ANSWER.items() if name != missing})
    assert refused.value.problems[0].field == f"stages[answer].{missing}"


def test_rows_must_have_what_a_function_takes(tmp_path: Path) -> None:
    """A parameter without a default that no option and no input gives is a field of every row."""
    write_rows(tmp_path)
    stage = {"name": "find", "python": hinted}
    with pytest.raises(SpecError, match="the function of stage 'find' names 'hint'") as refused:
        load_examples(spec_of(stage, READING, root=tmp_path), "search")
    assert "stages[find].python" in str(refused.value)
    given = {**stage, "options": {"a": {"hint": "x"}}}
    assert load_examples(spec_of(given, READING, root=tmp_path), "search")
