"""What becomes of hostile programs in the sandbox: how each ended, how long it took, what memory it got.

    PYTHONPATH=. python benchmarks/sandbox.py

2026-11-24, 2 cores: all sixteen contained under bubblewrap and under unshare, as root and as an ordinary
user, nothing left behind; a program that does nothing takes 0.02 s (bubblewrap) and 0.06 s (unshare).
"""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

from pipelines.software import sandbox
from pipelines.software.confinement import confinement
from tests.hostile import HOSTILE, MEMORY, as_files, bytes_got


def main() -> None:
    table = Table("program", "ended by", "seconds", "contained", title=f"under {confinement().kind}")
    limits = sandbox.Limits(seconds=5, memory_mb=256, scratch_mb=16)
    for name, (program, statuses, said) in {"nothing": ("", ("ok",), ""), **HOSTILE}.items():
        began = time.perf_counter()
        found = sandbox.run(as_files(program), limits=limits)
        output = found.stdout + found.stderr
        contained = found.status in statuses and said in output and "ESCAPED" not in output
        last = output.strip().splitlines()[-1:] or [""]
        told = f"{found.status}: {last[0][:60]}" if found.status in ("ok", "failed") else found.status
        table.add_row(name, told, f"{time.perf_counter() - began:.2f}", "yes" if contained else "NO")
    Console(width=130).print(table, ways())


def ways() -> Table:
    """How much memory each way to it leads to, at a limit of 256 MiB."""
    table = Table("way to memory", "ended by", "MiB", title="at a limit of 256 MiB")
    limits = sandbox.Limits(seconds=8, memory_mb=256, scratch_mb=16, output_kb=10_000)
    for name, program in MEMORY.items():
        finished = sandbox.run(as_files(program), limits=limits)
        table.add_row(name, finished.status, f"{bytes_got(finished.stdout) / 2**20:,.0f}")
    return table


if __name__ == "__main__":
    main()
