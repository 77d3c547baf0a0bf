"""`agenttts run` as a stream: rows in, answers out in order, whatever a row is and however the run ends."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.agenttts.commands import agenttts
from tests.agenttts.small_specs import write_pipeline
from tests.servers import ScriptedServer

ROOT = Path(__file__).parents[3]
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def command(tmp_path: Path, server: ScriptedServer) -> list[str]:
    """`run` of an allocation on the scripted server."""
    spec, file = write_pipeline(tmp_path, server.base_url), tmp_path / "allocation.json"
    file.write_text(json.dumps({s: {"model": "small", "n_samples": 1} for s in ("retrieve", "answer")}))
    return ["run", str(spec), "--allocation", str(file), "--db", str(tmp_path / "r.duckdb")]


def lines(*rows: object) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def questions(first: int, end: int) -> str:
    return lines(*({"id": f"q{i}", "question": f"question {i}"} for i in range(first, end)))


def answers(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`start(command)` runs the program; what still runs at the end of the test is killed."""
    begun: list[subprocess.Popen[bytes]] = []

    def make(command: Sequence[str], stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "agenttts", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
        begun.append(process)
        return process

    yield make
    for process in begun:
        process.kill()
        process.wait()
        for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
            with suppress(BrokenPipeError):
                pipe.close()


def give(process: subprocess.Popen[bytes], text: str, *, close: bool = True) -> None:
    """Write to a process's stdin."""
    assert process.stdin is not None
    process.stdin.write(text.encode())
    process.stdin.flush()
    if close:
        process.stdin.close()


def read_line(process: subprocess.Popen[bytes], within_s: float = 60) -> bytes:
    """The next line that a process writes, read byte by byte, so that none is taken too much."""
    assert process.stdout is not None
    line, until = b"", time.monotonic() + within_s
    while not line.endswith(b"\n"):
        assert select.select([process.stdout], [], [], max(0, until - time.monotonic()))[0], line
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, (line, process.stderr and process.stderr.read())
        line += byte
    return line


def test_what_a_function_prints_goes_to_stderr(
    start: Start, command: list[str], server: ScriptedServer, tmp_path: Path
) -> None:
    """Stdout has the answers alone, and of a search the JSON alone."""
    (tmp_path / "loud.py").write_text(
        "print('imported')\ndef read(text, example):\n    print('{\"noise\": 1}')\n    return text\n"
        "def score(output, example):\n    print('scored')\n    return 1.0\n"
    )
    spec = tmp_path / "pipeline.yaml"
    text = re.sub(r"metric: .*", 'metric: {python: "loud:score"}', spec.read_text())
    spec.write_text(
        text.replace("  - name: answer\n", '  - name: answer\n    parser: {python: "loud:read"}\n')
    )
    assert "loud:read" in spec.read_text()
    process = start(command)
    out, err = process.communicate(questions(0, 8).encode(), timeout=100)
    assert [answer["id"] for answer in answers(out.decode())] == [f"q{i}" for i in range(8)], err
    assert b"imported" in err and err.count(b"noise") >= 8
    process = start(["search", str(spec), "--trials", "2", "--db", str(tmp_path / "s.duckdb"), "--json"])
    out, err = process.communicate(timeout=100)
    assert json.loads(out)["best"] and b"scored" in err


BAD = {
    "not JSON": "{",
    "a list": "[1]",
    "a number of 5,000 digits": "1" * 5000,
    "nested too deep": "[" * 100_000,
    "a field nested too deep": '{"question": ' + "[" * 900 + "]" * 900 + "}",
    "a field missing": '{"other": 1}',
    "a field that is null": '{"question": null}',
    "a key twice": '{"question": "a", "question": "b"}',
    "half a character": '{"question": "\\ud800"}',
}


@pytest.mark.parametrize("case", BAD)
def test_a_row_that_is_wrong_has_a_line_of_error(command: list[str], case: str) -> None:
    """It names the line, the rows around it have their answers, and the exit code is 1."""
    done = agenttts(*command, stdin=lines({"question": "a"}, "", BAD[case], {"question": "b"}))
    assert done.code == 1 and "1 of 3 inputs have no output" in done.err and "Traceback" not in done.err
    rows = answers(done.out)
    assert [(a["id"], a["status"]) for a in rows] == [("1", "ok"), ("2", "error"), ("3", "ok")]
    assert "stdin:3: " in rows[1]["reason"] and "\n" not in rows[1]["reason"]


def test_bytes_that_are_no_text_are_one_rows_fault(start: Start, command: list[str]) -> None:
    """A line that is not UTF-8 is told like one that is not JSON."""
    process = start(command)
    out, err = process.communicate(b'{"question": "a"}\n{"question": "\xff"}\n')
    assert process.returncode == 1 and b"Traceback" not in err
    assert [a["status"] for a in answers(out.decode())] == ["ok", "error"]


def test_a_template_that_fails_on_a_row_is_that_rows_fault(command: list[str], tmp_path: Path) -> None:
    """A value of the wrong type, which the prompt can't be made of."""
    spec = Path(command[1])
    spec.write_text(spec.read_text().replace("find {{ question }}", "find {{ question + 'x' }}"))
    done = agenttts(*command, stdin=lines({"question": "a"}, {"question": 3}, {"question": "b"}))
    assert done.code == 1 and [a["status"] for a in answers(done.out)] == ["ok", "error", "ok"]
    assert (
        "stages[retrieve]" in answers(done.out)[1]["reason"] or "retrieve" in answers(done.out)[1]["reason"]
    )


def test_a_sample_that_nobody_recorded_is_that_rows_fault(command: list[str]) -> None:
    """In a replay, rows that the bank answers have their answers."""
    agenttts(*command, stdin=questions(0, 2))
    done = agenttts(*command, "--replay", stdin=questions(0, 3))
    assert done.code == 1 and [a["status"] for a in answers(done.out)] == ["ok", "ok", "error"]


def test_ids_are_the_rows_own(command: list[str], server: ScriptedServer) -> None:
    """Of the dataset's id field, else of `id`; a row without one has its number."""
    rows = [
        {"id": "x", "question": "a"},
        {"id": 7, "question": "b"},
        {"question": "c"},
        {"id": "x", "other": 1},
    ]
    done = agenttts(*command, stdin=lines(*rows))
    assert [a["id"] for a in answers(done.out)] == ["x", 7, "3", "x"]
    spec = Path(command[1])
    spec.write_text(spec.read_text().replace("test.jsonl}", "test.jsonl, id_field: key}"))
    rows = [{"id": "x", "key": "k", "question": "a"}, {"key": [1], "question": "b"}]
    done = agenttts(*command, stdin=lines(*rows))
    assert [a["id"] for a in answers(done.out)] == ["k", "2"]
    assert "the id field 'key' must be text or an integer" in answers(done.out)[1]["reason"]


def test_an_answer_is_written_while_the_input_waits(start: Start, command: list[str]) -> None:
    """Each comes before the next row is there."""
    process = start(command)
    for i in range(3):
        give(process, questions(i, i + 1), close=False)
        assert json.loads(read_line(process))["id"] == f"q{i}"
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")


def test_the_order_is_that_of_the_rows_within_the_window(
    start: Start, command: list[str], server: ScriptedServer
) -> None:
    """A slow row holds back those after it, of which no more than the window are begun."""
    server.fault = lambda request: "hang" if "question 1" in request.prompt else None
    process = start([*command, "--window", "5"])
    give(process, questions(0, 1), close=False)
    read_line(process)
    give(process, questions(1, 100))
    until = time.monotonic() + 60
    while len(server.samples) < 10 and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)
    assert len(server.samples) == 10, "two stages of five rows"


def test_a_reader_that_goes_away_ends_it_quietly(
    start: Start, command: list[str], server: ScriptedServer
) -> None:
    """`| head -n 2`: nothing on stderr."""
    process = start(command)
    assert process.stdout is not None and process.stderr is not None
    give(process, questions(0, 2), close=False)
    read_line(process), read_line(process)
    process.stdout.close()
    give(process, questions(2, 400))
    assert process.stderr.read() == b""
    assert process.wait(60) == 1


def test_a_stopped_run_ends_in_order(start: Start, command: list[str]) -> None:
    """Ctrl-C and SIGTERM while the input waits: exit codes 130 and 143, and no traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(command)
        give(process, questions(0, 1), close=False)
        read_line(process)
        process.send_signal(number)
        out, err = process.communicate()
        assert (process.returncode, out, err) == (128 + number, b"", b"")


def test_a_killed_run_goes_on_after_the_last_whole_line(
    start: Start, command: list[str], server: ScriptedServer, tmp_path: Path
) -> None:
    """The same command with --out and --resume, from nothing on: each row is answered and paid for once."""
    out = tmp_path / "out.jsonl"
    resumed = [*command, "--out", str(out), "--resume", "--window", "8"]
    stdin = lines({"other": 1}) + questions(1, 60)
    server.latency_s = 0.02
    for least in (3, 20):
        process = start(resumed)
        give(process, stdin)
        until = time.monotonic() + 60
        while not (out.exists() and out.read_bytes().count(b"\n") >= least) and time.monotonic() < until:
            time.sleep(0.005)
        process.kill()
        process.wait()
        with out.open("ab") as file:
            file.write(b'{"id": "q')
    done = agenttts(*resumed, stdin=stdin)
    assert done.code == 1 and not done.out and "1 of 60 inputs have no output" in done.err
    rows = answers(out.read_text())
    assert [a["id"] for a in rows] == ["1", *(f"q{i}" for i in range(1, 60))]
    assert max(server.samples.values()) <= 2, "those in flight at a kill are drawn again, and no others"
    before = out.read_bytes()
    assert agenttts(*resumed, stdin=stdin).code == 1 and out.read_bytes() == before


def test_a_file_of_other_answers_is_left_alone(command: list[str], tmp_path: Path) -> None:
    """One line of error, exit code 2, and not a byte changed."""
    out = tmp_path / "out.jsonl"
    cases = [
        (questions(0, 1), [], "has answers already; --resume goes on after them"),
        (
            lines({"id": "other", "status": "ok"}),
            ["--resume"],
            "1: the answer to 'other', but the input there has 'q0'",
        ),
        (questions(0, 1) + lines("{"), ["--resume"], "1: not an answer"),
        (
            lines(*({"id": f"q{i}", "status": "ok"} for i in range(3))),
            ["--resume"],
            "3: the answer to 'q2', but there is no",
        ),
    ]
    for content, more, problem in cases:
        out.write_text(content)
        done = agenttts(*command, "--out", out, *more, stdin=questions(0, 2))
        assert done.code == 2 and len(done.errors) == 1 and problem in done.errors[0], done.err
        assert out.read_text() == content
    done = agenttts(*command, "--resume", stdin=questions(0, 2))
    assert done.code == 2 and "give --out FILE too" in done.errors[0]
    done = agenttts(*command, "--out", tmp_path / "none" / "out.jsonl", stdin=questions(0, 2))
    assert done.code == 2 and "can't be written: No such file or directory" in done.errors[0]


def test_a_full_disk_is_one_line(start: Start, command: list[str]) -> None:
    """Where stdout can't take an answer, the exit code is 2."""
    with open("/dev/full", "wb") as full:
        process = start(command, stdout=full.fileno())
        _, err = process.communicate(questions(0, 3).encode())
    assert process.returncode == 2
    assert (
        err.decode().startswith("error: stdout: can't be written: No space left on device")
        and err.count(b"\n") == 1
    )


def test_answers_go_into_a_pipe_that_is_named(start: Start, command: list[str]) -> None:
    """`--out /dev/stdout` too; there is nothing to go on with there, so that --resume is refused."""
    process = start([*command, "--out", "/dev/stdout"])
    out, err = process.communicate(questions(0, 3).encode())
    assert (process.returncode, err) == (0, b"") and len(answers(out.decode())) == 3
    process = start([*command, "--out", "/dev/stdout", "--resume"])
    _, err = process.communicate(questions(0, 3).encode(), timeout=60)
    assert process.returncode == 2 and b"--resume has nothing to go on with" in err and err.count(b"\n") == 1
