"""Metrics, scorers and feedback for programs, which run in the sandbox.

Functions are scored by the unit tests of their benchmark. Software is scored as in ChatDev (Qian et al.
2024): completeness (no placeholder is left), executability (three seconds without a traceback), consistency
(cosine of the embeddings of task and code) and quality (the product of the three).
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping
from typing import TypeAlias, cast

from pipelines.examples import Example
from pipelines.software.embedding import cosine, embedded
from pipelines.software.sandbox import Finished, Limits, mechanism, run
from pipelines.stages.candidates import Candidate

Program: TypeAlias = Mapping[str, str]
"""The texts of a program's files by name, as `parsing.files` returns them."""

_TESTS = Limits(seconds=10.0)
_RUN = Limits(seconds=3.0)
_NOT_PLACEHOLDERS = ("password", "passenger", "passed", "passes")
_MOST_FEEDBACK = 1500
_DOCTEST = """
import doctest as _doctest, sys as _sys
_runner = _doctest.DocTestRunner(verbose=False)
_runner.run(_doctest.DocTestParser().get_doctest({examples!r}, globals(), "examples", None, 0))
if _runner.failures: _sys.exit(1)
"""


def require_ready() -> None:
    """Check that programs can be run, before anything is paid for.

    Raises:
        SandboxUnavailable: No sandbox works on this machine.
    """
    mechanism()


def passes(output: object, example: Example) -> float:
    """Return 1 when the program passes the unit tests of the benchmark (pass@1), else 0."""
    return float(output is not None and _ends(f"{example['preamble']}\n{output}\n{example['tests']}")[0])


def shown_examples(draft: object, example: Example) -> str | None:
    """Run a program on the examples that its task shows; the hidden tests are not run.

    Returns:
        The error, at most 1,500 characters from its end; None when the program passes.
    """
    ended, finished = _ends(f"{example['preamble']}\n{draft}\n{_shown(example)}")
    if ended:
        return None
    error = finished.stderr.strip() or finished.stdout.strip() or f"ended by the limit on {finished.status}"
    return error[-_MOST_FEEDBACK:]


def shown_score(candidate: Candidate, example: Example, outputs: Mapping[str, object]) -> float:
    """Return 1 when a sample passes the examples that its task shows, else 0; a scorer for best_of_n."""
    return float(shown_examples(candidate.value, example) is None)


def completeness(output: Program | None, example: Example) -> float:
    """Return 1 when no line of the code contains a placeholder ("pass" or "todo"); 0 without code."""
    lines = (line.lower() for text in (output or {}).values() for line in text.splitlines())
    left = [line for line in lines if not any(word in line for word in _NOT_PLACEHOLDERS)]
    return float(bool(output) and not any("pass" in line or "todo" in line for line in left))


def executability(output: Program | None, example: Example) -> float:
    """Return 1 when main.py runs for three seconds, or ends earlier, without a traceback; else 0."""
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
    """Run the software and return its traceback.

    Returns:
        At most 1,500 characters from the end of the traceback; None when there is none.
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
    return finished.stderr if finished.status == "failed" and "Traceback" in finished.stderr else None


def _ends(program: str) -> tuple[bool, Finished]:
    """Whether a program ran to its last line, shown by a mark that it can't know, and how it ended."""
    mark = hashlib.sha256(program.encode()).hexdigest()
    finished = run((("main.py", f"{program}\nprint({mark!r})\n"),), limits=_TESTS)
    return finished.status == "ok" and finished.stdout.rstrip().endswith(mark), finished


def _shown(example: Example) -> str:
    if example["shown"]:
        return str(example["shown"])
    tree = ast.parse(f"{example['task']}    pass\n")
    definition = next(
        n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == example["entry_point"]
    )
    return _DOCTEST.format(examples=ast.get_docstring(definition) or "")


def _without_comments(code: str) -> str:
    code = "\n".join(line for line in code.splitlines() if not line.strip().startswith("#"))
    return re.sub(r"\'\'\'.*?\'\'\'|\"\"\".*?\"\"\"", "", code, flags=re.DOTALL)
