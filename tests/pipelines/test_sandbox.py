"""Hostile programs in the sandbox: contained, reported, nothing left behind; without one nothing is run."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.software import sandbox
from pipelines.software.processes import Limits
from pipelines.software.sandbox import UNSANDBOXED, SandboxUnavailable, run, run_pair
from tests.hostile import HOSTILE, as_files

KINDS = [kind for kind in ("bwrap", "unshare") if shutil.which(kind) and sandbox._works(kind)]
LIMITS = Limits(seconds=5, memory_mb=256, scratch_mb=16)


@pytest.fixture(params=KINDS or ["none"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "none":
        pytest.skip("neither bubblewrap nor user namespaces work here")
    monkeypatch.setattr(sandbox, "mechanism", lambda: request.param)
    sandbox._run.cache_clear()
    yield str(request.param)
    sandbox._run.cache_clear()


def left_behind() -> list[str]:
    """Processes of sandboxed programs, and their directories."""
    found = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("agenttts-sandbox-")]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", pid, "cmdline").read_text().split("\0")  # a zombie has none
        except OSError:
            continue
        if words[-2:-1] == ["main.py"] and "-B" in words:
            found.append(" ".join(words))
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_are_contained(kind: str, name: str) -> None:
    """Each ends by itself or by a limit, reached nothing outside, and left neither process nor file."""
    program, statuses, said = HOSTILE[name]
    found = run(as_files(program), limits=LIMITS)
    assert found.status in statuses, found
    assert said in found.stdout + found.stderr and "ESCAPED" not in found.stdout
    assert len(found.stdout) + len(found.stderr) <= 2 * LIMITS.output_kb * 1024
    assert left_behind() == []


def test_files_are_run_where_they_are(kind: str) -> None:
    """Modules are found, output and exit codes told; paths outside the directory are refused."""
    files = (
        ("main.py", "import lib.part\nprint(lib.part.VALUE, 'é')\nraise SystemExit(3)"),
        ("lib/part.py", "VALUE = 7"),
    )
    found = run(files)
    assert (found.status, found.exit_code, found.stdout) == ("failed", 3, "7 é\n")
    with pytest.raises(ValueError, match=r"stays in its directory, got '\.\./x'"):
        run((("../x", ""),))


def test_programs_do_not_keep_each_other_from_running(kind: str) -> None:
    """One with as many processes as it may have leaves others theirs."""
    greedy = "import os, time\ntry:\n    while os.fork(): pass\nexcept OSError: pass\ntime.sleep(9)"
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(run, as_files(greedy), limits=Limits(seconds=4))
        time.sleep(1)
        others = [run(as_files(f"import os\nif os.fork(): print({n})")).stdout for n in range(4)]
        assert others == [f"{n}\n" for n in range(4)]
        assert first.result().status == "timeout"


def test_two_programs_reach_each_other_by_their_pipes_alone(kind: str) -> None:
    """Each reads what the other writes, sees no process and no file of it, and ends when the first ends."""
    look = "seen = (len([p for p in os.listdir('/proc') if p.isdigit()]) < 8, sorted(os.listdir('.')))\n"
    first = f"import os, sys\n{look}print('ping', flush=True)\nprint(seen, input(), file=sys.stderr)"
    second = f"import os, time\n{look}print(seen, input(), flush=True)\ntime.sleep(60)"
    asked, answered = run_pair(
        (*as_files(first), ("secret", "")), (*as_files(second), ("mine", "")), limits=LIMITS
    )
    assert asked.stderr == "(True, ['main.py', 'secret']) (True, ['main.py', 'mine']) ping\n"
    assert asked.status == "ok" and answered.status == "failed"
    assert left_behind() == []


@pytest.mark.parametrize(
    ("second", "status"),
    [
        ("import os\nos._exit(3)", "failed"),
        ("x = [bytes(1 << 20) for _ in range(999)]", "failed"),
        ("import os\nwhile True: os.write(2, b'x' * 999)", "output"),
    ],
)
def test_the_first_of_two_programs_outlives_the_second(kind: str, second: str, status: str) -> None:
    """It reads the end of the pipe, and both results are told."""
    asked, answered = run_pair(
        as_files("import sys\nprint(sys.stdin.read() or 'gone', file=sys.stderr)"), as_files(second), LIMITS
    )
    assert (asked.status, asked.stderr, answered.status) == ("ok", "gone\n", status)


def test_files_that_can_not_be_written_are_the_programs_fault(kind: str) -> None:
    """A name too long, or a file in the place of a directory: the program fails, nothing else does."""
    for files in ((("x" * 300 + ".py", ""),), (("a", ""), ("a/b.py", ""))):
        found = run(files)
        assert found.status == "failed" and "can't be written" in found.stderr


def test_nothing_secret_is_seen(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment nor a process outside nor the caller's files; the user is nobody."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    program = f"""
import os, pathlib
print("KEY" in str(os.environ), len([p for p in os.listdir('/proc') if p.isdigit()]) < 8)
print(pathlib.Path({str(Path(__file__).resolve())!r}).exists(), sorted(os.listdir('.')))
"""
    assert run(as_files(program)).stdout == "False True\nFalse ['main.py']\n"


@pytest.mark.skipif(
    "bwrap" not in KINDS or os.getuid() == 0 or not sandbox._disables_user_namespaces(),
    reason="needs bubblewrap 0.8 and an ordinary user",
)
def test_bubblewrap_forbids_further_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace of its own would let a program mount file systems beyond its limits."""
    monkeypatch.setattr(sandbox, "mechanism", lambda: "bwrap")
    program = "import ctypes\nprint(ctypes.CDLL(None).unshare(0x10000000))  # CLONE_NEWUSER"
    assert run(as_files(program)).stdout == "-1\n"


def test_without_a_sandbox_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install; the explicit switch runs the program with limits alone."""
    monkeypatch.setattr(sandbox, "_working", lambda: None)
    monkeypatch.delenv(UNSANDBOXED, raising=False)
    sandbox._run.cache_clear()
    with pytest.raises(SandboxUnavailable, match="install bubblewrap"):
        run(as_files("print(1)"))
    monkeypatch.setenv(UNSANDBOXED, "1")
    assert run(as_files("print(1)")).stdout == "1\n"
    assert run(as_files("while True: pass"), limits=Limits(seconds=1)).status == "timeout"
    sandbox._run.cache_clear()
