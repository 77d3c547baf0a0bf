"""Run Python that a model wrote in a sandbox, without network access and with limits on every resource.

The sandbox is bubblewrap or util-linux's `unshare` (`mechanisms`). The program gets new namespaces for
processes, mounts, network and IPC, a root of read-only system directories, a small scratch file system, an
empty environment, an unprivileged user, and limits on time, memory, output, file size and number of
processes, which the kernel keeps (`confinement`). All processes that the program starts are killed when it
ends. If neither mechanism works, nothing is run.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from pipelines.software.confinement import confinement
from pipelines.software.mechanisms import program_words
from pipelines.software.processes import Command, Finished, Limits, watch, watch_pair

Files: TypeAlias = tuple[tuple[str, str], ...]
"""Relative path and text of each file of a program."""

_LIMITS = Limits()


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
    sandbox = confinement()
    with tempfile.TemporaryDirectory(prefix="agenttts-sandbox-") as folder:
        if (problem := _write(files, Path(folder, "source"))) is not None:
            return Finished("failed", None, "", f"Traceback: {problem}")
        return watch(sandbox.command(Path(folder, "source"), program_words(main), limits), limits)


def run_pair(first: Files, second: Files, limits: Limits) -> tuple[Finished, Finished]:
    """Run two Python programs, each in a sandbox of its own, until the first one ends.

    The stdin of each is the stdout of the other; nothing else connects them. Each program's main.py is run.
    The first one starts without the directories of installed packages (`python -S`).

    Returns:
        How each program ended.

    Raises:
        SandboxUnavailable: No sandbox works on this machine.
    """
    sandbox = confinement()
    with tempfile.TemporaryDirectory(prefix="agenttts-sandbox-") as folder:
        commands = list[Command]()
        for name, files, flags in (("first", first, ("-S",)), ("second", second, ())):
            if (problem := _write(files, Path(folder, name))) is not None:
                raise OSError(problem)
            commands.append(sandbox.command(Path(folder, name), program_words("main.py", *flags), limits))
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
