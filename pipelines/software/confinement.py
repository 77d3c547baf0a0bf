"""What keeps a program within its limits on this machine, found by trying it out.

The kernel keeps the limits in one of two ways. In a control group (cgroup v2) it counts what all processes
of a program use together. Where there is none, a program may start threads but no processes, and a seccomp
filter refuses what takes memory beside the address space of its one process. Where neither can be had nothing
is run, unless AGENTTTS_WATCHED is 1: then programs start processes, whose memory is looked at 20 times a
second.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pipelines.errors import ConfigurationError
from pipelines.software import cgroups
from pipelines.software.cgroups import Groups
from pipelines.software.filters import filtered
from pipelines.software.mechanisms import Kind, interpreter, limited, program_words, wrapped
from pipelines.software.processes import Command, Limits, watch

UNSANDBOXED = "AGENTTTS_UNSANDBOXED"
WATCHED = "AGENTTTS_WATCHED"
_PROBE = """\
import ctypes, os
libc = ctypes.CDLL(None)
def got(way):
    try:
        return way() != -1
    except OSError:
        return False
ways = [lambda: os.memfd_create('x'), lambda: libc.shmget(0, 4096, 0o1600)]
ways += [lambda: libc.unshare(1 << 28), os.fork]
print('leaky' if any(map(got, ways)) else 'tight')
"""


class SandboxUnavailable(ConfigurationError):
    """No sandbox works on this machine, or none that keeps the limits."""


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """How programs are run on this machine.

    Attributes:
        kind: The sandbox; `none` if the environment variable AGENTTTS_UNSANDBOXED is 1.
        groups: The place where control groups can be made; None for no groups.
        is_filtered: Whether a seccomp filter works.
        is_watched: Whether programs may start processes though no group counts their memory.
    """

    kind: Kind | Literal["none"]
    groups: Groups | None = None
    is_filtered: bool = False
    is_watched: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether a program may start threads only, no processes."""
        return self.is_filtered and self.groups is None and not self.is_watched

    @property
    def warnings(self) -> tuple[str, ...]:
        """What differs from the limits that are stated, with the remedy; empty if nothing does."""
        remedy = "give this user a cgroup v2 subtree with memory and pids, such as a systemd user session has"
        if self.kind == "none":
            return (f"programs are run without a sandbox, since {UNSANDBOXED} is 1; unset it",)
        if self.is_alone:
            return (
                "there is no cgroup v2 to count the memory and CPU time of several processes, so that "
                f"programs can start threads but no processes: those that need some fail; {remedy}, or set "
                f"{WATCHED}=1 to allow processes whose memory is looked at 20 times a second and not limited "
                "by the kernel",
            )
        if self.groups is None:
            unkept = "memory" if self.is_filtered else "memory and user namespaces"
            return (
                f"the limits on {unkept} and CPU time of all processes of a program together are not kept by "
                f"the kernel, which {WATCHED}=1 allows; {remedy}",
            )
        if not self.groups.has_cpu:
            return (
                "processes of a program can together use more than one core until its time is over, since "
                "its cgroup can't limit CPU time; delegate cpu too (systemd: Delegate=cpu memory pids)",
            )
        return ()

    def command(self, source: Path, python: tuple[str, ...], limits: Limits) -> Command:
        """Return the command that runs a program in a directory.

        Args:
            source: The directory of the program.
            python: The words after the interpreter: flags and the file to run.
            limits: The limits of the program.
        """
        words = [interpreter(), *python]
        if self.kind == "none":
            return Command(words=[*limited(limits, drop=False), *words], directory=source)
        if self.is_filtered:
            words = [*filtered(interpreter(), alone=self.is_alone), *words]
        words = wrapped(self.kind, source, limits, words)
        return Command(words=words, directory=Path("/"), groups=self.groups)


def confinement() -> Confinement:
    """Return how programs are run on this machine.

    Raises:
        SandboxUnavailable: Neither bubblewrap nor `unshare` works, or the limits can't be kept and
            AGENTTTS_WATCHED is not 1.
    """
    if os.environ.get(UNSANDBOXED) == "1":
        return Confinement(kind="none")
    is_watched = os.environ.get(WATCHED) == "1"
    working = [best for kind in ("bwrap", "unshare") if (best := best_of(kind, is_watched)) is not None]
    if not working:
        raise SandboxUnavailable(
            "programs that models write need a sandbox: install bubblewrap (apt install bubblewrap) or allow "
            f"user namespaces; {UNSANDBOXED}=1 runs them without a sandbox, at your own risk"
        )
    sufficient = [best for best in working if is_watched or keeps_limits(best)]
    if not sufficient:
        raise SandboxUnavailable(
            "the limit on the memory of programs can't be kept on this machine, which has neither cgroup v2 "
            "for this user nor a seccomp filter under unshare; delegate a cgroup v2 subtree with memory and "
            f"pids to this user, or set {WATCHED}=1 to allow programs whose memory is only looked at"
        )
    return sufficient[0]


def keeps_limits(candidate: Confinement) -> bool:
    """Return whether the kernel keeps the limits on memory, processes and CPU time.

    Without a group only `unshare` does: bubblewrap can't limit how many files its scratch file system has,
    each of which takes memory of the kernel.
    """
    return candidate.groups is not None or (candidate.is_filtered and candidate.kind == "unshare")


@lru_cache(maxsize=8)
def best_of(kind: Kind, is_watched: bool) -> Confinement | None:
    """Return how a sandbox of a kind works here; None when it doesn't.

    Args:
        kind: The kind.
        is_watched: Whether processes are allowed where no group counts their memory.
    """
    if shutil.which(kind) is None:
        return None
    is_filtered = _probed(Confinement(kind=kind, is_filtered=True)) == "tight\n"
    if not is_filtered and not _probed(Confinement(kind=kind, is_watched=True)):
        return None
    groups = cgroups.available()
    return Confinement(kind=kind, groups=groups, is_filtered=is_filtered, is_watched=is_watched)


def _probed(candidate: Confinement) -> str:
    """What the probe writes: whether it was refused all that a filter refuses; empty when it did not run."""
    limits = Limits()
    with tempfile.TemporaryDirectory(prefix="agenttts-sandbox-") as folder:
        source = Path(folder, "source")
        source.mkdir()
        (source / "main.py").write_text(_PROBE)
        trial = watch(candidate.command(source, program_words("main.py"), limits), limits)
        return trial.stdout if trial.status == "ok" else ""
