"""Control groups (cgroup v2), in which the kernel limits memory, processes and CPU time of a whole program.

Groups are made below the first directory that this user may write to, from this process's own group upwards
(a container's own group, a subtree that the user was given), or else by `systemd-run --scope`, which asks the
user's own service manager. No rights of root are needed for either.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path

_NEEDED = frozenset({"memory", "pids"})
_SETUP_PROCESSES = 8  # of the sandbox itself, which its group counts too
_NUMBERS = count()
_REMOVING_S = 2.0
_JOIN = 'echo 0 > "$0" && exec "$@"'


@dataclass(frozen=True, kw_only=True)
class Group:
    """The control group of one program.

    Attributes:
        prefix: The command that enters the group and then becomes the command that follows it.
        directory: Its directory; None when the service manager makes and removes it.
    """

    prefix: tuple[str, ...]
    directory: Path | None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that `prefix` needs; the sandbox does not pass them on."""
        names = () if self.directory is not None else ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
        return {name: os.environ[name] for name in names if name in os.environ}

    def out_of_memory(self) -> bool:
        """Return whether the kernel ended a process of the group at its memory limit."""
        if self.directory is None:
            return False
        with contextlib.suppress(OSError):
            events = dict(
                line.split() for line in (self.directory / "memory.events").read_text().splitlines()
            )
            return int(events.get("oom_kill", 0)) > 0
        return False

    def remove(self) -> None:
        """End what still runs in the group, and remove it."""
        if self.directory is None:
            return
        with contextlib.suppress(OSError):
            (self.directory / "cgroup.kill").write_text("1")
        end = time.monotonic() + _REMOVING_S
        while time.monotonic() < end:
            try:
                self.directory.rmdir()
            except FileNotFoundError:
                return
            except OSError:  # its last process is still ending
                time.sleep(0.001)
            else:
                return


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The place where groups can be made.

    Attributes:
        parent: The directory in which they are made; None when the service manager makes them.
        has_cpu: Whether they can limit CPU time.
    """

    parent: Path | None
    has_cpu: bool

    def new(self, memory_mb: int, processes: int, cores: float) -> Group:
        """Make a group.

        Args:
            memory_mb: Memory of all its processes with all they hold in the kernel, in MiB; no swap.
            processes: Number of its processes and threads, those of the sandbox itself not counted.
            cores: CPU seconds of all its processes in a second; without effect unless `has_cpu`.
        """
        name = f"agenttts-{os.getpid()}-{next(_NUMBERS)}"
        memory, tasks = memory_mb * 2**20, processes + _SETUP_PROCESSES
        if self.parent is None:
            limits = [f"MemoryMax={memory}", "MemorySwapMax=0", f"TasksMax={tasks}"]
            limits += [f"CPUQuota={round(100 * cores)}%"] if self.has_cpu else []
            return Group(
                prefix=(*_systemd_run(), f"--unit={name}", *(f"-p{it}" for it in limits), "--"),
                directory=None,
            )
        directory = self.parent / name
        directory.mkdir()
        (directory / "memory.max").write_text(str(memory))
        (directory / "pids.max").write_text(str(tasks))
        with contextlib.suppress(OSError):  # kernels without swap, and before 4.19, lack these
            (directory / "memory.oom.group").write_text("1")
            (directory / "memory.swap.max").write_text("0")
        if self.has_cpu:
            (directory / "cpu.max").write_text(f"{round(cores * 100_000)} 100000")
        return Group(prefix=("sh", "-c", _JOIN, str(directory / "cgroup.procs")), directory=directory)


@lru_cache(maxsize=1)
def available() -> Groups | None:
    """Return where groups that limit memory and processes can be made on this machine; None if nowhere."""
    for directory in _own_and_above():
        groups = _usable(directory)
        if groups is not None and _keeps(groups):
            _remove_stale(directory)
            return groups
    if shutil.which("systemd-run") and Path("/run/systemd/system").is_dir():
        for has_cpu in (True, False):
            groups = Groups(parent=None, has_cpu=has_cpu)
            if _keeps(groups):
                return groups
    return None


def _own_and_above() -> Iterator[Path]:
    """The directory of this process's group and those above it, as far as they are mounted."""
    try:
        mounts, groups = Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
    except OSError:
        return
    mount = re.search(r"^\S+ \S+ \S+ (\S+) (\S+) .* - cgroup2 ", mounts, re.M)
    own = re.search(r"^0::(/.*)$", groups, re.M)
    if mount is None or own is None:
        return
    root, point = mount.groups()
    path = Path(own[1])
    directory = Path(point, path.relative_to(root) if path.is_relative_to(root) else ".")
    yield directory
    yield from (above for above in directory.parents if above.is_relative_to(point))


def _usable(directory: Path) -> Groups | None:
    """The groups below a directory; None when it isn't ours or has no controllers to give."""
    if not (os.access(directory, os.W_OK) and os.access(directory / "cgroup.procs", os.W_OK)):
        return None
    is_alone = _words(directory / "cgroup.procs") == {str(os.getpid())}
    if is_alone:  # a group with processes can't have limited ones below
        with contextlib.suppress(OSError):
            (directory / "agenttts-self").mkdir(exist_ok=True)
            (directory / "agenttts-self/cgroup.procs").write_text("0")
    for name in ("memory", "pids", "cpu"):
        with contextlib.suppress(OSError):  # a controller that isn't there, or processes in the way
            if name not in _words(directory / "cgroup.subtree_control"):
                (directory / "cgroup.subtree_control").write_text(f"+{name}")
    enabled = _words(directory / "cgroup.subtree_control")
    return Groups(parent=directory, has_cpu="cpu" in enabled) if enabled >= _NEEDED else None


def _words(file: Path) -> set[str]:
    try:
        return set(file.read_text().split())
    except OSError:
        return set()


def _keeps(groups: Groups) -> bool:
    """Whether a process that enters a group is in it, and the group has the limit on memory."""
    look = 'read -r line < /proc/self/cgroup; echo "$line"; cat "/sys/fs/cgroup${line#0::}/memory.max"'
    group = None
    try:
        group = groups.new(32, 4, 1.0)
        shown = subprocess.run([*group.prefix, "sh", "-c", look], capture_output=True, text=True, timeout=10)
        limit = group.directory and (group.directory / "memory.max").read_text().strip()
    except (OSError, subprocess.TimeoutExpired):
        return False
    else:
        lines = shown.stdout.split("\n")
        inside = group.directory is None or lines[0].endswith(group.directory.name)
        return shown.returncode == 0 and inside and (limit or lines[1]) == str(32 * 2**20)
    finally:
        if group is not None:
            group.remove()


def _systemd_run() -> tuple[str, ...]:
    manager = () if os.getuid() == 0 else ("--user",)
    return ("systemd-run", *manager, "--scope", "--quiet", "--collect")


def _remove_stale(parent: Path) -> None:
    """Remove the groups of processes of ours that have ended without doing so."""
    for directory in parent.glob("agenttts-*-*"):
        pid = directory.name.split("-")[1]
        if not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                directory.rmdir()
