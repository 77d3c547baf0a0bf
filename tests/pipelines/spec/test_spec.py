"""Specs from YAML and from Python: what is accepted, and the file, line and law of everything that is not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from pipelines import (
    BestOfN,
    BudgetSpec,
    DatasetSpec,
    ModelSpec,
    PipelineSpec,
    PythonParser,
    SamplingSpec,
    SpecError,
    StageSpec,
    load_spec,
    spec_digest,
    spec_schema,
)
from pipelines.spec.files import dump_spec, restore_spec

GOOD = """\
name: two-hops
stages:
  - name: retrieve
    prompt_file: retrieve.j2
    parser: {kind: lines, allowed: candidates}
    aggregator: {kind: set_vote, threshold: 0.5}
    models: [small, large]
    max_samples: 8
    sampling: {temperature: 0.8, max_tokens: 32}
    prompt_tokens: 100
    generated_tokens: 20
    metric: {kind: set_f1, label: evidence}
  - name: answer
    prompt: "{{ question }} {{ retrieve | join(' ') }}"
    models: [small]
    max_samples: 8
    sampling: {max_tokens: 8}
    prompt_tokens: 100
    generated_tokens: 4
models:
  small: {base_url: "http://localhost:8001/v1", active_params: 3.5e5, context_length: 256}
  large: {base_url: "http://localhost:8002/v1", active_params: 7e9}
dataset: {search: search.jsonl, test: test.jsonl}
metric: {kind: exact_match, label: answer}
budget: {units: 7e1}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "retrieve.j2").write_text("{{ question }}\n{% for c in candidates %}{{ c }}\n{% endfor %}")
    return tmp_path


def written(directory: Path, old: str = "", new: str = "", text: str = GOOD) -> Path:
    assert text.count(old) >= 1
    file = directory / "pipeline.yaml"
    file.write_text(text.replace(old, new, 1) if old else text)
    return file


def stage(name: str = "answer", **changes: Any) -> StageSpec:
    given: dict[str, Any] = {
        "prompt": "{{ question }}",
        "models": ("small",),
        "max_samples": 4,
        "prompt_tokens": 10,
        "generated_tokens": 5,
    }
    return StageSpec(name=name, **{**given, **changes})


def pipeline(*stages: StageSpec, **changes: Any) -> PipelineSpec:
    given: dict[str, Any] = {
        "name": "p",
        "models": {"small": ModelSpec(base_url="http://localhost:1/v1", active_params=1e6)},
        "dataset": DatasetSpec(search="s.jsonl", test="t.jsonl"),
        "metric": shout_match,
        "budget": BudgetSpec(units=10),
    }
    return PipelineSpec(stages=stages, **{**given, **changes})


def shout_match(output: Any, example: Any) -> float:
    return float(output == example["answer"])


def test_good_file_loads(directory: Path) -> None:
    """A file gives stages with inputs spelt out and prompt files read, and 7e9 is a number."""
    spec = load_spec(written(directory))
    assert [s.input_names for s in spec.stages] == [(), ("retrieve",)]
    assert spec.stage("retrieve").prompt == (directory / "retrieve.j2").read_text()
    assert spec.model("large").active_params == 7e9
    assert spec.budget.units == 70
    assert spec.output_stage.name == "answer"
    assert spec.root == directory


BAD: list[tuple[str, str, str, int, str, str]] = [
    # what is replaced, by what, the message: line, field, text
    (
        "unknown key",
        "max_samples: 8",
        "max_samples: 8\n    max_sample: 8",
        9,
        "stages[retrieve].max_sample",
        "did you mean max_samples?",
    ),
    (
        "nested unknown key",
        "kind: lines,",
        "kind: lines, allow: x,",
        5,
        "stages[retrieve].parser.allow",
        "allowed?",
    ),
    (
        "wrong type",
        "max_samples: 8",
        "max_samples: lots",
        8,
        "stages[retrieve].max_samples",
        "number, got 'lots'",
    ),
    (
        "boolean for number",
        "prompt_tokens: 100",
        "prompt_tokens: true",
        10,
        "stages[retrieve].prompt_tokens",
        "True",
    ),
    (
        "quoted number",
        "active_params: 7e9",
        'active_params: "7e9"',
        22,
        "models.large.active_params",
        "'7e9'",
    ),
    (
        "no bound",
        "active_params: 7e9",
        "active_params: 1e308",
        22,
        "models.large.active_params",
        "must be <= 1000000000000000",
    ),
    ("number for text", "name: two-hops", "name: 2", 1, "name", "put it in quotes"),
    ("infinite", "units: 7e1", "units: .inf", 25, "budget.units", "finite"),
    (
        "two budgets",
        "units: 7e1",
        "units: 7e1, usd: 0.01",
        25,
        "budget",
        "must have exactly one of units and usd, got units: 70 and usd: 0.01",
    ),
    ("no budget", "units: 7e1", "reference: {}", 25, "budget", "got none; units are compute per query"),
    (
        "no parameters",
        ", active_params: 7e9",
        "",
        22,
        "models.large.active_params",
        "must be given where the budget is in units, got none with units: 70; add it, or give every model",
    ),
    (
        "below bound",
        "max_samples: 8",
        "max_samples: 0",
        8,
        "stages[retrieve].max_samples",
        "must be > 0, got 0",
    ),
    (
        "above bound",
        "threshold: 0.5",
        "threshold: 2",
        6,
        "stages[retrieve].aggregator.threshold",
        "must be <= 1, got 2",
    ),
    ("missing key", "    max_samples: 8\n", "", 3, "stages[retrieve].max_samples", "is required"),
    (
        "unknown kind of parser",
        "kind: lines",
        "kind: line",
        5,
        "stages[retrieve].parser.kind",
        "must be 'text', 'lines', 'json', 'regex', 'choice', 'answer' or 'code', got 'line'; did you mean "
        "lines?",
    ),
    (
        "no kind at all",
        "kind: lines",
        "kind: 7",
        5,
        "stages[retrieve].parser.kind",
        "'answer' or 'code', got 7",
    ),
    (
        "unknown kind of metric",
        "kind: exact_match",
        "kind: exact",
        24,
        "metric.kind",
        "must be 'exact_match', 'token_f1'",
    ),
    (
        "parser in a word",
        "{kind: lines, allowed: candidates}",
        "lines",
        5,
        "stages[retrieve].parser",
        "'lines'",
    ),
    (
        "not a mapping",
        "{search: search.jsonl, test: test.jsonl}",
        "x",
        23,
        "dataset",
        "must be a mapping of keys",
    ),
    (
        "no rows",
        "search: search.jsonl",
        "search: -1",
        23,
        "dataset.search",
        "must be > 0, got -1",
    ),
    ("bad stage name", "name: answer", "name: 1st", 13, "stages[1st].name", "must match pattern"),
    ("duplicate stage", "name: answer", "name: retrieve", 13, "stages[1].name", "got 'retrieve' twice"),
    ("unknown model", "[small, large]", "[small, big]", 7, "stages[retrieve].models[1]", "got 'big'"),
    ("model twice", "[small, large]", "[small, small]", 7, "stages[retrieve].models[1]", "once, got 'small'"),
    (
        "unknown input",
        "models: [small]\n",
        "inputs: [seek]\n    models: [small]\n",
        15,
        "stages[answer].inputs",
        "'seek'",
    ),
    (
        "cycle",
        "models: [small, large]",
        "models: [small]\n    inputs: [answer]",
        8,
        "stages[retrieve].inputs",
        "retrieve -> answer -> retrieve",
    ),
    (
        "unused output",
        "models: [small]\n",
        "inputs: []\n    models: [small]\n",
        3,
        "stages[retrieve]",
        "must be used",
    ),
    ("no prompt", "prompt_file: retrieve.j2", "completion: true", 3, "stages[retrieve]", "exactly one of"),
    (
        "two prompts",
        "prompt_file: retrieve.j2",
        "prompt_file: retrieve.j2\n    prompt: x",
        3,
        "stages[retrieve]",
        "got prompt and prompt_file",
    ),
    (
        "bad message",
        "prompt_file: retrieve.j2",
        "messages: [{role: boss, content: x}]",
        4,
        "stages[retrieve].messages[0]",
        "role",
    ),
    ("missing prompt file", "retrieve.j2", "gone.j2", 4, "stages[retrieve].prompt_file", "No such file"),
    (
        "greedy",
        "{max_tokens: 8}",
        "{max_tokens: 8, temperature: 0}",
        17,
        "stages[answer].sampling.temperature",
        "got 0 with max_samples 8",
    ),
    (
        "set vote over text",
        "{kind: lines, allowed: candidates}",
        "{kind: text}",
        6,
        "stages[retrieve].aggregator.kind",
        "needs a parser that gives lists, got text",
    ),
    (
        "choice without values",
        "sampling: {max_tokens: 8}",
        "parser: {kind: choice}\n    sampling: {max_tokens: 8}",
        17,
        "stages[answer].parser.allowed",
        "is required; add allowed",
    ),
    (
        "allowed for text",
        "sampling: {max_tokens: 8}",
        "sampling: {max_tokens: 8}\n    parser: {allowed: x}",
        18,
        "stages[answer].parser.allowed",
        "belongs to kind lines or choice",
    ),
    (
        "bad pattern",
        "sampling: {max_tokens: 8}",
        "sampling: {max_tokens: 8}\n    parser: {kind: regex, pattern: '('}",
        18,
        "stages[answer].parser.pattern",
        "regular expression",
    ),
    (
        "bad schema",
        "sampling: {max_tokens: 8}",
        "sampling: {max_tokens: 8}\n    parser: {kind: json, schema: {type: sett}}",
        18,
        "stages[answer].parser.schema",
        "JSON schema",
    ),
    (
        "misspelt key of a kind",
        "threshold: 0.5",
        "treshold: 0.5",
        6,
        "stages[retrieve].aggregator.treshold",
        "unknown key; did you mean threshold?",
    ),
    (
        "unknown key of a kind",
        "threshold: 0.5",
        "xyz: 0.5",
        6,
        "stages[retrieve].aggregator.xyz",
        "unknown key; the keys here are kind, threshold, union",
    ),
    (
        "key of another kind",
        "threshold: 0.5",
        "start: answer",
        6,
        "stages[retrieve].aggregator.start",
        "belongs to kind refine, got kind set_vote",
    ),
    (
        "a length-weighted vote without t0",
        "{kind: set_vote, threshold: 0.5}",
        "{kind: length_weighted}",
        6,
        "stages[retrieve].aggregator.t0",
        "is required; add t0",
    ),
    (
        "an item-by-item vote over texts",
        "models: [small]",
        "models: [small]\n    aggregator: {kind: weighted, threshold: 0.2}",
        16,
        "stages[answer].aggregator.kind",
        "a vote with a threshold needs a parser that gives lists, got text",
    ),
    (
        "refine without start",
        "{kind: set_vote, threshold: 0.5}",
        "{kind: refine}",
        6,
        "stages[retrieve].aggregator.start",
        "is required; add start",
    ),
    (
        "refine of no input",
        "{kind: set_vote, threshold: 0.5}",
        "{kind: refine, start: nowhere}",
        6,
        "stages[retrieve].aggregator.start",
        "got 'nowhere'",
    ),
    (
        "constrained without a schema",
        "sampling: {max_tokens: 8}",
        "sampling: {max_tokens: 8}\n    parser: {kind: json, constrain: true}",
        18,
        "stages[answer].parser.constrain",
        "needs schema or schema_file",
    ),
    (
        "schema twice",
        "sampling: {max_tokens: 8}",
        "sampling: {max_tokens: 8}\n    parser: {kind: json, schema: {}, schema_file: x.json}",
        18,
        "stages[answer].parser.schema_file",
        "exclude each other",
    ),
    (
        "unknown fuser",
        "{kind: set_vote, threshold: 0.5}",
        "{kind: fusion, model: huge}",
        6,
        "stages[retrieve].aggregator.model",
        "got 'huge'",
    ),
    (
        "unknown verifier",
        "{kind: set_vote, threshold: 0.5}",
        "{kind: verifier, model: huge}",
        6,
        "stages[retrieve].aggregator.model",
        "got 'huge'",
    ),
    (
        "verifier that answers",
        "{kind: set_vote, threshold: 0.5}",
        "{kind: verifier, model: large}",
        6,
        "stages[retrieve].aggregator.model",
        "must be a classifier",
    ),
    (
        "unknown choice of verifier",
        "sampling: {max_tokens: 8}",
        "sampling: {max_tokens: 8}\n    verifiers: [huge]",
        18,
        "stages[answer].verifiers[0]",
        "got 'huge'",
    ),
    (
        "choice of verifier that answers",
        "sampling: {max_tokens: 8}",
        "sampling: {max_tokens: 8}\n    verifiers: [small]",
        18,
        "stages[answer].verifiers[0]",
        "must be a classifier",
    ),
    (
        "unknown parent",
        "active_params: 7e9",
        "active_params: 7e9, parent: none",
        22,
        "models.large.parent",
        "got 'none'",
    ),
    (
        "own parent",
        "active_params: 7e9",
        "active_params: 7e9, parent: large",
        22,
        "models.large.parent",
        "another model",
    ),
    ("no url", "http://localhost:8002/v1", "localhost:8002", 22, "models.large.base_url", "http://"),
    ("no port", "localhost:8002/v1", "localhost:99999/v1", 22, "models.large.base_url", "from 1 to 65535 if"),
    ("port 0", "localhost:8002/v1", "localhost:0/v1", 22, "models.large.base_url", "from 1 to 65535 if any"),
    (
        "longer than allowed",
        "generated_tokens: 20",
        "generated_tokens: 40",
        11,
        "stages[retrieve].generated_tokens",
        "got 40 with max_tokens 32",
    ),
    (
        "context overflow",
        "prompt_tokens: 100",
        "prompt_tokens: 250",
        10,
        "stages[retrieve].prompt_tokens",
        "context_length of 'small', 256, got 250 + 32",
    ),
    (
        "config without hub",
        "test: test.jsonl",
        "test: test.jsonl, config: en",
        23,
        "dataset.config",
        "needs hub",
    ),
    (
        "function not found",
        "{kind: exact_match, label: answer}",
        '{python: "nowhere_at_all:f"}',
        24,
        "metric.python",
        "can't be imported",
    ),
    (
        "function name",
        "{kind: exact_match, label: answer}",
        '{python: "f"}',
        24,
        "metric.python",
        "module:name, got 'f'",
    ),
    (
        "function with more keys",
        "{kind: exact_match, label: answer}",
        '{python: "json:loads", label: answer}',
        24,
        "metric.label",
        "unknown key; the keys here are python",
    ),
    (
        "scorer not found",
        "{kind: set_vote, threshold: 0.5}",
        '{kind: best_of_n, scorer: {python: "json:nowhere"}}',
        6,
        "stages[retrieve].aggregator.scorer.python",
        "has no 'nowhere'; correct the name",
    ),
    ("root", "name: two-hops", "root: /tmp\nname: two-hops", 1, "root", "unknown key"),
]


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "text"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_bad_field_is_named_with_its_line(
    directory: Path, old: str, new: str, line: int, field: str, text: str
) -> None:
    """Each broken law gives one line that starts with the file, the exact line and the field."""
    file = written(directory, old, new)
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    assert len(caught.value.problems) == 1
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: {field}: ")
    assert text in message
    assert "\n" not in message


def test_a_budget_in_dollars_needs_prices_and_no_parameters(directory: Path) -> None:
    """With `usd` the models that stages use have a price, others need none, and no model needs its size."""
    price = "price: {prompt_usd_per_million: 0.1, generated_usd_per_million: 0.4}"
    text = GOOD.replace("units: 7e1", "usd: 1e-4").replace("active_params: 3.5e5", price)
    with pytest.raises(SpecError) as caught:
        load_spec(written(directory, text=text))
    assert str(caught.value).startswith(
        f"{directory}/pipeline.yaml:22: models.large.price: must be given where"
    )
    assert "got none with usd: 0.0001; add prompt_usd_per_million" in str(caught.value)
    spec = load_spec(written(directory, text=text.replace("[small, large]", "[small]")))
    assert spec.used_models == ("small",) and spec.models["small"].active_params is None
    assert (spec.budget.amount, spec.budget.units) == (1e-4, None)
    assert dump_spec(restore_spec(dump_spec(spec))) == dump_spec(spec)


def test_all_problems_of_a_file_are_listed(directory: Path) -> None:
    """Several broken fields give several lines, in the order of the file."""
    text = GOOD.replace("max_samples: 8", "max_samples: 0").replace("units: 7e1", "unit: 7")
    with pytest.raises(SpecError) as caught:
        load_spec(written(directory, text=text))
    lines = str(caught.value).splitlines()
    assert [problem.line for problem in caught.value.problems] == [8, 16, 25]
    assert len(lines) == 3 and all(line.startswith(f"{directory}/pipeline.yaml:") for line in lines)


@pytest.mark.parametrize(
    ("text", "line", "law"),
    [
        ("", 1, "must be a mapping of keys, got nothing"),
        ("- a\n", 1, "must be a mapping of keys"),
        ("name: a\nname: b\n", 2, 'found duplicate key "name" with value "b" (original value: "a")'),
        ("name: a\nmodels:\n  7: {}\n", 3, "a key must be text, got '7'"),
        ("name: [a\nb: c\n", 2, "must be YAML"),
        ("name: !!python/name:os.system x\n", 1, "could not determine a constructor for the tag"),
        ("name: &a [*a]\n", 1, "an alias must not hold itself"),
        ("name: a\n---\nname: b\n", 2, "single document"),
        ("\tname: a\n", 1, "must be YAML"),
    ],
)
def test_bad_yaml_is_named_with_its_line(tmp_path: Path, text: str, line: int, law: str) -> None:
    """What is not one plain YAML mapping is refused with the line where that shows."""
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    assert str(caught.value).startswith(f"{file}:{line}: ") and law in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    """A missing file, a directory and a file that is not UTF-8 give a one-line SpecError."""
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    for file in (tmp_path / "gone.yaml", tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(SpecError, match=str(file)):
            load_spec(file)


def test_merge_keys_and_aliases(directory: Path) -> None:
    """Repeated settings can be shared by an anchor, merged, and overridden beside the merge."""
    text = GOOD.replace("small: {base_url", "small: &m {base_url").replace(
        'large: {base_url: "http://localhost:8002/v1", active_params: 7e9}',
        "large: {<<: *m, active_params: 2_000_000}",
    )
    spec = load_spec(written(directory, text=text))
    assert spec.model("large").context_length == 256
    assert spec.model("large").active_params == 2e6


def test_template_that_does_not_parse_names_file_and_line(directory: Path) -> None:
    """A syntax error in a prompt file is reported under that file and its line, before anything runs."""
    (directory / "retrieve.j2").write_text("{{ question }}\n{% for c in %}\n")
    with pytest.raises(SpecError) as caught:
        load_spec(written(directory))
    assert str(caught.value).startswith(
        f"{directory}/retrieve.j2:2: stages[retrieve].prompt_file: template error"
    )


def test_functions_from_a_file_beside_the_spec(directory: Path) -> None:
    """`python: module:function` finds modules beside the spec, and the digest follows their source."""
    name = f"scoring_{os.getpid()}_a"
    (directory / f"{name}.py").write_text("def last(text, example):\n    return text.split()[-1]\n")
    text = GOOD.replace(
        "sampling: {max_tokens: 8}", f'parser: {{python: "{name}:last"}}\n    sampling: {{max_tokens: 8}}'
    )
    spec = load_spec(written(directory, text=text))
    parser = spec.stage("answer").parser
    assert isinstance(parser, PythonParser) and parser.python("a b", {}) == "b"
    assert restore_spec(dump_spec(spec)).stage("answer").parser == parser


def test_dump_restores_the_same_spec(directory: Path) -> None:
    """What the store keeps gives the same spec back, prompts included, after the prompt file is gone."""
    spec = load_spec(written(directory))
    text = dump_spec(spec)
    (directory / "retrieve.j2").unlink()
    restored = restore_spec(text)
    assert restored.model_dump() == spec.model_dump()
    assert spec_digest(restored) == spec_digest(spec)


def test_digest_follows_what_matters(directory: Path) -> None:
    """A prompt's text changes the digest; where a server listens does not."""
    before = spec_digest(load_spec(written(directory)))
    assert spec_digest(load_spec(written(directory, "localhost:8002", "elsewhere:1"))) == before
    assert spec_digest(load_spec(written(directory, "max_samples: 8", "max_samples: 9"))) != before
    (directory / "retrieve.j2").write_text("{{ question }} {{ candidates }}")
    assert spec_digest(load_spec(written(directory))) != before


def test_schema_accepts_the_good_file_and_refuses_unknown_keys() -> None:
    """The JSON schema is itself valid, takes a good file and functions by name, and refuses unknown keys."""
    schema = spec_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    data = YAML(typ="safe", pure=True).load(GOOD)
    checker = jsonschema.Draft202012Validator(schema)
    checker.validate(data)
    checker.validate({**data, "metric": {"python": "scoring:good"}})
    assert not checker.is_valid({**data, "metrics": 1})
    assert not checker.is_valid({**data, "root": "/"})
    for parser, taken in (
        ({}, True),
        ({"python": "parsers:own"}, True),
        ({"kind": "regex", "pattern": "x"}, True),
        ({"kind": "regex"}, False),
        ({"allowed": "x"}, False),
        ({"kind": "lines", "pattern": "x"}, False),
    ):
        stages = [{**data["stages"][0], "parser": parser}, data["stages"][1]]
        assert checker.is_valid({**data, "stages": stages}) is taken
    json.dumps(schema)


def test_spec_from_python_with_functions() -> None:
    """Plain classes with functions for parser, aggregator, scorer and metric make a spec that dumps."""
    spec = pipeline(
        stage("a", parser=shout_match, aggregator=shout_match),
        stage("b", aggregator=BestOfN(scorer=shout_match)),
    )
    assert spec.stage("b").input_names == ("a",)
    dumped = json.loads(spec.model_dump_json())
    assert dumped["metric"] == {"python": f"{__name__}:shout_match"}
    assert dumped["stages"][0]["parser"] == dumped["stages"][1]["aggregator"]["scorer"] == dumped["metric"]
    assert spec_digest(spec) == spec_digest(spec)


def test_stages_are_put_after_their_inputs() -> None:
    """A graph may be written in any order; stages come out each after its inputs, otherwise as written."""
    spec = pipeline(
        stage("join", inputs=("left", "right")),
        stage("right", inputs=("top",)),
        stage("left", inputs=("top",)),
        stage("top", inputs=()),
    )
    assert [s.name for s in spec.order] == ["top", "right", "left", "join"]
    assert spec.output_stage.name == "join"


def test_laws_hold_for_python_too(tmp_path: Path) -> None:
    """A spec from Python breaks the same laws, with fields for places."""
    with pytest.raises(SpecError, match=r"^stages\[a\]\.sampling\.temperature: must be > 0"):
        pipeline(stage("a", sampling=SamplingSpec(temperature=0)))
    with pytest.raises(SpecError, match=r"stages\[a\]\.prompt_file: .*gone\.j2 can't be read"):
        pipeline(stage("a", prompt=None, prompt_file="gone.j2"), root=tmp_path)


def test_unknown_names_say_what_there_is() -> None:
    """Asking a spec for a stage or model that it has not names those that it has."""
    spec = pipeline(stage("a"))
    with pytest.raises(SpecError, match=r"unknown stage 'b'; the stages are 'a'"):
        spec.stage("b")
    with pytest.raises(SpecError, match=r"unknown model 'b'; the models are 'small'"):
        spec.model("b")
    assert spec.served_name("small") == "small"
