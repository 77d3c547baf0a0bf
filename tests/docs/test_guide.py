"""What README and the guide show works as it is shown: pipeline files, commands and Python lines."""

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
from tests.docs.pages import block, blocks
from tests.servers import Request, ScriptedServer
from tests.servers.hosted import HostedServer, reading_answer

OWN = "docs/guide/own-pipeline.md"


def answer(request: Request, index: int) -> str:
    """The passage that names the colour, else the colour: right two times in three."""
    if "Copy the passages" in request.prompt or "List what is certain" in request.prompt:
        told = (line for line in request.prompt.splitlines() if " is " in line and "?" not in line)
        return next((line for line in told if "ball" in line), "nothing")
    colour = re.search(r"is (\w+)\.", request.prompt)
    return colour[1] if colour and index % 3 else "grey"


def commands(page: str) -> list[list[str]]:
    """The `agenttts` commands of a page, without redirections."""
    lines = [line for block in blocks(page, "console") for line in block.commands]
    return [shlex.split(re.split(r"\s[<>&]", line)[0])[1:] for line in lines if line.startswith("agenttts ")]


def rows(split: str, count: int) -> str:
    return "".join(
        json.dumps(
            {
                "question": f"What colour is the {split} ball {i}?",
                "passages": [f"The {split} ball {i} is {'red' if i % 2 else 'blue'}.", "Balls roll."],
                "answer": "red" if i % 2 else "blue",
            }
        )
        + "\n"
        for i in range(count)
    )


def replace_parts(text: str, part: str) -> str:
    """The pipeline file with each top-level key of a part in place of its own."""
    for key, lines in re.findall(r"^(\w+):(.*\n(?:[ #-].*\n|\n)*)", part, re.MULTILINE):
        own = re.compile(rf"^{key}:.*\n(?:[ #-].*\n|\n)*", re.MULTILINE)
        assert own.search(text), key
        text = own.sub(lambda _, key=key, lines=lines: f"{key}:{lines}", text)  # type: ignore[misc]
    return text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the guide's pipeline.yaml and its data."""
    text = block(OWN, "pipeline.yaml")
    assert len(text.splitlines()) < 40, "your own pipeline, in under 40 lines"
    (tmp_path / "search.jsonl").write_text(rows("search", 30))
    (tmp_path / "test.jsonl").write_text(rows("test", 20))
    (tmp_path / "inputs.jsonl").write_text(rows("search", 30))
    (tmp_path / "rows.jsonl").write_text(rows("search", 30))
    (tmp_path / "pipeline.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[ScriptedServer]:
    """One server that plays both models of pipeline.yaml, which names its address."""
    with ScriptedServer({"Qwen/Qwen3-4B": 8192, "Qwen/Qwen3-32B": 8192}, answer=answer) as server:
        rewrite(folder, lambda text: re.sub(r"http://127\.0\.0\.1:\d+/v1", server.base_url, text))
        yield server


def rewrite(folder: Path, change: object) -> None:
    file = folder / "pipeline.yaml"
    file.write_text(change(file.read_text()))  # type: ignore[operator]


def test_your_own_pipeline_from_check_to_a_failing_example(
    folder: Path, served: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """check, plan, search, report and run, then the Python lines, as they stand on the page."""
    shown = [command for command in commands(OWN) if command[0] not in ("init", "ui")]
    assert [command[0] for command in shown] == ["check", "plan", "search", "report", "run"]
    for command in shown:
        done = agenttts(*command, stdin=(folder / "inputs.jsonl").read_text())
        assert done.code == 0, (command, done.err)
    outputs = [json.loads(line) for line in done.out.splitlines()]
    assert len(outputs) == 30 and all(output["status"] == "ok" for output in outputs)
    assert (folder / "report.html").exists() and sum(served.samples.values()) > 0
    why, from_python = (block.text for block in blocks(OWN, "python"))
    exec(compile(why, OWN, "exec"), {})
    assert "expected blue got" in (printed := capsys.readouterr().out) and "retrieve" in printed
    names: dict[str, object] = {}
    exec(compile(from_python, OWN, "exec"), names)
    answers = names["answers"]
    assert isinstance(answers, list) and answers[0]["status"] == "ok"


def test_the_python_lines_of_readme_and_certificate_run(folder: Path, served: ScriptedServer) -> None:
    """A search, then what its certificate rests on."""
    for page in ("README.md", "docs/guide/certificate.md"):
        (code,) = blocks(page, "python")
        exec(compile(code.text, page, "exec"), {})


def test_hosted_and_thinking_models_are_searched_as_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other models in place of the first: check and search, with the fields of each in its requests."""

    def thinking(request: Request, index: int) -> str:
        return f"<think>\nIt is grey. No, wait.\n</think>\n\n{answer(request, index)}"

    models = block("docs/guide/hosted-models.md", "in place of the models")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hosted")
    hosted = HostedServer(reading_answer, model="gpt-5-mini", most_in=(100_000, 60.0))
    with hosted, ScriptedServer({"Qwen/Qwen3-32B": 40_960}, answer=thinking) as local:
        models = models.replace("https://api.openai.com/v1", hosted.base_url)
        models = models.replace("http://127.0.0.1:8002/v1", local.base_url)
        rewrite(folder, lambda text: replace_parts(text, models))
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


def test_a_thinking_models_variants_are_choices(folder: Path, served: ScriptedServer) -> None:
    """Four models of two served ones, with the lengths of two stated, pass the check."""
    page = "docs/guide/thinking-models.md"
    models = re.sub(r"http://\S+/v1", served.base_url, block(page, "in place of the models"))
    lengths = block(page, "further fields of a stage").splitlines()[1]
    rewrite(
        folder,
        lambda text: replace_parts(text, models).replace(
            "    generated_tokens: 32", f"    generated_tokens: 32\n    {lengths}"
        ),
    )
    options = [str(option) for option in load_spec(folder / "pipeline.yaml").stages[1].options]
    assert options == ["small/think", "small/brief", "large/low", "large/high"]
    checked = agenttts("check", "pipeline.yaml")
    assert "exceeds" not in checked.err, checked.err


def test_functions_prompts_and_variants_are_searched_as_shown(folder: Path, served: ScriptedServer) -> None:
    """Variants, a prompt by file, lengths and a function in place of models and stages: check and search."""
    page = "docs/guide/functions.md"
    part = block(page, "in place of the models and stages").replace(
        "http://127.0.0.1:8001/v1", served.base_url
    )
    rewrite(folder, lambda text: replace_parts(text, part))
    plain, costed = (block.text for block in blocks(page, "python"))
    (folder / "steps.j2").write_text("{{ retrieve }} {{ question }} Think step by step.")
    (folder / "tools.py").write_text(plain)
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
    names: dict[str, object] = {}
    exec(compile(costed, page, "exec"), names)
    assert names["find"]("q", ["a", "b"], 1).flops == 2e6  # type: ignore[operator]


def test_a_graph_of_stages_is_searched_as_shown(folder: Path, served: ScriptedServer) -> None:
    """The diamond in place of the stages: check and search, without a missing value."""
    rewrite(folder, lambda text: replace_parts(text, block("docs/guide/dag.md", "in place of the stages")))
    for command in commands("docs/guide/dag.md"):
        done = agenttts(*command, *(["--trials", "3", "--json"] if command[0] == "search" else []))
        assert done.code == 0, (command, done.err)
    assert all(trial["n_missing"] == 0 for trial in json.loads(done.out)["trials"])


def test_new_pipelines_are_written_as_shown(folder: Path, served: ScriptedServer) -> None:
    """A copy of a family, and one on rows at hand whose check and search pass as README shows them."""
    shown = {
        tuple(command)
        for page in ("README.md", OWN, "docs/guide/ready-made.md")
        for command in commands(page)
    }
    made = sorted(command for command in shown if command[0] == "init")
    assert len(made) == 2
    for number, command in enumerate(made):
        flags = [word.replace("http://127.0.0.1:8001/v1", served.base_url) for word in command[2:]]
        done = agenttts("init", f"made-{number}", *flags)
        assert done.code == 0, (command, done.err)
        assert load_spec(folder / f"made-{number}/pipeline.yaml").stages


def test_the_policy_fits_the_pipeline_beside_it(folder: Path) -> None:
    """policy.yaml is read, and can be run on pipeline.yaml."""
    (folder / "policy.yaml").write_text(block("docs/guide/policies.md", "policy.yaml"))
    assert policy_problem(load_spec(folder / "pipeline.yaml"), load_policy(folder / "policy.yaml")) is None
