"""Grade a program by tests that it cannot reach.

Tests and program run in two sandboxes; see `pipelines.software.grading` for the two sides, and
docs/design/009-the-grader.md for why.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.resources import files as resources

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.software.grading.answers import SOLUTION
from pipelines.software.grading.checks import JOB
from pipelines.software.processes import Finished, Limits
from pipelines.software.sandbox import Files, run_pair

logger = logging.getLogger(__name__)

LIMITS = Limits(seconds=10.0)
_MEANS = re.compile(  # of programs that would rather find their grader than solve the task
    r"\b(?:settrace|setprofile|excepthook|atexit|_getframe|f_back|get_objects|get_referrers|os\._exit|os\.kill|os\.fork|"
    r"getppid|sys\.argv|__file__|__builtins__|builtins\.\w+)|/proc/"
)


class FaultyTests(ValueError):
    """Tests can't be run, so that they say nothing about a program."""


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What a program is checked by; the program sees nothing of it but the arguments of its calls.

    Attributes:
        entry_point: The name of the function that the tests call; empty if they name it themselves.
        preamble: Code before the program, which the tests can use too.
        tests: Python that raises an exception unless the program is right.
        examples: Examples of a docstring, which `doctest` compares; empty for none.
    """

    entry_point: str = ""
    preamble: str = ""
    tests: str = ""
    examples: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the tests say about a program.

    Attributes:
        passed: Whether all tests passed.
        error: What failed, at most 1,500 characters, with text that the program has written; None if nothing.
        suspicious: What the program did that a solution does not do: it ended before its tests, answered
            what was not asked, returned an object that claims to equal everything, or failed and uses means
            such as `sys.settrace`. None if nothing; a program that passed is never suspicious.
    """

    passed: bool
    error: str | None
    suspicious: str | None


class _Result(BaseModel):
    """The verdict as the grader's side writes it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    passed: bool
    error: str | None
    suspicious: str | None
    fault: str | None


@lru_cache(maxsize=4096)
def grade(program: str, checks: Checks, limits: Limits = LIMITS) -> Verdict:
    """Run a program in one sandbox and its tests in another, which asks it for values and compares them.

    Verdicts are cached: the same program is graded by the same checks once in this process.

    Args:
        program: The program, without the preamble.
        checks: What it is checked by.
        limits: The limits of the program, and of the tests.

    Raises:
        FaultyTests: The tests are not Python, end the grader, or hand over what is no plain value.
        SandboxUnavailable: No sandbox works on this machine.
    """
    job = {
        "entry_point": checks.entry_point,
        "preamble": checks.preamble,
        "tests": checks.tests,
        "examples": checks.examples,
    }
    tests, candidate = run_pair(
        (*_side("checks"), (JOB, json.dumps(job))),
        (*_side("answers"), (SOLUTION, f"{checks.preamble}\n{program}\n")),
        limits,
    )
    verdict = _verdict(tests, candidate)
    if not verdict.passed and verdict.suspicious is None and (means := _MEANS.search(program)):
        verdict = replace(verdict, suspicious=f"it fails, and uses {means[0]}")
    if verdict.suspicious is not None:
        logger.warning("a program is scored 0 and suspicious: %s", verdict.suspicious)
    return verdict


def _verdict(tests: Finished, candidate: Finished) -> Verdict:
    limit = next((side.status for side in (candidate, tests) if side.status not in ("ok", "failed")), None)
    if limit is not None:
        return Verdict(passed=False, error=f"ended by the limit on {limit}", suspicious=None)
    try:
        result = _Result.model_validate_json(tests.stderr)
    except ValidationError:
        raise FaultyTests(f"the tests ended the grader (exit code {tests.exit_code})") from None
    if result.fault is not None:
        raise FaultyTests(f"the tests can't be run: {result.fault}")
    return Verdict(passed=result.passed, error=result.error, suspicious=result.suspicious)


@cache
def _side(name: str) -> Files:
    """The files of one side: its module, those that it imports, and a main.py that starts it."""
    package = resources("pipelines.software.grading")
    modules = ("__init__", "values", *(("session",) if name == "checks" else ()), name)
    texts = [(f"grading/{module}.py", (package / f"{module}.py").read_text("utf-8")) for module in modules]
    return (("main.py", f"from grading.{name} import main\n\nmain()\n"), *texts)
