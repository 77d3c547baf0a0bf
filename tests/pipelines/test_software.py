"""HumanEval, MBPP and SRDD: programs as models write them, official unit tests, ChatDev's measures."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agenttts.search.check import check
from agenttts.space.space import SearchSpace
from pipelines import Candidate, Example, StageChoice, load_spec
from pipelines.dataset.splits import load_splits, with_data
from pipelines.errors import ConfigurationError
from pipelines.software import confinement, embedding, rows, scoring
from pipelines.software.parsing import files, function
from pipelines.stages.prompts import Revision, render
from tests.real_data import need

pytestmark = pytest.mark.usefixtures("sandboxed")
FAMILY = Path(__file__).parents[2] / "pipelines/software"
TASK = {
    "task_id": "made/1",
    "prompt": 'LIMIT = 3\n\n\ndef double(n):\n    """Twice n.\n\n    >>> double(2)\n    4\n    """\n',
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(5) == 10\n    assert candidate(0) == 0\n",
}
MADE = Example("made/1", rows.humaneval(TASK))


@pytest.mark.parametrize("name", ["humaneval", "mbpp", "srdd"])
def test_the_published_setting_loads_at_its_unit_costs(name: str) -> None:
    """One sample of 70 B at each stage costs what the law of the budget says: 745, 558, 465."""
    spec = load_spec(FAMILY / f"{name}.yaml")
    space = SearchSpace(spec, spec.budget.units)
    units = [space.stage_units(stage.name, StageChoice("llama-70b", 1)) for stage in spec.stages]
    assert [round(u) for u in units] == [745, 558, 465]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("```python\ndef double(n):\n    return 2 * n\n```", 1.0),
        ("Here:\n```\ndef double(n):\n    return n + n\n", 1.0),
        ("    return 2 * n\n", 1.0),
        ("def double(n):\n    return 2 * n * (n < LIMIT or 1)", 1.0),
        ("def double(n):\n    return n ** 2", 0.0),
        ("def double(n):\n    while True: pass", 0.0),
        ("import sys\ndef double(n):\n    sys.exit(0)", 0.0),
        ("def double(n):\n    import os; os._exit(0)", 0.0),
        ("def double(n):\n    return answer", 0.0),
        ("double = lambda n: 2 * n", 1.0),
        ("    def double_all(ns):\n        return [2 * n for n in ns]\n    return double_all([n])[0]", 1.0),
        ("    double = 2 * n\n    return double\n", 1.0),
        ("double = 2 * n\nreturn double", 1.0),
    ],
)
def test_programs_pass_by_the_hidden_tests_alone(text: str, score: float) -> None:
    """Fences, lambdas and bare bodies are read; an early exit with code 0 does not count as passing."""
    assert scoring.passes(function(text, MADE), MADE) == score


@pytest.mark.parametrize(
    "text",
    ["", "I would double it.", "```python\ndef double(n:\n```", "    def double(n):\n        return 2 * n"],
)
def test_what_is_no_python_has_no_vote(text: str) -> None:
    """Nor is it scored."""
    with pytest.raises(ValueError):
        function(text, MADE)
    assert scoring.passes(None, MADE) == 0.0


def test_feedback_comes_from_what_the_task_shows() -> None:
    """The examples of the docstring, never the hidden tests: code that only fails those gets none."""
    assert scoring.shown_examples("def double(n):\n    return 2 * n", MADE) is None
    assert scoring.shown_examples("def double(n):\n    return 4", MADE) is None
    told = scoring.shown_examples("def double(n):\n    return n", MADE)
    assert told is not None and "Expected" in told and "candidate" not in told
    assert scoring.shown_score(Candidate(0, "", "def double(n):\n    return n"), MADE, {}) == 0.0
    row = {
        "task_id": 7,
        "text": "Write add.",
        "test_list": ["assert add(1, 2) == 3", "assert add(0, 9) == 9"],
    }
    made = Example("7", rows.mbpp(row))
    assert "add(0, 9)" not in made["shown"]
    assert scoring.shown_examples("def add(a, b):\n    return 3", made) is None
    assert scoring.passes("def add(a, b):\n    return 3", made) == 0.0
    assert scoring.passes("def add(a, b):\n    return a + b", made) == 1.0


@pytest.mark.parametrize(
    ("prepare", "row", "said"),
    [
        (rows.humaneval, {**TASK, "entry_point": "triple"}, "defines 'triple'"),
        (rows.humaneval, {**TASK, "test": ""}, "defines check"),
        (rows.mbpp, {"task_id": 1, "text": "x", "test_list": []}, "0 tests"),
        (rows.srdd, {"Name": "x", "Description": " "}, "a name and a description"),
    ],
)
def test_bad_rows_say_why(prepare: Any, row: dict[str, Any], said: str) -> None:
    """A row that can't be asked or scored is refused with its reason."""
    with pytest.raises(ValueError, match=said):
        prepare(row)


SOFTWARE = """Two files.

main.py
```python
import game
# TODO-free
game.play()
```

game.py
```python
def play():
    '''Maze game: a player walks through a maze.'''
    print("maze player")
```
"""
TASKED = Example("s", {"task": "A maze game: the player walks through a maze."})


def test_files_are_read_under_their_names() -> None:
    """One fence without a name is main.py; names do not leave the directory; cut fences are read."""
    assert sorted(files(SOFTWARE, TASKED)) == ["game.py", "main.py"]
    assert files("```python\nx = 1\n```", TASKED) == {"main.py": "x = 1\n"}
    assert list(files("../../evil.py\n```python\nx = 1\n```", TASKED)) == ["main.py"]
    assert list(files("app.py\n```python\nx = 1\n", TASKED)) == ["main.py"]
    with pytest.raises(ValueError, match="not Python"):
        files("main.py\n```python\ndef (:\n```", TASKED)


def test_chatdev_measures_follow_their_definitions() -> None:
    """Placeholders, tracebacks and likeness; quality is the product, and 0 for no code."""
    clean = {"main.py": "print('maze player walks')\n"}
    made = files(SOFTWARE, TASKED)
    assert scoring.completeness(clean, TASKED) == 1.0 and scoring.completeness(made, TASKED) == 0.0
    assert scoring.completeness({"main.py": "password = 1\ncompass = 2\n"}, TASKED) == 0.0
    assert scoring.completeness({"main.py": "password = 1\npassenger = 2\n"}, TASKED) == 1.0
    assert scoring.executability(made, TASKED) == 1.0 and scoring.executability({"a.py": ""}, TASKED) == 0.0
    assert scoring.executability({"main.py": "import absent"}, TASKED) == 0.0
    assert scoring.executability({"main.py": "while True: pass"}, TASKED) == 1.0  # it still runs
    assert scoring.executability({"main.py": "raise SystemExit"}, TASKED) == 1.0
    told = scoring.traceback_of({"main.py": "import absent"}, TASKED)
    assert told is not None and "No module named 'absent'" in told
    assert scoring.traceback_of(clean, TASKED) is None
    likeness = scoring.consistency(clean, TASKED)
    assert 0.3 < likeness < 1 and scoring.consistency({"main.py": "x = 1"}, TASKED) == 0.0
    assert scoring.quality(clean, TASKED) == likeness and scoring.quality(made, TASKED) == 0.0
    assert scoring.quality(None, TASKED) == 0.0


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("raise SystemExit(1)", "ended with exit code 1"),
        ("raise SystemExit('no display')", "no display"),
        ("import os\nos._exit(7)", "ended with exit code 7"),
        ("import os\nos.abort()", "ended with exit code"),
        ("import ctypes\nctypes.string_at(0)", "ended with exit code"),
        ("import sys\nsys.stderr.close()\nraise ValueError", "lost sys.stderr"),
        ("import sys\nsys.excepthook = lambda *why: None\nraise ValueError", "ended with exit code 1"),
        ("import sys\nsys.settrace(lambda *step: exit(3))\nprint((lambda: 1)())", "ended with exit code 3"),
        ("x = bytearray(1 << 40)", "MemoryError"),
        ("while True: print('x' * 999)", "limit on output"),
    ],
)
def test_software_that_fails_is_not_executable(program: str, words: str) -> None:
    """Whatever it writes or keeps to itself: exit code 0, or running on, counts; the feedback says why."""
    draft = {"main.py": program}
    assert scoring.executability(draft, TASKED) == 0.0 and scoring.quality(draft, TASKED) == 0.0
    assert scoring.runs_score(Candidate(0, "", draft), TASKED, {}) == 1.0  # it is complete
    assert words in str(scoring.traceback_of(draft, TASKED))


def test_an_embedding_server_that_is_named_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops the run instead of scoring 0; the error names the variable."""
    monkeypatch.setenv("AGENTTTS_EMBEDDING_BASE_URL", "http://127.0.0.1:9/v1")
    embedding.embedded.cache_clear()
    with pytest.raises(ConfigurationError, match="AGENTTTS_EMBEDDING_BASE_URL: no embedding"):
        scoring.consistency({"main.py": "x = 1"}, TASKED)
    embedding.embedded.cache_clear()


def perturbed(solution: str) -> Iterator[str]:
    """A solution as models write it: right, a comparison turned, a number off."""
    yield solution
    yield solution.replace("<", ">", 1) if "<" in solution else solution.replace("==", "!=", 1)
    yield solution.replace("1", "2", 1)


def official(row: dict[str, Any], completion: str) -> float:
    """human-eval's check_correctness: prompt, completion, test and check(entry_point) run without a fault."""
    program = f"{row['prompt']}{completion}\n{row['test']}\ncheck({row['entry_point']})"
    try:
        done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=10)
    except subprocess.TimeoutExpired:
        return 0.0
    return float(done.returncode == 0)


def test_pass_at_1_is_that_of_the_official_check_on_perturbed_solutions() -> None:
    """204 programs made of HumanEval's own solutions score as the official check scores them."""
    lines = gzip.decompress(need("code/HumanEval.jsonl.gz").read_bytes()).decode().splitlines()[:68]
    cases = [(row, text) for row in map(json.loads, lines) for text in perturbed(row["canonical_solution"])]

    def both(case: tuple[dict[str, Any], str]) -> tuple[float, float]:
        row, text = case
        made = Example(row["task_id"], rows.humaneval(row))
        whole = function(f"```python\n{row['prompt']}{text}\n```", made)
        return scoring.passes(whole, made), official(row, text)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(both, cases))
    assert len(found) == 204 and all(ours == theirs for ours, theirs in found)
    assert 68 <= sum(theirs for _, theirs in found) < 160


def test_real_rows_load_and_render() -> None:
    """Every HumanEval and SRDD row is an example whose stages render, with and without a draft."""
    human = with_data(load_spec(FAMILY / "humaneval.yaml"), need("code/HumanEval.jsonl.gz"))
    splits = load_splits(human)
    assert (len(splits.search), len(splits.test), splits.left_out) == (64, 100, ())
    soft = with_data(load_spec(FAMILY / "srdd.yaml"), need("code/srdd.csv"), 200, 900)
    with need("code/srdd.csv").open(newline="", encoding="utf-8") as file:
        assert sum(1 for _ in csv.reader(file)) == 1201
    both = load_splits(soft)
    assert len(both.test) == 900
    for spec, made, draft in (
        (human, splits.search[0], "x = 1"),
        (soft, both.search[0], {"main.py": "x = 1"}),
    ):
        for stage in spec.stages:
            for value in (draft, None):
                outputs = {"code": value, "review": value}
                text = render(stage, made, outputs, Revision(value, "told"))["messages"][0]["content"]
                assert made["task"][:200] in text and (
                    value is None or stage.name == "code" or "x = 1" in text
                )


async def test_a_missing_sandbox_is_found_before_anything_is_paid_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`agenttts check` says so, once, as an error; nothing else about the spec is wrong."""
    monkeypatch.setattr(confinement, "best_of", lambda kind, is_watched: None)
    monkeypatch.delenv(confinement.UNSANDBOXED, raising=False)
    spec = with_data(load_spec(FAMILY / "humaneval.yaml"), need("code/HumanEval.jsonl.gz"))
    errors = [finding for finding in await check(spec) if finding.severity == "error"]
    assert len(errors) == 1 and "install bubblewrap" in errors[0].message


async def test_a_check_says_which_limit_this_machine_keeps_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, as a warning with the function and the remedy; where a limit can't be kept it is an error."""
    spec = with_data(load_spec(FAMILY / "humaneval.yaml"), need("code/HumanEval.jsonl.gz"))
    monkeypatch.delenv(confinement.WATCHED, raising=False)
    alone = confinement.Confinement(kind="unshare", is_filtered=True)
    monkeypatch.setattr(confinement, "best_of", lambda kind, is_watched: alone)
    told = [str(finding) for finding in await check(spec) if "cgroup" in finding.message]
    assert len(told) == 1 and told[0].startswith("warning: pipelines.software.scoring:shown_score: ")
    assert "can start threads but no processes" in told[0] and "or set AGENTTTS_WATCHED=1" in told[0]
    leaky = confinement.Confinement(kind="bwrap", is_filtered=True)
    monkeypatch.setattr(
        confinement, "best_of", lambda kind, is_watched: replace(leaky, is_watched=is_watched)
    )
    errors = [finding for finding in await check(spec) if finding.severity == "error"]
    assert len(errors) == 1 and "the limit on the memory of programs can't be kept" in errors[0].message
    monkeypatch.setenv(confinement.WATCHED, "1")
    told = [str(finding) for finding in await check(spec) if "AGENTTTS_WATCHED" in finding.message]
    assert len(told) == 1 and told[0].startswith("warning: ") and "not kept by the kernel" in told[0]
