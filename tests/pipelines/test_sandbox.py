"""Hostile programs in the sandbox: contained, reported, nothing left behind; without one nothing is run."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.software import confinement, sandbox
from pipelines.software.confinement import UNSANDBOXED, WATCHED, Confinement, SandboxUnavailable, best_of
from pipelines.software.mechanisms import Kind, disables_user_namespaces
from pipelines.software.processes import Limits
from pipelines.software.sandbox import run, run_pair
from tests.hostile import HOSTILE, MEMORY, as_files, bytes_got

NAMES: tuple[Kind, ...] = ("bwrap", "unshare")
KINDS = {kind: way for kind in NAMES if (way := best_of(kind, False)) is not None}
LIMITS = Limits(seconds=5, memory_mb=256, scratch_mb=16)
BESIDE_MB = 48  # the scratch file system, and what pipes and sockets hold


@pytest.fixture(params=KINDS.values() or [None], ids=KINDS or ["none"])
def best(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Confinement]:
    if request.param is None:
        pytest.skip("neither bubblewrap nor user namespaces work here")
    monkeypatch.setattr(sandbox, "confinement", lambda: request.param)
    sandbox._run.cache_clear()
    yield request.param
    sandbox._run.cache_clear()


@pytest.fixture
def crowded(best: Confinement, monkeypatch: pytest.MonkeyPatch) -> Confinement:
    """A sandbox whose programs may start processes, limited together by the kernel or not."""
    allowed = replace(best, is_watched=True)
    monkeypatch.setattr(sandbox, "confinement", lambda: allowed)
    return allowed


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
def test_hostile_programs_are_contained(best: Confinement, name: str) -> None:
    """Each ends by itself or by a limit, reached nothing outside, and left neither process nor file."""
    program, statuses, said = HOSTILE[name]
    found = run(as_files(program), limits=LIMITS)
    assert found.status in statuses, found
    assert said in found.stdout + found.stderr and "ESCAPED" not in found.stdout
    assert len(found.stdout) + len(found.stderr) <= 2 * LIMITS.output_kb * 1024
    assert left_behind() == []


@pytest.mark.parametrize("name", MEMORY)
def test_no_way_leads_past_the_limit_on_memory(best: Confinement, name: str) -> None:
    """Whatever holds it, processes or the kernel, a program gets no more than its limits."""
    if not confinement.keeps_limits(best):
        pytest.skip(f"{best.kind} keeps no limit on memory here, and nothing is run by it: no cgroup v2")
    finished = run(as_files(MEMORY[name]), limits=replace(LIMITS, output_kb=1024))
    assert finished.status in ("ok", "failed", "memory", "timeout"), finished
    assert bytes_got(finished.stdout) <= (LIMITS.memory_mb + BESIDE_MB) * 2**20
    assert left_behind() == []


def test_the_ways_to_memory_lead_there_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacks are real: with the limits of a process alone, most of the ways pass 256 MB."""
    monkeypatch.setenv(UNSANDBOXED, "1")
    for name in ("memfds", "huge pages given to pipes"):
        assert bytes_got(run(as_files(MEMORY[name]), limits=replace(LIMITS, output_kb=1024)).stdout) > 2**28
    sandbox._run.cache_clear()


def test_devices_are_few_and_nothing_is_written_beside_them(best: Confinement) -> None:
    """Those that programs use are there; neither a file nor a node is made in /dev."""
    program = """
import os
print({'null', 'zero', 'urandom', 'random'} <= {*os.listdir('/dev')}, len(os.listdir('/dev')) < 20)
print(open('/dev/zero', 'rb').read(2), len(os.urandom(2)), open('/dev/null', 'w').write('x'))
for path in ('/dev/x', '/dev/pts/x', '/tmp/x'):
    try:
        print('ESCAPED', open(path, 'w'))
    except OSError as error:
        print('refused')
"""
    refused = "refused\n" * 3
    assert run(as_files(program)).stdout == f"True True\nb'\\x00\\x00' 2 1\n{refused}"


def test_programs_use_threads_files_and_clocks_as_elsewhere(best: Confinement) -> None:
    """What the filter refuses, ordinary programs do without."""
    program = """
import asyncio, concurrent.futures, decimal, json, random, re, socket, sqlite3, tempfile, threading, time
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(sum(pool.map(lambda n: n * n, range(100))))
async def main():
    return await asyncio.gather(*(asyncio.to_thread(pow, 2, n) for n in range(4)))
print(asyncio.run(main()))
with tempfile.TemporaryFile() as file:
    print(file.write(b'x' * 4096))
print(sqlite3.connect(':memory:').execute('select 1 + 1').fetchone())
one, other = socket.socketpair()
one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
one.send(b'ping')
print(other.recv(9))
"""
    finished = run(as_files(program))
    assert finished.stdout == "328350\n[1, 2, 4, 8]\n4096\n(2,)\nb'ping'\n", finished


def test_where_processes_are_allowed_they_share_locks_and_results(crowded: Confinement) -> None:
    """subprocess and multiprocessing work in a sandbox whose programs may start processes."""
    program = """
import multiprocessing, subprocess
if __name__ == '__main__':
    print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout.strip())
    with multiprocessing.get_context('fork').Pool(2) as pool:
        print(pool.map(abs, [-1, -2]))
"""
    finished = run(as_files(program))
    assert finished.stdout == "child\n[1, 2]\n", finished


def test_without_a_group_programs_start_threads_alone(best: Confinement) -> None:
    """A process is refused as if there were too many, however it is started."""
    if not best.is_alone:
        pytest.skip("processes are counted by a cgroup here, or no filter works")
    program = """
import os, subprocess
ECHO = ['/bin/echo', 'ESCAPED']
for way in (os.fork, lambda: subprocess.run(ECHO), lambda: os.posix_spawn(ECHO[0], ECHO, {})):
    try:
        print('ESCAPED', way())
    except BlockingIOError as error:
        print(error.strerror)
"""
    finished = run(as_files(program))
    assert finished.stdout == "Resource temporarily unavailable\n" * 3, finished


def test_a_group_counts_all_processes(best: Confinement) -> None:
    """The kernel ends a program whose processes together pass a limit, and its group is removed."""
    if best.groups is None or best.groups.parent is None:
        pytest.skip("no cgroup v2 subtree of this user with memory and pids")
    small = Limits(seconds=60, memory_mb=64, scratch_mb=16, output_kb=1024)
    finished = run(as_files(MEMORY["many processes"]), limits=small)
    assert finished.status == "memory", finished
    bomb = """
import os, time
n = 0
try:
    while n < 99:
        if not os.fork(): time.sleep(99)
        n += 1
except OSError:
    print(n)
"""
    finished = run(as_files(bomb), limits=replace(small, processes=8))
    assert finished.status == "ok", finished
    assert 0 < int(finished.stdout) <= 16
    assert not [*best.groups.parent.glob(f"agenttts-{os.getpid()}-*")]


def test_a_group_shares_cpu_time_out(best: Confinement) -> None:
    """However many processes are busy, together they get the cores of the limits and no more."""
    if best.groups is None or not best.groups.has_cpu:
        pytest.skip("no cgroup v2 subtree of this user with cpu")
    program = """
import os, time
began, main, (read, write) = time.monotonic(), os.getpid(), os.pipe()
for _ in range(3):
    if os.fork() == 0: break
while time.monotonic() - began < 4: pass
os.write(write, b'%f ' % time.process_time())
if os.getpid() == main:
    for _ in range(3): os.wait()
    print(sum(map(float, os.read(read, 999).split())) / (time.monotonic() - began))
"""
    finished = run(as_files(program), limits=replace(LIMITS, seconds=30, cores=0.5))
    assert float(finished.stdout) < 0.75, finished


def test_limits_that_no_one_keeps_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a group and a filter nothing is run, unless the explicit switch allows watched programs."""
    monkeypatch.setattr(
        confinement, "best_of", lambda kind, watched: Confinement(kind=kind, is_watched=watched)
    )
    monkeypatch.delenv(UNSANDBOXED, raising=False)
    monkeypatch.delenv(WATCHED, raising=False)
    with pytest.raises(SandboxUnavailable, match=r"memory of programs can't be kept.*AGENTTTS_WATCHED=1"):
        run(as_files("print(2)"))
    monkeypatch.setenv(WATCHED, "1")
    assert "not kept by the kernel" in confinement.confinement().warnings[0]


def test_files_are_run_where_they_are(best: Confinement) -> None:
    """Modules are found, output and exit codes told; paths outside the directory are refused."""
    files = (
        ("main.py", "import lib.part\nprint(lib.part.VALUE, 'é')\nraise SystemExit(3)"),
        ("lib/part.py", "VALUE = 7"),
    )
    found = run(files)
    assert (found.status, found.exit_code, found.stdout) == ("failed", 3, "7 é\n")
    with pytest.raises(ValueError, match=r"stays in its directory, got '\.\./x'"):
        run((("../x", ""),))


def test_programs_do_not_keep_each_other_from_running(crowded: Confinement) -> None:
    """One with as many processes as it may have leaves others theirs."""
    greedy = "import os, time\ntry:\n    while os.fork(): pass\nexcept OSError: pass\ntime.sleep(9)"
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(run, as_files(greedy), limits=Limits(seconds=4))
        time.sleep(1)
        others = [run(as_files(f"import os\nif os.fork(): print({n})")).stdout for n in range(4)]
        assert others == [f"{n}\n" for n in range(4)]
        assert first.result().status == "timeout"


def test_two_programs_reach_each_other_by_their_pipes_alone(best: Confinement) -> None:
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
def test_the_first_of_two_programs_outlives_the_second(best: Confinement, second: str, status: str) -> None:
    """It reads the end of the pipe, and both results are told."""
    asked, answered = run_pair(
        as_files("import sys\nprint(sys.stdin.read() or 'gone', file=sys.stderr)"), as_files(second), LIMITS
    )
    assert (asked.status, asked.stderr, answered.status) == ("ok", "gone\n", status)


def test_files_that_can_not_be_written_are_the_programs_fault(best: Confinement) -> None:
    """A name too long, or a file in the place of a directory: the program fails, nothing else does."""
    for files in ((("x" * 300 + ".py", ""),), (("a", ""), ("a/b.py", ""))):
        found = run(files)
        assert found.status == "failed" and "can't be written" in found.stderr


def test_nothing_secret_is_seen(best: Confinement, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment nor a process outside nor the caller's files; the user is nobody."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    program = f"""
import os, pathlib
print("KEY" in str(os.environ), len([p for p in os.listdir('/proc') if p.isdigit()]) < 8)
print(pathlib.Path({str(Path(__file__).resolve())!r}).exists(), sorted(os.listdir('.')))
"""
    assert run(as_files(program)).stdout == "False True\nFalse ['main.py']\n"


@pytest.mark.skipif(
    "bwrap" not in KINDS or os.getuid() == 0 or not disables_user_namespaces(),
    reason="needs bubblewrap 0.8 and an ordinary user",
)
def test_bubblewrap_forbids_further_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace of its own would let a program mount file systems beyond its limits."""
    bare = replace(KINDS["bwrap"], is_filtered=False)
    monkeypatch.setattr(sandbox, "confinement", lambda: bare)
    program = "import ctypes\nprint(ctypes.CDLL(None).unshare(0x10000000))  # CLONE_NEWUSER"
    assert run(as_files(program)).stdout == "-1\n"


def test_without_a_sandbox_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install; the explicit switch runs the program with limits alone."""
    monkeypatch.setattr(confinement, "best_of", lambda kind, is_watched: None)
    monkeypatch.delenv(UNSANDBOXED, raising=False)
    sandbox._run.cache_clear()
    with pytest.raises(SandboxUnavailable, match="install bubblewrap"):
        run(as_files("print(1)"))
    monkeypatch.setenv(UNSANDBOXED, "1")
    assert run(as_files("print(1)")).stdout == "1\n"
    assert run(as_files("while True: pass"), limits=Limits(seconds=1)).status == "timeout"
    sandbox._run.cache_clear()
