"""Run Python that a model wrote in a sandbox, without network access and with limits on every resource.

The sandbox is bubblewrap if it is installed, else util-linux's `unshare`. The program gets new namespaces for
processes, mounts, network and IPC, a root of read-only system directories, a small scratch file system, an
empty environment, an unprivileged user, and limits on time, memory, output, file size and number of
processes. All processes that the program starts are killed when it ends. If neither mechanism works, nothing
is run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Literal, TypeAlias

from pipelines.errors import ConfigurationError
from pipelines.software.processes import Command, Finished, Limits, watch, watch_pair

Files: TypeAlias = tuple[tuple[str, str], ...]
"""Relative path and text of each file of a program."""

UNSANDBOXED = "AGENTTTS_UNSANDBOXED"
_LIMITS = Limits()
_NOBODY = 65534
_USERS = range(61_440, 65_534)  # one for each program: the kernel counts processes by user
_STARTED = count(64 * os.getpid())
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64")
_SETUP = """\
set -e
root=$1; source=$2; size=$3; python=$4; shift 4
mount --make-rprivate /
mount -t tmpfs -o size=1m,mode=755 none "$root"
for name in usr bin sbin lib lib32 lib64; do
  if [ -L "/$name" ]; then cp -P "/$name" "$root/$name"
  elif [ -d "/$name" ]; then mkdir "$root/$name"; mount --rbind "/$name" "$root/$name"
    mount -o remount,bind,ro "$root/$name"; fi
done
if [ ! -e "$root$python" ]; then mkdir -p "$root$python"; mount --bind "$python" "$root$python"
  mount -o remount,bind,ro "$root$python"; fi
mkdir -p "$root/proc" "$root/dev" "$root/work" "$root/etc"
if [ -e /etc/ld.so.cache ]; then cp /etc/ld.so.cache "$root/etc/"; fi
mount -t proc proc "$root/proc"
for name in null zero urandom random; do
  touch "$root/dev/$name"; mount --bind "/dev/$name" "$root/dev/$name"
done
mount -t tmpfs -o "size=$size,mode=1777" none "$root/work"
cp -r "$source/." "$root/work/"; chmod -R a+rwX "$root/work"
mount -o remount,bind,ro "$root"
exec chroot "$root" /bin/sh -c 'cd /work && exec "$@"' sh "$@"
"""


class SandboxUnavailable(ConfigurationError):
    """No sandbox works on this machine."""


def run(files: Files, main: str = "main.py", limits: Limits = _LIMITS) -> Finished:
    """Run a Python program in the sandbox, and wait until it and all processes that it started have ended.

    Results are cached: the same files with the same limits are run once in this process.

    Args:
        files: The files of the program.
        main: The path of the file to run.
        limits: The limits of the program.

    Returns:
        How the program ended, and its output.

    Raises:
        SandboxUnavailable: No sandbox works on this machine.
        ValueError: A path leads out of the directory of the program.
    """
    return _run(tuple(sorted(files)), main, limits)


@lru_cache(maxsize=4096)
def _run(files: Files, main: str, limits: Limits) -> Finished:
    kind = mechanism()
    with tempfile.TemporaryDirectory(prefix="agenttts-sandbox-") as folder:
        if (problem := _write(files, Path(folder, "source"))) is not None:
            return Finished("failed", None, "", f"Traceback: {problem}")
        return watch(_command(kind, Path(folder, "source"), _python(main), limits), limits)


def run_pair(first: Files, second: Files, limits: Limits) -> tuple[Finished, Finished]:
    """Run two Python programs, each in a sandbox of its own, until the first one ends.

    The stdin of each is the stdout of the other; nothing else connects them. Each program's main.py is run.
    The first one starts without the directories of installed packages (`python -S`).

    Returns:
        How each program ended.

    Raises:
        SandboxUnavailable: No sandbox works on this machine.
    """
    kind = mechanism()
    with tempfile.TemporaryDirectory(prefix="agenttts-sandbox-") as folder:
        commands = list[Command]()
        for name, files, flags in (("first", first, ("-S",)), ("second", second, ())):
            if (problem := _write(files, Path(folder, name))) is not None:
                raise OSError(problem)
            commands.append(_command(kind, Path(folder, name), _python("main.py", *flags), limits))
        return watch_pair(commands[0], commands[1], limits)


def _write(files: Files, source: Path) -> str | None:
    """Write the files of a program; return the problem with one that can't be written."""
    source.mkdir()
    for name, text in files:
        path = (source / name).resolve()
        if not path.is_relative_to(source.resolve()):
            raise ValueError(f"a file's path stays in its directory, got {name!r}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="replace")
        except OSError as error:  # a name too long, or a file where a directory must be
            return f"{name:.80} can't be written: {error.strerror}"
    return None


def _command(
    kind: Literal["bwrap", "unshare", "none"], source: Path, python: list[str], limits: Limits
) -> Command:
    """The command that runs the program in a directory."""
    if kind == "none":
        return Command(words=[*_limited(limits, drop=False), *python], directory=source)
    wrap = _bubblewrap if kind == "bwrap" else _unshare
    words = [*wrap(source, limits), *_limited(limits, drop=True), *python]
    return Command(words=words, directory=Path("/"))


def mechanism() -> Literal["bwrap", "unshare", "none"]:
    """Return the sandbox that works on this machine.

    Returns:
        `bwrap`, `unshare`, or `none` if the environment variable AGENTTTS_UNSANDBOXED is 1.

    Raises:
        SandboxUnavailable: Neither bubblewrap nor `unshare` works.
    """
    if os.environ.get(UNSANDBOXED) == "1":
        return "none"
    kind = _working()
    if kind is None:
        raise SandboxUnavailable(
            "programs that models write need a sandbox: install bubblewrap (apt install bubblewrap) or allow "
            f"user namespaces; {UNSANDBOXED}=1 runs them without a sandbox, at your own risk"
        )
    return kind


@lru_cache(maxsize=1)
def _working() -> Literal["bwrap", "unshare"] | None:
    tried: tuple[Literal["bwrap", "unshare"], ...] = ("bwrap", "unshare")
    return next((kind for kind in tried if shutil.which(kind) and _works(kind)), None)


def _works(kind: Literal["bwrap", "unshare"]) -> bool:
    with tempfile.TemporaryDirectory(prefix="agenttts-sandbox-") as folder:
        source = Path(folder, "source")
        _write((("main.py", "print('contained')"),), source)
        trial = watch(_command(kind, source, _python("main.py"), _LIMITS), _LIMITS)
        return trial.status == "ok" and trial.stdout == "contained\n"


def _python(main: str, *flags: str) -> list[str]:
    return [os.path.realpath(sys.executable), "-E", "-s", "-B", *flags, main]


def _limited(limits: Limits, *, drop: bool) -> list[str]:
    """The command that sets the limits, and makes root a user without rights, before the program starts."""
    size = limits.memory_mb * 2**20
    command = [
        "prlimit",
        f"--as={size}",
        f"--fsize={limits.scratch_mb * 2**20}",
        f"--cpu={int(limits.seconds) + 1}",
        "--core=0",
        "--nofile=64",
    ]
    if not drop:
        return command if shutil.which("prlimit") else []
    command += [f"--nproc={limits.processes}", "setpriv", "--no-new-privs"]
    if os.getuid() == 0:
        user = _USERS[next(_STARTED) % len(_USERS)]
        command += [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return command


def _bubblewrap(source: Path, limits: Limits) -> list[str]:
    size = str(limits.scratch_mb * 2**20)
    command = [
        "bwrap",
        "--unshare-pid",
        "--as-pid-1",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--new-session",
    ]
    command += [
        "--die-with-parent",
        "--clearenv",
        "--setenv",
        "PATH",
        "/usr/bin:/bin",
        "--setenv",
        "HOME",
        "/work",
    ]
    if os.getuid() == 0:
        command += ["--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SYS_RESOURCE"):
            command += ["--cap-add", capability]
    else:
        command += ["--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY)]
        command += ["--disable-userns"] if _disables_user_namespaces() else []
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    base = os.path.realpath(sys.base_prefix)
    if not base.startswith("/usr"):
        command += ["--ro-bind", base, base]
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--proc", "/proc", "--dev", "/dev"]
    command += [
        "--size",
        "4096",
        "--tmpfs",
        "/dev/shm",
        "--perms",
        "1777",
        "--size",
        size,
        "--tmpfs",
        "/work",
    ]
    command += ["--ro-bind", str(source), "/source", "--remount-ro", "/", "--chdir", "/work"]
    return [*command, "sh", "-c", 'cp -r /source/. . && chmod -R a+rwX . 2>/dev/null; exec "$@"', "sh"]


@lru_cache(maxsize=1)
def _disables_user_namespaces() -> bool:
    """Whether the installed bubblewrap (0.8 and later) can forbid further user namespaces inside."""
    return "--disable-userns" in subprocess.run(["bwrap", "--help"], capture_output=True, text=True).stdout


def _unshare(source: Path, limits: Limits) -> list[str]:
    root = source.with_name("root")  # a mount point, which programs side by side can share: each has its own
    root.mkdir(exist_ok=True)
    command = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--net", "--ipc", "--uts"]
    if os.getuid() != 0:
        command += ["--user", "--map-root-user"]
    size = f"{limits.scratch_mb}m"
    base = os.path.realpath(sys.base_prefix)
    environment = ["env", "-i", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/work"]
    powerless = [] if os.getuid() == 0 else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    return [*command, *environment, "sh", "-c", _SETUP, "sh", str(root), str(source), size, base, *powerless]
