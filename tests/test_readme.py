"""What the README shows works as it is shown: the pipeline file, the commands and the Python lines."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import load_policy, load_spec
from pipelines.stages.plans import policy_problem
from tests.agenttts.commands import agenttts
from tests.public import assert_imports_are_public
from tests.servers import Request, ScriptedServer
from tests.servers.hosted import HostedServer, reading_answer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


TUNE = (
    *("tasks", "data", "fit", "eval", "merge", "push", "gguf", "serve"),
    *("prefer", "judge", "classifier", "verifier"),
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every `agenttts` command of the console blocks, without prompt, comment and redirections."""
    lines = [
        line for block in blocks("console") for line in block.splitlines() if line.startswith("$ agenttts")
    ]
    return [shlex.split(re.split(r"\s(?:#|<|>|&)", line.removeprefix("$ agenttts "))[0]) for line in lines]


def answer(request: Request, index: int) -> str:
    """The passage that names the colour, else the colour: right two times in three."""
    if "Copy the passages" in request.prompt:
        told = (line for line in request.prompt.splitlines() if " is " in line and "?" not in line)
        return next(told, "nothing")
    found = re.search(r"is (\w+)\.", request.prompt)
    return found[1] if found and index % 3 else "grey"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the README's pipeline.yaml, its data, and one server that plays both of its models."""
    (text,) = (block for block in blocks("yaml") if block.startswith("# pipeline.yaml"))
    assert len(text.splitlines()) < 40, "your own pipeline, in under 40 lines"
    for split, count in (("search", 30), ("test", 20)):
        rows = [
            {
                "question": f"What colour is the {split} ball {i}?",
                "passages": [f"The {split} ball {i} is {'red' if i % 2 else 'blue'}.", "Balls roll."],
                "answer": "red" if i % 2 else "blue",
            }
            for i in range(count)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "inputs.jsonl").write_text((tmp_path / "search.jsonl").read_text())
    (tmp_path / "pipeline.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[ScriptedServer]:
    text = (folder / "pipeline.yaml").read_text()
    with ScriptedServer({"Qwen/Qwen3-4B": 8192, "Qwen/Qwen3-32B": 8192}, answer=answer) as server:
        (folder / "pipeline.yaml").write_text(re.sub(r"http://127\.0\.0\.1:\d+/v1", server.base_url, text))
        yield server


def test_the_commands_of_your_own_pipeline_run_one_after_the_other(
    folder: Path, served: ScriptedServer
) -> None:
    """check, plan, search, report and run, as they stand in the README."""
    shown = [
        command for command in commands() if command[:2] != ["init", "mine"] and "pipeline.yaml" in command
    ]
    shown += [command for command in commands() if "run.duckdb" in command and command[0] == "report"]
    shown.sort(key=commands().index)
    assert [command[0] for command in shown] == ["check", "plan", "search", "report", "run"]
    for command in shown:
        done = agenttts(*command, stdin=(folder / "inputs.jsonl").read_text())
        assert done.code == 0, (command, done.err)
        last = done
    outputs = [json.loads(line) for line in last.out.splitlines()]
    assert len(outputs) == 30 and all(output["status"] == "ok" for output in outputs)
    assert (folder / "report.html").exists() and sum(served.samples.values()) > 0


def test_hosted_and_thinking_models_are_searched_as_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other models in place of the first: check and search, with the fields of each in its requests."""

    def thinking(request: Request, index: int) -> str:
        return f"<think>\nIt is grey. No, wait.\n</think>\n\n{answer(request, index)}"

    (models,) = (block for block in blocks("yaml") if block.startswith("# in place of the models above"))
    text = re.sub(r"^models:\n(  .*\n)+", models, (folder / "pipeline.yaml").read_text(), flags=re.MULTILINE)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hosted")
    hosted = HostedServer(reading_answer, model="gpt-5-mini", most_in=(100_000, 60.0))
    with hosted, ScriptedServer({"Qwen/Qwen3-32B": 40_960}, answer=thinking) as local:
        text = text.replace("https://api.openai.com/v1", hosted.base_url)
        (folder / "pipeline.yaml").write_text(text.replace("http://127.0.0.1:8002/v1", local.base_url))
        checked = agenttts("check", "pipeline.yaml")
        assert checked.code == 0, checked.err
        done = agenttts("search", "pipeline.yaml", "--trials", "3", "--db", "run.duckdb", "--json")
        assert done.code == 0, done.err
    trials = json.loads(done.out)["trials"]
    assert len(trials) >= 3 and all(t["n_missing"] == 0 and t["score"] > 0 for t in trials)
    sent = hosted.arrived[-1].body
    assert sent["reasoning_effort"] == "low" and sent["max_completion_tokens"] == 4096
    assert not {"temperature", "top_p", "max_tokens", "logprobs"} & set(sent)
    body = local.arrived[-1].body
    assert body["top_k"] == 20 and body["chat_template_kwargs"] == {"enable_thinking": True}
    assert body["temperature"] == 0.6 and body["max_tokens"] == 4096


def test_what_a_stage_chooses_from_is_searched_as_shown(folder: Path, served: ScriptedServer) -> None:
    """Variants, a prompt by file, lengths and a function in place of models and stages: check and search."""
    start = "models:  # in place of the models and stages"
    (part,) = (block for block in blocks("yaml") if block.startswith(start))
    whole = (folder / "pipeline.yaml").read_text()
    text = re.sub(r"^models:\n(.*\n)+(?=metric:)", part, whole, flags=re.MULTILINE)
    (folder / "pipeline.yaml").write_text(text.replace("http://127.0.0.1:8001/v1", served.base_url))
    (folder / "tools.py").write_text("def find(question, passages, top_k):\n    return passages[:top_k]\n")
    (folder / "steps.j2").write_text("{{ retrieve }} {{ question }} Think step by step.")
    spec = load_spec(folder / "pipeline.yaml")
    assert [str(option) for stage in spec.stages for option in stage.options] == [
        "few",
        "many",
        "small/think",
        "small/brief",
        "small/think:steps",
        "small/brief:steps",
    ]
    checked = agenttts("check", "pipeline.yaml")
    assert checked.code == 0, checked.err
    done = agenttts("search", "pipeline.yaml", "--trials", "3", "--db", "run.duckdb", "--json")
    assert done.code == 0, done.err
    thinks = {str(request.body["chat_template_kwargs"]) for request in served.arrived}
    assert len(thinks) == 2 and {request.max_tokens for request in served.arrived} == {64, 2048}


def test_the_python_lines_run(folder: Path, served: ScriptedServer) -> None:
    """search and load_run from Python."""
    (code,) = blocks("python")
    assert_imports_are_public(code)
    found: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), found)
    answers = found["answers"]
    assert isinstance(answers, list) and answers[0]["status"] == "ok"


def test_every_command_shown_exists_with_its_options() -> None:
    """No console block or table names a command or an option that is not there."""
    for command in commands():
        name = command[:2] if command[0] in ("bank", "tune") else command[:1]
        help_text = agenttts(*name, "--help").out
        assert help_text, command
        for option in (part for part in command if part.startswith("--")):
            assert option in help_text, command
    named = re.findall(r"^\| `agenttts ([a-z]+)", README, re.MULTILINE)
    assert set(named) == {
        "demo",
        "check",
        "plan",
        "search",
        "report",
        "run",
        "runs",
        "serve",
        "bank",
        "schema",
        "compare",
        "init",
        "improve",
        "tune",
        "ui",
    }
    search = agenttts("search", "--help").out
    helps = [agenttts(name, "--help").out for name in named]
    helps += [agenttts("tune", part, "--help").out for part in TUNE]
    helps.append(agenttts("--help").out)
    for option in re.findall(r"`(--[a-z-]+)", README):
        assert option in search or any(option in text for text in helps), option


def test_new_pipelines_are_written_as_shown(folder: Path) -> None:
    """A copy of a family, and one on rows at hand, each in a directory of its own."""
    (folder / "rows.jsonl").write_text((folder / "search.jsonl").read_text())
    shown = [command for command in commands() if command[0] == "init"]
    assert len(shown) == 2
    for command in shown:
        place = folder / command[2].strip("-")
        done = agenttts("init", str(place), *command[2:])
        assert done.code == 0, (command, done.err)
        assert load_spec(place / "pipeline.yaml").stages


def test_every_file_that_is_linked_is_there() -> None:
    """Links and pictures lead somewhere."""
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_policy_fits_the_pipeline_beside_it(folder: Path) -> None:
    """policy.yaml is read, and can be run on pipeline.yaml."""
    (text,) = (block for block in blocks("yaml") if block.startswith("# policy.yaml"))
    (folder / "policy.yaml").write_text(text)
    assert policy_problem(load_spec(folder / "pipeline.yaml"), load_policy(folder / "policy.yaml")) is None


def test_the_files_of_tuning_read_as_they_are_shown(tmp_path: Path) -> None:
    """data.yaml and fit.yaml of the README."""
    from agenttts.tasktune.data.build import DataConfig
    from agenttts.tasktune.fit import FitConfig
    from pipelines.spec.configfile import load_config

    for name, kind in (("data.yaml", DataConfig), ("fit.yaml", FitConfig)):
        (text,) = (block for block in blocks("yaml") if block.startswith(f"# {name}"))
        (tmp_path / name).write_text(text)
        assert load_config(tmp_path / name, kind).out  # type: ignore[attr-defined]
