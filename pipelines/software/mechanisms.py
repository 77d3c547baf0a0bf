"""The commands that put a program into a sandbox: bubblewrap's, or util-linux's `unshare` with a script.

Either way the program gets new namespaces for processes, mounts, network and IPC, a root of read-only system
directories, a read-only /dev of a few devices, a small scratch file system and an empty environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Literal, TypeAlias

from pipelines.software.processes import Limits

Kind: TypeAlias = Literal["bwrap", "unshare"]

_NOBODY = 65534
_USERS = range(61_440, 65_534)  # one for each program: the kernel counts processes by user
_STARTED = count(64 * os.getpid())
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64")
_SHARED_BYTES = 2**20  # of /dev/shm, which locks of multiprocessing need
_FILES = 4096  # in the scratch file system: each takes about 1 KiB of the kernel's memory
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
mkdir -p "$root/proc" "$root/dev/shm" "$root/work" "$root/etc"
if [ -e /etc/ld.so.cache ]; then cp /etc/ld.so.cache "$root/etc/"; fi
mount -t proc proc "$root/proc"
for name in null zero urandom random; do
  touch "$root/dev/$name"; mount --bind "/dev/$name" "$root/dev/$name"
done
mount -t tmpfs -o "size=$SHARED,nr_inodes=64,mode=1777" none "$root/dev/shm"
mount -t tmpfs -o "size=$size,nr_inodes=$FILES,mode=1777" none "$root/work"
cp -r "$source/." "$root/work/"; chmod -R a+rwX "$root/work"
mount -o remount,bind,ro "$root"
for name in kernel/shmmni kernel/msgmni fs/mqueue/queues_max $NAMESPACES; do
  { echo 0 > "/proc/sys/$name"; } 2>/dev/null || :
done
exec chroot "$root" /bin/sh -c 'unset SHARED FILES NAMESPACES; cd /work && exec "$@"' sh "$@"
"""


def wrapped(kind: Kind, source: Path, limits: Limits, command: Sequence[str]) -> list[str]:
    """Return the command that runs another one in a sandbox.

    Args:
        kind: The mechanism.
        source: The directory of the program, which is copied to the scratch file system.
        limits: The limits of the program.
        command: What runs in the sandbox, as an unprivileged user.
    """
    wrap = _bubblewrap if kind == "bwrap" else _unshare
    return [*wrap(source, limits), *limited(limits, drop=True), *command]


def interpreter() -> str:
    """Return the path of this Python, outside the sandbox and in it."""
    return os.path.realpath(sys.executable)


def program_words(main: str, *flags: str) -> tuple[str, ...]:
    """Return the words after the interpreter that run a file without what the user has set up for Python."""
    return ("-E", "-s", "-B", *flags, main)


def limited(limits: Limits, *, drop: bool) -> list[str]:
    """Return the command that sets the limits of each process before the program starts.

    Args:
        limits: The limits of the program.
        drop: Whether it also makes root a user without rights, and counts the processes of that user.
    """
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
    command += [f"--nproc={limits.processes}", "--msgqueue=0", "--sigpending=256", "--memlock=0"]
    command += ["setpriv", "--no-new-privs"]
    if os.getuid() == 0:
        user = _USERS[next(_STARTED) % len(_USERS)]
        command += [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return command


def _bubblewrap(source: Path, limits: Limits) -> list[str]:
    command = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-pid",
        "--as-pid-1",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
    ]
    command += ["--new-session", "--die-with-parent", "--clearenv"]
    command += ["--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/work"]
    if os.getuid() == 0:
        command += ["--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SYS_RESOURCE"):
            command += ["--cap-add", capability]
    else:
        command += ["--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY)]
        command += ["--disable-userns"] if disables_user_namespaces() else []
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    base = os.path.realpath(sys.base_prefix)
    if not base.startswith("/usr"):
        for parent in [*reversed(Path(base).parents)][1:]:  # some are closed to other users outside
            command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind", base, base]
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--proc", "/proc", "--dev", "/dev"]
    command += [
        "--size",
        str(_SHARED_BYTES),
        "--perms",
        "1777",
        "--tmpfs",
        "/dev/shm",
        "--remount-ro",
        "/dev",
    ]
    command += ["--perms", "1777", "--size", str(limits.scratch_mb * 2**20), "--tmpfs", "/work"]
    command += ["--ro-bind", str(source), "/source", "--remount-ro", "/", "--chdir", "/work"]
    return [*command, "sh", "-c", 'cp -r /source/. . && chmod -R a+rwX . 2>/dev/null; exec "$@"', "sh"]


@lru_cache(maxsize=1)
def disables_user_namespaces() -> bool:
    """Return whether the installed bubblewrap (0.8 and later) can forbid further user namespaces inside."""
    return (
        "--disable-userns"
        in subprocess.run([shutil.which("bwrap") or "bwrap", "--help"], capture_output=True, text=True).stdout
    )


def _unshare(source: Path, limits: Limits) -> list[str]:
    root = source.with_name("root")  # a mount point, which programs side by side can share: each has its own
    root.mkdir(exist_ok=True)
    command = [
        shutil.which("unshare") or "unshare",
        "--fork",
        "--kill-child",
        "--pid",
        "--mount",
        "--net",
        "--ipc",
        "--uts",
    ]
    namespaces = ""  # root's own user namespace is everybody's, so that nothing can be forbidden in it
    if os.getuid() != 0:
        command += ["--user", "--map-root-user"]
        namespaces = "user/max_user_namespaces"
    size = f"{limits.scratch_mb}m"
    base = os.path.realpath(sys.base_prefix)
    environment = ["env", "-i", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/work"]
    environment += [f"SHARED={_SHARED_BYTES}", f"FILES={_FILES}", f"NAMESPACES={namespaces}"]
    powerless = [] if os.getuid() == 0 else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    return [*command, *environment, "sh", "-c", _SETUP, "sh", str(root), str(source), size, base, *powerless]
