"""Run Python that a model wrote in a sandbox, without network access and with limits on every resource.

The sandbox is bubblewrap if it is installed, else util-linux's `unshare`. The program gets new namespaces for
processes, mounts, network and IPC, a root of read-only system directories, a small scratch file system, an
empty environment, an unprivileged user, and limits on time, memory, output, file size and number of
processes. All processes that the program starts are killed when it ends. If neither mechanism works, nothing
is run.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pipelines.errors import ConfigurationError

UNSANDBOXED = "AGENTTTS_UNSANDBOXED"
_NOBODY = 65534
_LOOK_EVERY_S = 0.05
_DYING_S = 5.0  # killing a namespace takes the kernel a moment
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


@dataclass(frozen=True)
class Limits:
    """The limits of a program in the sandbox.

    Attributes:
        seconds: Wall-clock time, in seconds. Each process has one second more of CPU time.
        memory_mb: Resident memory of all processes together, and address space of each process, in MiB.
        scratch_mb: Size of the scratch file system and of the largest file, in MiB.
        output_kb: Length of stdout and stderr together, in KiB.
        processes: Number of processes.
    """

    seconds: float = 10.0
    memory_mb: int = 512
    scratch_mb: int = 32
    output_kb: int = 64
    processes: int = 32


Status = Literal["ok", "failed", "timeout", "memory", "output"]


@dataclass(frozen=True)
class Finished:
    """How a program ended.

    Attributes:
        status: `ok` for exit code 0, `failed` for another, else the limit that the program exceeded.
        exit_code: The exit code; None when a limit ended the program, or when its files can't be written.
        stdout: The standard output, shortened to the limit.
        stderr: The standard error, shortened to the limit.
    """

    status: Status
    exit_code: int | None
    stdout: str
    stderr: str


def run(files: tuple[tuple[str, str], ...], main: str = "main.py", limits: Limits = Limits()) -> Finished:
    """Run a Python program in the sandbox, and wait until it and all processes that it started have ended.

    Results are cached: the same files with the same limits are run once in this process.

    Args:
        files: Relative path and text of each file.
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
def _run(files: tuple[tuple[str, str], ...], main: str, limits: Limits) -> Finished:
    kind = mechanism()
    with tempfile.TemporaryDirectory(prefix="agenttts-sandbox-") as folder:
        source, root = Path(folder, "source"), Path(folder, "root")
        source.mkdir()
        root.mkdir()
        for name, text in files:
            path = (source / name).resolve()
            if not path.is_relative_to(source.resolve()):
                raise ValueError(f"a file's path stays in its directory, got {name!r}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", errors="replace")
            except OSError as error:  # a name too long, or a file where a directory must be
                return Finished(
                    "failed", None, "", f"Traceback: {name:.80} can't be written: {error.strerror}"
                )
        if kind == "none":
            return _watched([*_limited(limits, drop=False), *_python(main)], limits, cwd=source)
        command = [*_limited(limits, drop=True), *_python(main)]
        wrap = _bubblewrap if kind == "bwrap" else _unshare
        return _watched([*wrap(source, root, limits), *command], limits, cwd=Path("/"))


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
        source, root = Path(folder, "source"), Path(folder, "root")
        source.mkdir()
        root.mkdir()
        (source / "main.py").write_text("print('contained')")
        limits = Limits()
        wrap = _bubblewrap if kind == "bwrap" else _unshare
        trial = _watched(
            [*wrap(source, root, limits), *_limited(limits, drop=True), *_python("main.py")],
            limits,
            Path("/"),
        )
        return trial.status == "ok" and trial.stdout == "contained\n"


def _python(main: str) -> list[str]:
    return [os.path.realpath(sys.executable), "-E", "-s", "-B", main]


def _limited(limits: Limits, *, drop: bool) -> list[str]:
    """The command that sets the limits, and drops the rights of root, before the program starts."""
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
        command += [f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    return command


def _bubblewrap(source: Path, root: Path, limits: Limits) -> list[str]:
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


def _unshare(source: Path, root: Path, limits: Limits) -> list[str]:
    command = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--net", "--ipc", "--uts"]
    if os.getuid() != 0:
        command += ["--user", "--map-root-user"]
    size = f"{limits.scratch_mb}m"
    base = os.path.realpath(sys.base_prefix)
    environment = ["env", "-i", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/work"]
    powerless = [] if os.getuid() == 0 else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    return [*command, *environment, "sh", "-c", _SETUP, "sh", str(root), str(source), size, base, *powerless]


def _watched(command: list[str], limits: Limits, cwd: Path) -> Finished:
    """Run a command until it ends or exceeds a limit; then kill all processes that it started."""
    environ = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=environ,
        start_new_session=True,
    ) as process:
        try:
            output, limit = _read(process, limits)
        finally:
            started = _descendants(process.pid)
            for child in (*started, process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        code = process.wait()
        end = time.monotonic() + _DYING_S
        while any(map(_alive, started)) and time.monotonic() < end:
            time.sleep(0.001)
    out, err = (part[: limits.output_kb * 1024].decode("utf-8", "replace") for part in output)
    status: Status = limit or ("ok" if code == 0 else "failed")
    return Finished(status, None if limit else code, out, err)


def _read(process: subprocess.Popen[bytes], limits: Limits) -> tuple[tuple[bytes, bytes], Status | None]:
    assert process.stdout is not None and process.stderr is not None
    parts = {process.stdout: bytearray(), process.stderr: bytearray()}
    deadline = time.monotonic() + limits.seconds
    limit: Status | None = None
    with selectors.DefaultSelector() as selector:
        for stream in parts:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and limit is None:
            for key, _ in selector.select(_LOOK_EVERY_S):
                chunk = os.read(key.fd, 65536)
                parts[key.fileobj].extend(chunk)  # type: ignore[index]
                if not chunk:
                    selector.unregister(key.fileobj)
            if sum(map(len, parts.values())) > limits.output_kb * 1024:
                limit = "output"
            elif time.monotonic() > deadline:
                limit = "timeout"
            elif _memory_mb(process.pid) > limits.memory_mb:
                limit = "memory"
            elif process.poll() is not None:
                break  # processes that still have the pipes open are killed with the rest
    return (bytes(parts[process.stdout]), bytes(parts[process.stderr])), limit


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
