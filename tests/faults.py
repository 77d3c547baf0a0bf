"""Fault injection: every n-th answer of a server, every n-th write of a store.

`every_nth` makes the faults of a `ScriptedServer`. `python -m tests.faults KIND N COMMAND...` runs a command
of agenttts whose store breaks at its N-th transaction and stays broken:

    kill, kill-after   the process is killed (SIGKILL) before the commit, or right after it
    unlink             the database file is deleted
    efbig              files may not grow any more (RLIMIT_FSIZE)
    enospc             a file `filler` takes all room of the database's directory; for a small file system
    eio                the commit fails with an input/output error, each second time
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from datastore.writer import Writer
from tests.servers.scripted import Request

ROOT = Path(__file__).parents[1]
ANSWERS = ("429", "500", "503", "529", "close", "garbage", "truncated", "cut_json", "empty")
"""Faults of an answer that are over at once; `hang` takes a client's patience."""
WRITES = ("kill", "kill-after", "unlink", "efbig", "enospc", "eio")


def every_nth(n: int, kinds: Sequence[str], first: int = 0) -> Callable[[Request], str | None]:
    """Return a fault for a scripted server: requests first, first + n, first + 2n ... fail, kinds in turn."""
    numbers, turns = itertools.count(), itertools.cycle(kinds)
    return lambda request: next(turns) if next(numbers) % n == first % n else None


def broken(kind: str, n: int, command: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Run a command of agenttts whose store breaks at its n-th transaction; n = 0: it does not."""
    return subprocess.run(
        [sys.executable, "-m", "tests.faults", kind, str(n), *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


@contextmanager
def small_file_system(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in a new folder, until the block ends; the test is skipped without root."""
    import pytest  # a command that breaks does without

    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def break_store(kind: str, n: int) -> None:
    """Make the stores of this process break at the n-th transaction from now."""
    sound, numbers = Writer._transact, itertools.count(1)

    def transact(writer: Writer, requests: list[object]) -> list[object]:
        number = next(numbers)
        if writer._file is None or number < n:
            return sound(writer, requests)  # type: ignore[arg-type]
        if kind == "kill-after":
            sound(writer, requests)  # type: ignore[arg-type]
        if kind.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "eio" and (number - n) % 2 == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if number == n:
            _spoil(kind, writer._path)
        return sound(writer, requests)  # type: ignore[arg-type]

    Writer._transact = transact  # type: ignore[method-assign, assignment]


def _spoil(kind: str, path: Path) -> None:
    if kind == "unlink":
        path.unlink()
    elif kind == "efbig":
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    elif kind == "enospc":
        with (path.parent / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC, error


if __name__ == "__main__":
    from agenttts.cli.main import main

    kind, n = sys.argv[1], int(sys.argv[2])
    assert kind in WRITES, WRITES
    if n:
        break_store(kind, n)
    sys.argv[1:] = sys.argv[3:]
    main()
