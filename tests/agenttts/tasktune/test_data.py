"""`agenttts tune data`: what becomes of good and bad rows, from files, an LLM, or a search's samples."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from agenttts import search
from agenttts.errors import UserError
from agenttts.llm import AgentSettings
from agenttts.replay.judged import judged_prompts
from agenttts.results.spec_bank import attach_spec_bank
from agenttts.tasktune.data.build import DataConfig, run_build
from agenttts.tasktune.data.cleaning import evenly, split_groups
from agenttts.tasktune.data.cost import samples_cost
from agenttts.tasktune.data.dataset import TaskData, load_dataset
from agenttts.tasktune.data.subtask import load_subtasks, subtasks_yaml, template_names, template_text
from datastore import Store
from pipelines.dataset.splits import load_examples
from pipelines.examples import Example
from pipelines.spec.configfile import load_config
from pipelines.spec.files import load_spec
from pipelines.spec.models import Price
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.variants import PythonMetric
from pipelines.stages.metrics import score
from pipelines.stages.parsers import Parsed, parse
from tests.agenttts.commands import agenttts
from tests.real_data import need
from tests.servers.scripted import Request, ScriptedServer

SUBTASKS = """\
domain: colours
subtasks:
  - name: colour
    instruction: Name the colour of the thing.
    inputs: {thing: text}
    choices: [red, green, blue]
    metric: accuracy
    languages: [en]
    max_tokens: 4
"""
THINGS = (
    "the barn door beyond the orchard",
    "a fire engine on its way through town",
    "cherries in a glass bowl",
    "the roof tiles of my grandmother's house",
    "an old telephone box in London",
    "sunburnt shoulders after a day at sea",
    "the stop sign at the crossing",
    "strawberry jam on warm toast",
)
ROOMY = {"small": 100_000}
FRENCH = "Le patient se plaint de douleurs depuis deux jours, et il tousse beaucoup la nuit."
SECRET = "an apple that lies on the kitchen table next to the window"


def write(
    folder: Path, rows: list[dict[str, Any]], test: Sequence[dict[str, Any]] = (), **more: Any
) -> DataConfig:
    (folder / "subtasks.yaml").write_text(SUBTASKS)
    for name, found in (("rows", rows), ("test", test)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    config: dict[str, Any] = {
        "out": "data",
        "subtasks": "subtasks.yaml",
        "sources": [{"kind": "file", "task": "colour", "path": "rows.jsonl"}],
        **more,
    }
    if test:
        config["test"] = [{"task": "colour", "path": "test.jsonl"}]
    return DataConfig.model_validate(config)


def reasons(data: TaskData) -> list[tuple[str, str, str]]:
    lines = (data.path / "dropped.jsonl").read_text().splitlines()
    return [(one["step"], one["reason"], one["source"]) for one in map(json.loads, lines)]


def test_every_bad_row_goes_with_its_reason(tmp_path: Path) -> None:
    """Each law of the checks catches its row, names its line, and leaves the good ones."""
    good = [{"thing": thing, "output": "red"} for thing in THINGS]
    bad = [
        {"thing": "", "output": "red"},
        {"thing": "a crow", "output": "black"},
        {"thing": "Das ist ein langer deutscher Satz über eine alte Straße im Tal", "output": "red"},
        {"thing": "树叶是什么颜色的呢这里有一片很大的树叶", "output": "green"},
        {"thing": THINGS[0], "output": "red"},
        {"thing": THINGS[1] + " .", "output": "red"},
        {"thing": SECRET, "output": "red"},
        {"thing": SECRET.replace("table", "Table,"), "output": "red"},
    ]
    data = run_build(write(tmp_path, good + bad, [{"thing": SECRET, "output": "red"}]), tmp_path, llm=None)
    found = {int(source.rsplit(":", 1)[1]): step for step, _, source in reasons(data)}
    steps = ["schema", "schema", "language", "language", "duplicate", "near-duplicate", "leak", "leak"]
    assert found == dict(zip(range(9, 17), steps, strict=True))
    assert len(data.train) + len(data.eval) == 8
    assert len(data.test) == 1
    assert data.card.rows["train"] == len(data.train)


def test_personal_data_is_flagged(tmp_path: Path) -> None:
    """Rows that hold an address or a number are counted, and go where that is asked for."""
    rows = [
        {"thing": "write to ada@example.org about it", "output": "red"},
        {"thing": "call +44 7700 900 123 at noon", "output": "blue"},
        {"thing": "the sky above the harbour", "output": "blue"},
    ]
    kept = run_build(write(tmp_path, rows), tmp_path, llm=None)
    assert kept.card.flagged == {"email": 1, "phone": 1}
    dropped = run_build(write(tmp_path, rows, drop_personal=True), tmp_path, llm=None)
    assert [row.fields["thing"] for row in [*dropped.train, *dropped.eval]] == ["the sky above the harbour"]


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    """Rows with one input are in one split; what is read back is what was built."""
    rows = [{"thing": f"stone {n} {'xyz'[n % 3] * 9}{n * 7919}", "output": "red"} for n in range(40)]
    config = write(tmp_path, rows, near_duplicates=None)
    data = run_build(config, tmp_path, llm=None)
    assert not {row.group for row in data.train} & {row.group for row in data.eval}
    assert len(data.eval) == 8
    again = load_dataset(tmp_path / "data")
    assert [row.id for row in again.train] == [row.id for row in data.train]
    assert [dict(row.fields) for row in again.eval] == [dict(row.fields) for row in data.eval]
    assert run_build(config, tmp_path, llm=None).digest == data.digest == again.digest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            SUBTASKS.replace("    metric: accuracy\n", ""),
            r"subtasks.yaml:3: subtasks\[0\].metric: is required",
        ),
        (SUBTASKS.replace("accuracy", "beauty"), r"subtasks.yaml:7: subtasks\[0\].metric.kind"),
        (SUBTASKS.replace("metric:", "measure: 1\n    metric:"), r"subtasks.yaml:7: .*measure: unknown key"),
        (SUBTASKS + SUBTASKS.split("subtasks:\n")[1], "names must differ, got 'colour' twice"),
    ],
)
def test_a_wrong_file_of_subtasks(tmp_path: Path, text: str, told: str) -> None:
    """File, line, field and law are named, with exit code 2."""
    config = write(tmp_path, [{"thing": "a", "output": "red"}])
    (tmp_path / "subtasks.yaml").write_text(text)
    (tmp_path / "data.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    done = agenttts("tune", "data", tmp_path / "data.yaml")
    assert done.code == 2
    assert re.search(told, done.err), done.err
    assert "Traceback" not in done.err


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    """An empty dataset is not written, and the reasons are told."""
    with pytest.raises(UserError, match=r"no row is left .* schema: 1 input thing is empty"):
        run_build(write(tmp_path, [{"thing": "", "output": "red"}]), tmp_path, llm=None)
    assert not (tmp_path / "data").exists()


def test_a_place_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    """A directory that holds something else is not replaced."""
    config = write(tmp_path, [{"thing": "a plum", "output": "blue"}])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="must be free"):
        run_build(config, tmp_path, llm=None)
    assert (tmp_path / "data" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", template_names())
def test_the_ready_domains(name: str, tmp_path: Path) -> None:
    """Every worked example parses, scores 1 under its own metric, and reads back."""
    file = tmp_path / "subtasks.yaml"
    file.write_text(template_text(name), encoding="utf-8")
    tasks = load_subtasks(file)
    for task in tasks.subtasks:
        for example in task.examples:
            fields = task.fields(example.inputs, example.output)
            parsed = parse(task.parser, task.written(example.output), Example("x", fields))
            assert isinstance(parsed, Parsed)
            assert score(task.metric, parsed.value, Example("x", fields)) == 1.0
            assert all(
                str(value) in task.messages(example.inputs)[0]["content"]
                for value in example.inputs.values()
                if isinstance(value, str)
            )
    file.write_text(subtasks_yaml(tasks), encoding="utf-8")
    assert load_subtasks(file) == tasks


# Documents and an LLM


def llm(server: ScriptedServer) -> AgentSettings:
    return AgentSettings(base_url=server.base_url, model="small")


def pairs(*found: tuple[Mapping[str, Any], Any]) -> str:
    return json.dumps({"pairs": [{"inputs": inputs, "output": output} for inputs, output in found]})


def documents_config(folder: Path, texts: Mapping[str, str], **more: Any) -> DataConfig:
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    source = {"kind": "documents", "task": "colour", "files": ["*.txt"], "per_passage": 2}
    return write(folder, [], sources=[source], db="bank.duckdb", **more)


def test_documents_through_an_llm(tmp_path: Path, make_server: Callable[..., ScriptedServer]) -> None:
    """Good answers become rows with provenance; malformed ones are asked for again, then go; a second build
    asks nothing and gives the same dataset."""

    def answer(request: Request, index: int) -> str:
        text = request.prompt
        if "garbled" in text:
            return "not JSON at all"
        if "mended" in text and "Not of the form" not in text:
            return '{"pairs": 3}'
        thing = "a lorry that carries tomatoes" if "lorry" in text else "the mended fence of the farm"
        return pairs(({"thing": thing}, "red"), ({"thing": thing}, "purple"))

    server = make_server(answer=answer, models=ROOMY)
    config = documents_config(
        tmp_path, {"a.txt": "A lorry came by.", "b.txt": "It is garbled.", "c.txt": "It was mended."}
    )
    data = run_build(config, tmp_path, llm=llm(server))
    rows = [*data.train, *data.eval]
    assert sorted(str(row.fields["thing"]) for row in rows) == [
        "a lorry that carries tomatoes",
        "the mended fence of the farm",
    ]
    assert {Path(row.source.split("#")[0]).name for row in rows} == {"a.txt", "c.txt"}
    assert all("#1 by small, pair 1" in row.source for row in rows)
    told = reasons(data)
    assert [step for step, _, _ in told].count("schema") == 3
    assert any("malformed answer" in reason for _, reason, source in told if "b.txt" in source)
    asked = len(server.arrived)
    again = run_build(config, tmp_path, llm=llm(server))
    assert len(server.arrived) == asked
    assert again.digest == data.digest


REVISED = {
    "a lorry that carries tomatoes": ("red", None),
    "plums that lie in a bowl": ("blue", {"thing": "plums that lie in a bowl", "output": "red"}),
    "grass that grows on a hill": ("blue", {"thing": "grass that grows on a hill", "output": "purple"}),
    "the sea on a day in summer": ("green", {"thing": "the sea on a day in summer", "output": "green"}),
    "snow that fell in the night": ("green", "not JSON at all"),
    "milk that stands on the table": ("purple", None),
}
"""By the thing of a passage the colour that an LLM says, and its rewrite, where the critique asks for one."""


def test_critique_and_rewrite(tmp_path: Path, make_server: Callable[..., ScriptedServer]) -> None:
    """A pair that the critique calls right stays; one that is rewritten well is replaced; one whose rewrite
    breaks the rules, changes nothing or can't be read goes with the reason; nothing is asked twice."""

    def answer(request: Request, index: int) -> str:
        system = str(request.body["messages"][0]["content"])
        thing = next(thing for thing in REVISED if thing in request.prompt)
        first, rewrite = REVISED[thing]
        if "write training data" in system:
            return pairs(({"thing": thing}, first))
        assert f'"thing":"{thing}"' in request.prompt and "Sub-task colour" in request.prompt
        if "check training data" in system:
            return json.dumps({"critique": "look at it again", "right": rewrite is None})
        assert "Critique: look at it again" in request.prompt
        if not isinstance(rewrite, dict):
            return str(rewrite)
        return json.dumps({"inputs": {"thing": rewrite["thing"]}, "output": rewrite["output"]})

    server = make_server(answer=answer, models=ROOMY)
    texts = {f"{number}.txt": f"Of {thing}." for number, thing in enumerate(REVISED)}
    source = {"kind": "documents", "task": "colour", "files": ["*.txt"], "per_passage": 2}
    config = documents_config(tmp_path, texts)
    plain = run_build(config, tmp_path, llm=llm(server))
    assert plain.card.llm_cost is not None and plain.card.llm_cost.questions == len(REVISED)
    revising = write(tmp_path, [], sources=[{**source, "revise": True}], db="bank.duckdb")
    data = run_build(revising, tmp_path, llm=llm(server))
    rows = {str(row.fields["thing"]): row for row in [*data.train, *data.eval]}
    assert {thing: row.completion for thing, row in rows.items()} == {
        "a lorry that carries tomatoes": "red",
        "plums that lie in a bowl": "red",
    }
    assert rows["plums that lie in a bowl"].source.endswith("pair 1, rewritten")
    dropped = {Path(source.split("#")[0]).stem: (step, reason) for step, reason, source in reasons(data)}
    assert dropped["2"] == ("rewrite", "the answer does not parse: names 0 of the 3 allowed values")
    assert dropped["3"] == ("rewrite", "the pair is as before, of which the critique says: look at it again")
    assert dropped["4"][0] == "rewrite" and "malformed answer" in dropped["4"][1]
    assert dropped["5"][0] == "schema", "what breaks the rules is not paid for any further"
    critiques, rewrites, repairs = 5, 4, 1
    n_questions = len(REVISED) + critiques + rewrites + repairs
    assert len(server.arrived) == n_questions
    assert data.card.llm_cost is not None and data.card.llm_cost.questions == n_questions
    again = run_build(revising, tmp_path, llm=llm(server))
    assert len(server.arrived) == n_questions
    assert (again.digest, again.card.llm_cost) == (data.digest, data.card.llm_cost)
    assert f"{n_questions} answers of an LLM" in (tmp_path / "data" / "README.md").read_text()


def test_a_judge_refuses_rows(tmp_path: Path, make_server: Callable[..., ScriptedServer]) -> None:
    """Rows that the judge calls wrong go with its reason; those it accepts are marked."""

    def answer(request: Request, index: int) -> str:
        right = "Answer:\nred" in request.prompt
        return json.dumps({"correct": right, "reason": "plums are not blue"})

    server = make_server(answer=answer, models=ROOMY)
    rows = [{"thing": "a tomato", "output": "red"}, {"thing": "plums in a bowl", "output": "blue"}]
    data = run_build(write(tmp_path, rows, judge=True), tmp_path, llm=llm(server))
    assert [row.fields["thing"] for row in [*data.train, *data.eval]] == ["a tomato"]
    assert [(step, reason) for step, reason, _ in reasons(data)] == [
        ("judge", "the judge: plums are not blue")
    ]


def test_a_killed_build_repeats_no_call(tmp_path: Path, make_server: Callable[..., ScriptedServer]) -> None:
    """After `kill -9` the same command asks only what was not answered, and nothing is half there."""
    server = make_server(
        answer=lambda r, i: pairs(({"thing": r.prompt[-40:]}, "red")), latency_s=0.25, models=ROOMY
    )
    texts = {f"d{n:02}.txt": f"Passage number {n} speaks of thing {n * 7919}." for n in range(40)}
    config = documents_config(tmp_path, texts, near_duplicates=None)
    file = tmp_path / "data.yaml"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    environ = {
        **os.environ,
        "AGENTTTS_AGENT_BASE_URL": server.base_url,
        "AGENTTTS_AGENT_MODEL": "small",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    command = [sys.executable, "-c", "from agenttts.cli.main import main; main()", "tune", "data", str(file)]
    first = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum(server.completed.values()) < 12:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "data").exists()
    time.sleep(0.5)
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    assert len(load_dataset(tmp_path / "data").train) + len(load_dataset(tmp_path / "data").eval) == 40
    repeated = sum(count - 1 for count in server.completed.values())
    assert repeated <= 8, "only what was under way when it was killed"


def test_real_dialogues(tmp_path: Path, make_server: Callable[..., ScriptedServer]) -> None:
    """Clinical dialogues, with an LLM that is good, malformed, repeating, off-language or leaks the test set:
    every bad row is caught, with its reason."""
    source = need("tasktune/mts_dialog_train.csv")
    with source.open(encoding="utf-8") as stream:
        notes = [row for row in csv.DictReader(stream) if len(row["dialogue"]) > 300][:50]
    headers = sorted({row["section_header"] for row in notes})
    task = {
        "name": "section",
        "instruction": "Say which section of a clinical note the dialogue belongs to.",
        "inputs": {"dialogue": "text"},
        "choices": headers,
        "metric": "accuracy",
        "languages": ["en"],
    }
    (tmp_path / "subtasks.yaml").write_text(json.dumps({"domain": "clinic", "subtasks": [task]}))
    secret = notes[49]
    (tmp_path / "test.jsonl").write_text(
        json.dumps({"dialogue": secret["dialogue"], "output": secret["section_header"]}) + "\n"
    )
    for number, note in enumerate(notes[:40]):
        (tmp_path / f"{number:02}.txt").write_text(note["dialogue"], encoding="utf-8")
    said = {" ".join(note["dialogue"].split()): note["section_header"] for note in notes}

    def answer(request: Request, index: int) -> str:
        passage = str(request.body["messages"][1]["content"]).split("from this passage:\n\n")[1]
        number = [" ".join(n["dialogue"].split()) for n in notes].index(" ".join(passage.split()))
        own = ({"dialogue": passage}, said[" ".join(passage.split())])
        match number % 8:
            case 1:
                return "Sure! Here are your pairs."
            case 2:
                return pairs(own, ({"dialogue": passage + " "}, own[1]))
            case 3:
                return pairs(own, ({"dialogue": FRENCH}, headers[0]))
            case 4:
                return pairs(own, ({"dialogue": secret["dialogue"] + " Thanks."}, secret["section_header"]))
            case 5:
                return pairs(own, ({"dialogue": passage[:80]}, "WEATHER"))
        return pairs(own)

    server = make_server(answer=answer, models=ROOMY)
    config = DataConfig.model_validate(
        {
            "out": "data",
            "subtasks": "subtasks.yaml",
            "sources": [{"kind": "documents", "task": "section", "files": ["[0-9]*.txt"]}],
            "test": [{"task": "section", "path": "test.jsonl"}],
            "db": "bank.duckdb",
        }
    )
    data = run_build(config, tmp_path, llm=llm(server))
    counts = {step: sum(found.values()) for step, found in data.card.dropped.items()}
    assert counts["language"] == 5
    assert counts["leak"] == 5
    assert counts["schema"] == 5 + 5  # malformed twice; an answer that is none of the choices refused as such
    assert counts.get("near-duplicate", 0) + counts.get("duplicate", 0) >= 5
    assert not any("Thanks." in str(row.fields["dialogue"]) for row in [*data.train, *data.eval])
    assert len(data.train) + len(data.eval) >= 30


# A search's own samples


@pytest.mark.parametrize("stage", ["retrieve", "answer"])
def test_rows_from_a_run(recorded: Path, searched: Path, tmp_path: Path, stage: str) -> None:
    """Right samples only, of search examples only, by the stage's metric or by the pipeline's score."""
    config = {"out": "data", "sources": [{"kind": "run", "db": str(searched), "stage": stage}]}
    data = run_build(DataConfig.model_validate({**config, "near_duplicates": None}), tmp_path, llm=None)
    spec = load_spec(recorded)
    search_ids = {example.id for example in load_examples(spec, "search")}
    rows = [*data.train, *data.eval]
    assert rows
    assert {row.group for row in rows} <= search_ids
    label = "clue" if stage == "retrieve" else "gold"
    assert all(row.completion == row.fields[label] for row in rows)
    assert data.pairs
    golds = {row.group: row.fields[label] for row in rows}
    assert all(pair.chosen == golds[pair.group] != pair.rejected for pair in data.pairs)
    weights: dict[str, int] = {row.group: row.weight for row in rows}
    assert set(weights.values()) <= {1, 2, 3, 4}
    assert stage == "retrieve" or max(weights.values()) > 1, "the hard ones weigh more"
    with Store.read(searched) as store:
        run = store.run()
    assert all(run.run_id in row.source and "sample" in row.source for row in rows)


async def test_what_the_samples_of_a_run_cost(recorded: Path, searched: Path) -> None:
    """Every sample that rows may be made of counts, right or wrong, with each prompt once; parts add up."""
    spec = load_spec(recorded)
    stage, examples = spec.stage("retrieve"), load_examples(spec, "search")
    ids = {example.id for example in examples}
    lent = {example.id for example in examples[: len(examples) // 3]}
    with Store.read(searched) as store:
        run = store.run().run_id
        judged = await judged_prompts(store, run, spec, stage, only=lent)
        some, others, all_of_them = [
            await samples_cost(store, run, spec, stage, lent=part, n_left=len(ids) - len(part))
            for part in (lent, ids - lent, ids)
        ]
    samples = [one for prompt in judged for texts in (prompt.right, prompt.wrong) for one in texts.values()]
    assert some.samples == sum(map(len, samples))
    assert some.generated_tokens == sum(s.generated_tokens for of_text in samples for s, _ in of_text)
    assert (some.examples, some.examples_left) == (len(lent), len(ids) - len(lent))
    for name in ("samples", "prompt_tokens", "generated_tokens", "flops", "units"):
        added = getattr(some, name) + getattr(others, name)
        assert added == pytest.approx(getattr(all_of_them, name)), name
    assert some.flops
    reference = spec.budget.reference
    prefill = len(lent) * reference.prompt_tokens
    generated = some.flops / (2 * reference.active_params) - prefill
    assert some.units == pytest.approx(generated / reference.generated_tokens)
    assert f"of {len(lent)} of {len(ids)} search examples" in some.text


async def test_the_price_counts_a_prompt_once_for_each_request(recorded: Path, searched: Path) -> None:
    """Where a server draws one sample in a request, the prompt is billed with each of its samples."""
    spec = load_spec(recorded)
    price = Price(prompt_usd_per_million=1e6, generated_usd_per_million=0.0)  # a dollar for a prompt's token

    def priced(max_n: int | None) -> PipelineSpec:
        models = {
            name: model.model_copy(update={"price": price, "max_n": max_n})
            for name, model in spec.models.items()
        }
        return spec.model_copy(update={"models": models})

    stage, ids = spec.stage("retrieve"), [example.id for example in load_examples(spec, "search")]
    with Store.read(searched) as store:
        attach_spec_bank(spec, store)
        run = store.run().run_id
        at_once, one_by_one = [
            await samples_cost(store, run, priced(max_n), stage, lent=ids, n_left=0) for max_n in (None, 1)
        ]
    n_prompts = at_once.prompt_tokens / 16  # each prompt of the bank has 16 tokens
    assert at_once.samples > n_prompts > 0
    assert at_once.usd == pytest.approx(16 * n_prompts)
    assert one_by_one.usd == pytest.approx(16 * one_by_one.samples)
    assert (one_by_one.flops, one_by_one.prompt_tokens) == (at_once.flops, at_once.prompt_tokens)


def test_rows_of_a_stage_without_a_metric(recorded: Path, tmp_path: Path) -> None:
    """A stage in the middle: right is what led to a right end; others are compared with that."""
    text = recorded.read_text().replace("    metric: {kind: exact_match, label: clue}\n", "")
    for name in ("search.jsonl", "test.jsonl", "bank.parquet"):
        (tmp_path / name).write_bytes((recorded.parent / name).read_bytes())
    (tmp_path / "pipeline.yaml").write_text(text)
    search(tmp_path / "pipeline.yaml", budget=60, replay=True, db=tmp_path / "run.duckdb")
    config = {"out": "data", "sources": [{"kind": "run", "db": "run.duckdb", "stage": "retrieve"}]}
    data = run_build(DataConfig.model_validate({**config, "near_duplicates": None}), tmp_path, llm=None)
    rows = [*data.train, *data.eval]
    assert rows
    assert all(row.fields["output"] == row.completion for row in rows)
    clues = [row.completion == row.fields["clue"] for row in rows]
    assert sum(clues) > 0.5 * len(clues), "what leads to the right end is mostly the clue"


def test_what_all_rows_share_does_not_make_them_alike(tmp_path: Path) -> None:
    """A long list of tools in every row: questions are compared, and each stays."""
    tools = [f"tool number {n} that does a thing of its own kind" for n in range(60)]
    task = {
        "name": "pick",
        "instruction": "Pick the tool.",
        "inputs": {"question": "text", "tools": "list"},
        "metric": "exact_match",
    }
    (tmp_path / "subtasks.yaml").write_text(json.dumps({"domain": "tools", "subtasks": [task]}))
    for name, things in (("rows", THINGS), ("test", [SECRET, THINGS[0] + "."])):
        lines = [json.dumps({"question": thing, "tools": tools, "output": "x"}) + "\n" for thing in things]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    config = {
        "out": "data",
        "subtasks": "subtasks.yaml",
        "sources": [{"kind": "file", "task": "pick", "path": "rows.jsonl"}],
        "test": [{"task": "pick", "path": "test.jsonl"}],
    }
    data = run_build(DataConfig.model_validate(config), tmp_path, llm=None)
    assert len(data.train) + len(data.eval) == len(THINGS) - 1
    assert [(step, source.rsplit(":", 1)[1]) for step, _, source in reasons(data)] == [("leak", "1")]


def test_splits_of_several_tasks(tmp_path: Path) -> None:
    """One input is on one side in every task; a task with one input learns it; test rows that go are told."""
    texts = ["colour", "shade"]
    tasks = [
        {**YAML(typ="safe", pure=True).load(SUBTASKS)["subtasks"][0], "name": name, "languages": []}
        for name in texts
    ]
    (tmp_path / "subtasks.yaml").write_text(json.dumps({"domain": "colours", "subtasks": tasks}))
    rows = [{"thing": f"{thing} {n}", "output": "red"} for n in range(3) for thing in THINGS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad = [{"thing": "x", "output": "black"}, {"thing": SECRET, "output": "red"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*bad, bad[1]]))
    config = {
        "out": "data",
        "subtasks": "subtasks.yaml",
        "near_duplicates": None,
        "sources": [{"kind": "file", "task": name, "path": "rows.jsonl"} for name in texts],
        "test": [{"task": "shade", "path": "test.jsonl"}],
    }
    data = run_build(DataConfig.model_validate(config), tmp_path, llm=None)
    assert not {row.group for row in data.train} & {row.group for row in data.eval}
    assert {row.task for row in data.eval} == set(texts)
    assert len(data.test) == 1
    assert [step for step, _, _ in reasons(data)] == ["test", "test"]
    alone = [row for row in data.train if row.group == data.train[0].group]
    train, held = split_groups(alone, 0.9, 0)
    assert (len(train), held) == (2, [])
    assert [row.task for row in evenly(data.train, 4)] == ["colour", "shade"] * 2


def test_functions_of_ones_own(tmp_path: Path) -> None:
    """A metric beside the file of sub-tasks is found again when the dataset is read."""
    (tmp_path / "beauty.py").write_text(
        "def same(output, example):\n    return float(output == example['output'])\n"
    )
    config = write(tmp_path, [{"thing": thing, "output": "red"} for thing in THINGS])
    text = SUBTASKS.replace("metric: accuracy", "metric: {python: 'beauty:same'}")
    (tmp_path / "subtasks.yaml").write_text(text)
    built = run_build(config, tmp_path, llm=None)
    assert isinstance(load_dataset(tmp_path / "data").tasks["colour"].metric, PythonMetric)
    assert len(built.train) > 0


def test_a_run_without_the_stage(searched: Path, tmp_path: Path) -> None:
    """The stages there are, are named."""
    config = DataConfig.model_validate(
        {"out": "data", "sources": [{"kind": "run", "db": str(searched), "stage": "reflect"}]}
    )
    with pytest.raises(Exception, match=r"unknown stage 'reflect'; the stages are .*retrieve"):
        run_build(config, tmp_path, llm=None)


def test_the_command_tells_the_card(tmp_path: Path) -> None:
    """`--json` prints the card; without it a table."""
    config = write(
        tmp_path, [{"thing": "a ripe plum", "output": "blue"}, {"thing": "a leaf", "output": "green"}]
    )
    (tmp_path / "data.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    assert load_config(tmp_path / "data.yaml", DataConfig) == config
    done = agenttts("tune", "data", tmp_path / "data.yaml", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["rows"] == {"train": 1, "eval": 1, "test": 0, "preferences": 0}
