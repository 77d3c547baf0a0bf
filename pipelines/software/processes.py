"""Run commands under limits on time, memory and output, and kill all processes that they started.

The sandbox (`pipelines.software.sandbox`) builds the commands. Two commands can be tied together: each reads
from its stdin what the other writes to its stdout.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from pipelines.software.cgroups import Group, Groups

_ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
_LOOK_EVERY_S = 0.05
_PIPE_BYTES = 65536
_DYING_S = 5.0  # killing a namespace takes the kernel a moment


@dataclass(frozen=True)
class Limits:
    """The limits of a program in the sandbox.

    Attributes:
        seconds: Wall-clock time, in seconds. Each process has one second more of CPU time.
        memory_mb: Memory of all processes together, and address space of each process, in MiB.
        scratch_mb: Size of the scratch file system and of the largest file, in MiB.
        output_kb: Length of stdout and stderr together, in KiB.
        processes: Number of processes and threads.
        cores: CPU seconds in a second of all processes together, where they are in a control group.
    """

    seconds: float = 10.0
    memory_mb: int = 512
    scratch_mb: int = 32
    output_kb: int = 64
    processes: int = 32
    cores: float = 1.0


Status = Literal["ok", "failed", "timeout", "memory", "output"]


@dataclass(frozen=True)
class Finished:
    """How a program ended.

    Attributes:
        status: `ok` for exit code 0, `failed` for another, else the limit that the program exceeded.
        exit_code: The exit code; None when a limit ended the program, or when its files can't be written.
        stdout: The standard output, shortened to the limit; empty when it goes to another program.
        stderr: The standard error, shortened to the limit.
    """

    status: Status
    exit_code: int | None
    stdout: str
    stderr: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, the directory that it starts in, and where its control group is made; None for no group."""

    words: Sequence[str]
    directory: Path
    groups: Groups | None = None


def watch(command: Command, limits: Limits) -> Finished:
    """Run a command until it ends or exceeds a limit; then kill all processes that it started."""
    only = _Process(command, limits, subprocess.DEVNULL, subprocess.PIPE)
    try:
        _wait([only])
    finally:
        only.close()
    return only.finished()


def watch_pair(first: Command, second: Command, limits: Limits) -> tuple[Finished, Finished]:
    """Run two commands, each of which reads what the other writes, until the first ends; then kill both.

    The time is that of both together; the other limits hold for each. When the second one ends, the first
    reads the end of its stdin and goes on.
    """
    processes = list[_Process]()
    pipes = (*os.pipe(), *os.pipe())
    try:
        try:
            processes.append(_Process(first, limits, pipes[0], pipes[3]))
            processes.append(_Process(second, limits, pipes[2], pipes[1]))
        finally:
            for end in pipes:
                os.close(end)
        _wait(processes)
    finally:
        for process in processes:
            process.close()
    return processes[0].finished(), processes[1].finished()


class _Process:
    """A running command, what it has written, and the limit that it exceeded."""

    def __init__(self, command: Command, limits: Limits, stdin: int, stdout: int) -> None:
        groups = command.groups
        self.group: Group | None = (
            None if groups is None else groups.new(limits.memory_mb, limits.processes, limits.cores)
        )
        try:
            self.popen = subprocess.Popen(
                [*(self.group.prefix if self.group else ()), *command.words],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                cwd=command.directory,
                env={**_ENVIRONMENT, **(self.group.environment if self.group else {})},
                start_new_session=True,
            )
        except OSError:
            if self.group:
                self.group.remove()
            raise
        self.limits = limits
        self.deadline = time.monotonic() + limits.seconds
        self.limit: Status | None = None
        self.written: dict[IO[bytes], bytearray] = {
            stream: bytearray() for stream in (self.popen.stdout, self.popen.stderr) if stream is not None
        }

    def check(self) -> None:
        """Kill the command when it exceeds a limit."""
        if sum(map(len, self.written.values())) > self.limits.output_kb * 1024:
            self.limit = "output"
        elif time.monotonic() > self.deadline:
            self.limit = "timeout"
        elif self.group is None and _memory_mb(self.popen.pid) > self.limits.memory_mb:
            self.limit = "memory"
        if self.limit is not None:
            self.kill()

    def kill(self) -> None:
        """Kill the command and all processes that it started, and wait until they have died."""
        if self.popen.returncode is not None:
            return
        started = _descendants(self.popen.pid)
        for child in (*started, self.popen.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.popen.wait()
        end = time.monotonic() + _DYING_S
        while any(map(_alive, started)) and time.monotonic() < end:
            time.sleep(0.001)

    def close(self) -> None:
        """Kill the command, see whether memory ended it, and remove its group."""
        self.kill()
        if self.group is not None:
            if self.limit is None and self.group.out_of_memory():
                self.limit = "memory"
            self.group.remove()

    def finished(self) -> Finished:
        """Close its pipes, and tell how it ended."""
        most = self.limits.output_kb * 1024
        out, err = (
            bytes(self.written[stream][:most]).decode("utf-8", "replace") if stream is not None else ""
            for stream in (self.popen.stdout, self.popen.stderr)
        )
        for stream in self.written:
            stream.close()
        code = self.popen.returncode
        status: Status = self.limit or ("ok" if code == 0 else "failed")
        return Finished(status, None if self.limit else code, out, err)


def _wait(processes: Sequence[_Process]) -> None:
    """Collect what processes write, until the first has closed its output, ended or exceeded a limit."""
    first = processes[0]
    with selectors.DefaultSelector() as selector:
        for process in processes:
            for stream in process.written:
                selector.register(stream, selectors.EVENT_READ, process)
        while any(key.data is first for key in selector.get_map().values()):
            ended = first.popen.poll() is not None  # what it wrote before is read once more below
            for key, _ in selector.select(0 if ended else _LOOK_EVERY_S):
                chunk = os.read(key.fd, _PIPE_BYTES)
                key.data.written[key.fileobj].extend(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
            for process in processes:
                if process.limit is None:
                    process.check()
            if first.limit is not None or ended:
                break  # processes that still have its pipes open are killed with the rest


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def _descendants(pid: int) -> list[int]:
    descendants, waiting = list[int](), [pid]
    while waiting:
        try:
            listed = Path(f"/proc/{waiting[0]}/task/{waiting[0]}/children").read_text().split()
        except OSError:
            listed = []
        waiting = [*waiting[1:], *map(int, listed)]
        descendants += map(int, listed)
    return descendants


def _memory_mb(pid: int) -> float:
    total = 0
    for child in _descendants(pid):
        with contextlib.suppress(OSError, IndexError, ValueError):
            total += int(Path(f"/proc/{child}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE") / 2**20
