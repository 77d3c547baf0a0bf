"""Metrics, scorers and feedback for programs, which run in the sandbox.

Functions are scored by the unit tests of their benchmark. Software is scored as in ChatDev (Qian et al.
2024): completeness (no placeholder is left), executability (three seconds without a failure), consistency
(cosine of the embeddings of task and code) and quality (the product of the three).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import TypeAlias, cast

from pipelines.examples import Example
from pipelines.software.confinement import confinement
from pipelines.software.embedding import cosine, embedded
from pipelines.software.grader import Checks, Verdict, grade
from pipelines.software.processes import Limits
from pipelines.software.sandbox import run
from pipelines.stages.candidates import Candidate

Program: TypeAlias = Mapping[str, str]
"""The texts of a program's files by name, as `parsing.files` returns them."""

_RUN = Limits(seconds=3.0)
_NOT_PLACEHOLDERS = ("password", "passenger", "passed", "passes")
_MOST_FEEDBACK = 1500


def require_ready() -> tuple[str, ...]:
    """Check that programs can be run, before anything is paid for.

    Returns:
        The limits of programs that this machine keeps otherwise than stated, with remedies.

    Raises:
        SandboxUnavailable: No sandbox works on this machine, or none that keeps the limits.
    """
    return confinement().warnings


def passes(output: object, example: Example) -> float:
    """Return 1 when the program passes the unit tests of the benchmark (pass@1), else 0."""
    return float(output is not None and _hidden(output, example).passed)


def suspicious(output: object, example: Example) -> float:
    """Return 1 when the program tried to pass the unit tests by other means than values; see `grader`."""
    return float(output is not None and _hidden(output, example).suspicious is not None)


def shown_examples(draft: object, example: Example) -> str | None:
    """Run a program on the examples that its task shows; the hidden tests are not run.

    Returns:
        The error, at most 1,500 characters from its end; None when the program passes.
    """
    verdict = grade(str(draft), _shown(example))
    return None if verdict.passed else verdict.error or "ended before the examples did"


def shown_score(candidate: Candidate, example: Example, outputs: Mapping[str, object]) -> float:
    """Return 1 when a sample passes the examples that its task shows, else 0; a scorer for best_of_n."""
    return float(shown_examples(candidate.value, example) is None)


def completeness(output: Program | None, example: Example) -> float:
    """Return 1 when no line of the code contains a placeholder ("pass" or "todo"); 0 without code."""
    lines = (line.lower() for text in (output or {}).values() for line in text.splitlines())
    left = [line for line in lines if not any(word in line for word in _NOT_PLACEHOLDERS)]
    return float(bool(output) and not any("pass" in line or "todo" in line for line in left))


def executability(output: Program | None, example: Example) -> float:
    """Return 1 when main.py runs for three seconds, or ends earlier with exit code 0; else 0."""
    return float(output is not None and _error(output) is None)


def consistency(output: Program | None, example: Example) -> float:
    """Compute the cosine of the embeddings of the task and of the code without comments, at least 0."""
    if not output:
        return 0.0
    code = "\n".join(f"{name}\n{_without_comments(text)}" for name, text in output.items())
    return min(1.0, max(0.0, cosine(embedded(example["task"]), embedded(code))))


def quality(output: Program | None, example: Example) -> float:
    """Compute completeness · executability · consistency."""
    if not completeness(output, example) or not executability(output, example):
        return 0.0
    return consistency(output, example)


def traceback_of(draft: Program, example: Example) -> str | None:
    """Run the software and return what it writes when it fails.

    Returns:
        At most 1,500 characters from the end of its traceback, or the exit code; None when it does not fail.
    """
    error = _error(draft)
    return None if error is None else error[-_MOST_FEEDBACK:]


def runs_score(candidate: Candidate, example: Example, outputs: Mapping[str, object]) -> float:
    """Return the sum of completeness and executability of a sample; a scorer for best_of_n."""
    value = cast(Program | None, candidate.value)
    return completeness(value, example) + executability(value, example)


def _error(files: Program) -> str | None:
    if "main.py" not in files:
        return "main.py is missing"
    finished = run(tuple(files.items()), limits=_RUN)
    if finished.status in ("memory", "output"):
        return f"ended by the limit on {finished.status}"
    if finished.status == "failed":
        return finished.stderr.strip() or f"main.py ended with exit code {finished.exit_code}"
    return None


def _hidden(program: object, example: Example) -> Verdict:
    entry_point, preamble, tests = (str(example[name]) for name in ("entry_point", "preamble", "tests"))
    return grade(str(program), Checks(entry_point=entry_point, preamble=preamble, tests=tests))


def _shown(example: Example) -> Checks:
    entry_point, preamble = str(example["entry_point"]), str(example["preamble"])
    if example["shown"]:
        return Checks(entry_point=entry_point, preamble=preamble, tests=str(example["shown"]))
    tree = ast.parse(f"{example['task']}    pass\n")
    definition = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == entry_point)
    return Checks(entry_point=entry_point, preamble=preamble, examples=ast.get_docstring(definition) or "")


def _without_comments(code: str) -> str:
    code = "\n".join(line for line in code.splitlines() if not line.strip().startswith("#"))
    return re.sub(r"\'\'\'.*?\'\'\'|\"\"\".*?\"\"\"", "", code, flags=re.DOTALL)
