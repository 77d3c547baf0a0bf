"""What it costs that tests and program run in two sandboxes, beside both in one, on HumanEval's solutions.

    AGENTTTS_DATA=DIR PYTHONPATH=. python benchmarks/grader.py [--problems 100] [--at-once 2]

Each problem is graded, and run in one sandbox as a program with its tests, in turn. Printed: seconds and CPU
seconds of each way, their ratio, and how many solutions pass.

2026-11-26, two cores with other work, 100 problems, all pass both ways. Under unshare 1.27 (one at once)
and 1.38 (two at once) times the seconds, 1.31 and 1.37 times the CPU seconds; under bubblewrap 1.84 (6.7
to 12.4 s) and 2.22 (3.9 to 8.7 s) times the seconds, its CPU seconds not all counted.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import time
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.table import Table

from pipelines import Example
from pipelines.software import rows, sandbox, scoring
from pipelines.software.confinement import confinement
from tests.real_data import DATA


def together(program: str, example: Example) -> float:
    """The program and its tests as one program in one sandbox, which is how they ran before."""
    text = f"{example['preamble']}\n{program}\n{example['tests']}\n"
    return float(sandbox.run((("main.py", text),)).status == "ok")


def spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=2)
    args = parser.parse_args()
    lines = gzip.decompress((DATA / "code/HumanEval.jsonl.gz").read_bytes()).decode().splitlines()
    problems = [
        (row["prompt"] + row["canonical_solution"], Example(row["task_id"], rows.humaneval(row)))
        for row in map(json.loads, lines[: args.problems])
    ]
    ways = {"one sandbox": together, "two sandboxes": scoring.passes}
    seconds, cpu, passed = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    with ThreadPoolExecutor(args.at_once) as pool:
        for start in range(0, len(problems), 10):  # in turn, so that other work on the machine meets both
            for way, score in ways.items():
                began, before = time.perf_counter(), spent()
                passed[way] += sum(pool.map(score, *zip(*problems[start : start + 10], strict=True)))
                seconds[way] += time.perf_counter() - began
                cpu[way] += spent() - before
    table = Table("way", "pass", "seconds", "CPU seconds", title=f"under {confinement().kind}")
    for way in ways:
        table.add_row(way, f"{passed[way]:.0f}", f"{seconds[way]:.1f}", f"{cpu[way]:.1f}")
    ratios = [measured["two sandboxes"] / measured["one sandbox"] for measured in (seconds, cpu)]
    table.add_row("ratio", "", *(f"{ratio:.2f}" for ratio in ratios))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
