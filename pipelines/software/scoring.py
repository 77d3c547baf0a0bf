"""What a program is worth: the benchmark's unit tests, or ChatDev's measures. Programs run in the sandbox.

ChatDev (Qian et al. 2024): completeness (no placeholder is left), executability (it runs without a traceback
for three seconds), consistency (the cosine of the embeddings of task and code), quality (their product).
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
from pipelines.stages.aggregators import Candidate

Program: TypeAlias = Mapping[str, str]
"""Texts of files by name, as the parser's schema has them."""

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
    """Raise SandboxUnavailable where programs can't be contained, before anything is paid for."""
    mechanism()


def passes(output: object, example: Example) -> float:
    """1 when the program passes the benchmark's unit tests (pass@1), else 0."""
    return float(output is not None and _ends(f"{example['preamble']}\n{output}\n{example['tests']}")[0])


def shown_examples(draft: object, example: Example) -> str | None:
    """What goes wrong with the examples that the task itself shows; None when nothing does.

    The hidden tests are never run for it.
    """
    ended, found = _ends(f"{example['preamble']}\n{draft}\n{_shown(example)}")
    if ended:
        return None
    told = found.stderr.strip() or found.stdout.strip() or f"ended by the limit on {found.status}"
    return told[-_MOST_FEEDBACK:]


def shown_score(candidate: Candidate, example: Example, outputs: Mapping[str, object]) -> float:
    """1 for a sample that passes the examples shown, else 0: what best_of_n goes by."""
    return float(shown_examples(candidate.value, example) is None)


def completeness(output: Program | None, example: Example) -> float:
    """1 when no line of the code holds a placeholder, "pass" or "todo"; 0 without code."""
    lines = (line.lower() for text in (output or {}).values() for line in text.splitlines())
    left = [line for line in lines if not any(word in line for word in _NOT_PLACEHOLDERS)]
    return float(bool(output) and not any("pass" in line or "todo" in line for line in left))


def executability(output: Program | None, example: Example) -> float:
    """1 when main.py runs for three seconds, or ends before, without a traceback; else 0."""
    return float(output is not None and _error(output) is None)


def consistency(output: Program | None, example: Example) -> float:
    """Cosine of the embeddings of the task and of the code without comments, at least 0."""
    if not output:
        return 0.0
    code = "\n".join(f"{name}\n{_without_comments(text)}" for name, text in output.items())
    return min(1.0, max(0.0, cosine(embedded(example["task"]), embedded(code))))


def quality(output: Program | None, example: Example) -> float:
    """Completeness · executability · consistency."""
    if not completeness(output, example) or not executability(output, example):
        return 0.0
    return consistency(output, example)


def traceback_of(draft: Program, example: Example) -> str | None:
    """The traceback that running the software gives; None when it gives none."""
    error = _error(draft)
    return None if error is None else error[-_MOST_FEEDBACK:]


def runs_score(candidate: Candidate, example: Example, outputs: Mapping[str, object]) -> float:
    """Completeness and executability of a sample: what best_of_n goes by."""
    value = cast(Program | None, candidate.value)
    return completeness(value, example) + executability(value, example)


def _error(files: Program) -> str | None:
    if "main.py" not in files:
        return "main.py is missing"
    found = run(tuple(files.items()), limits=_RUN)
    if found.status in ("memory", "output"):
        return f"ended by the limit on {found.status}"
    return found.stderr if found.status == "failed" and "Traceback" in found.stderr else None


def _ends(program: str) -> tuple[bool, Finished]:
    """Whether a program ran to its last line, which no early exit can feign."""
    mark = hashlib.sha256(program.encode()).hexdigest()
    found = run((("main.py", f"{program}\nprint({mark!r})\n"),), limits=_TESTS)
    return found.status == "ok" and found.stdout.rstrip().endswith(mark), found


def _shown(example: Example) -> str:
    if example["shown"]:
        return str(example["shown"])
    tree = ast.parse(f"{example['task']}    pass\n")
    asked = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == example["entry_point"])
    return _DOCTEST.format(examples=ast.get_docstring(asked) or "")


def _without_comments(code: str) -> str:
    kept = "\n".join(line for line in code.splitlines() if not line.strip().startswith("#"))
    return re.sub(r"\'\'\'.*?\'\'\'|\"\"\".*?\"\"\"", "", kept, flags=re.DOTALL)
