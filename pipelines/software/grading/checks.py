"""The grader's side: runs the tests, and has the candidate called for them on the other side.

Names that neither the tests nor the code before the candidate define are the candidate's. What is a plain
value there is that value here. Anything else gets a stand-in (`Other`), which calls, reads and sets on the
other side; it is equal to nothing, and to compare it is an error, so every comparison is made here.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from .session import Gone, Other, Session, Ungradable

JOB: Final = "job.json"
_TREE = 0x400  # ast.PyCF_ONLY_AST; importing `ast` takes as long as starting Python
_MOST_ERROR = 1500


class Names(dict[str, object]):
    """The global names of the tests; the candidate is asked for those that are missing.

    Args:
        session: The connection to the candidate.
        modules: Modules that the tests use without importing them.
        functions: Names of built-in functions that the candidate defines anew as its solution.
    """

    def __init__(self, session: Session, modules: frozenset[str], functions: frozenset[str]) -> None:
        super().__init__(__name__="__main__")
        self._session, self._modules, self._functions = session, modules, functions

    def __missing__(self, name: str) -> object:
        if name.startswith("__") or (hasattr(builtins, name) and name not in self._functions):
            raise KeyError(name)
        if name in self._modules:
            self[name] = import_module(name)
            return self[name]
        try:
            value = self._session.ask("name", name)
        except NameError:
            raise KeyError(name) from None
        if isinstance(value, Other):
            self[name] = value  # a plain value may be another one next time
        return value


class Uses:
    """The names that tests use: read, bound, called, and read as what has attributes."""

    def __init__(self, *trees: object) -> None:
        self.read, self.bound, self.called, self.owners = set[str](), set[str](), set[str](), set[str]()
        waiting = list(trees)
        while waiting:
            node = waiting.pop()
            self._see(node)
            for field in getattr(node, "_fields", ()):
                child = getattr(node, field)
                waiting += child if isinstance(child, list) else [child]

    def _see(self, node: object) -> None:
        kind = type(node).__name__
        if kind == "Name":
            reads = type(node.ctx).__name__ == "Load"  # type: ignore[attr-defined]
            (self.read if reads else self.bound).add(node.id)  # type: ignore[attr-defined]
        elif kind in ("FunctionDef", "ClassDef"):
            self.bound.add(node.name)  # type: ignore[attr-defined]
        elif kind == "arg":
            self.bound.add(node.arg)  # type: ignore[attr-defined]
        elif kind == "alias":
            self.bound.add(node.asname or node.name.partition(".")[0])  # type: ignore[attr-defined]
        for kinds, part, names in (("Call", "func", self.called), ("Attribute", "value", self.owners)):
            if kind == kinds and type(owner := getattr(node, part)).__name__ == "Name":
                names.add(owner.id)

    def names(self, session: Session, entry_point: str) -> Names:
        """The global names for these tests; what is not known to be trusted is the candidate's.

        A built-in function is the candidate's if it is the entry point, or if there is no entry point and the
        tests call nothing else that they do not define.
        """
        unknown = self.read - self.bound - set(dir(builtins))
        modules = frozenset(unknown & self.owners & sys.stdlib_module_names)
        functions = frozenset({entry_point} if entry_point or unknown - modules else self.called - self.bound)
        return Names(session, modules, functions)


def checked(job: dict[str, str], session: Session) -> dict[str, object]:
    """Run the tests of a job against the candidate.

    Returns:
        `passed`, `error` (what failed, for who mends the candidate), `suspicious` (what the candidate did
        that a solution does not do) and `fault` (what is wrong with the tests themselves); None if nothing.
    """
    error: str | None = None
    with suppress(Gone, Ungradable):
        error = _error(job, session)
        session.ask("end")  # nothing may come that was not asked for
    passed = error is None and session.trouble is None and session.fault is None
    return {
        "passed": passed,
        "error": error or session.trouble,
        "suspicious": session.trouble or (None if passed else session.odd),
        "fault": session.fault,
    }


def _error(job: dict[str, str], session: Session) -> str | None:
    """Run the tests; return what fails first."""
    try:
        session.ask("load")
        code = [(name, job[name]) for name in ("preamble", "tests") if job[name]]
        try:
            trees = [compile(text, f"{name}.py", "exec", _TREE, True) for name, text in code]
        except (SyntaxError, ValueError) as problem:
            session.refuse(f"they are not Python: {problem}")
        names = Uses(*trees).names(session, job["entry_point"])
        for (name, _), tree in zip(code, trees, strict=True):
            exec(compile(tree, f"{name}.py", "exec", dont_inherit=True), names)
        return _examples(job["examples"], names) if job["examples"] else None
    except (Gone, Ungradable):
        raise
    except BaseException as problem:
        return _text(problem, job)


def _examples(examples: str, names: Names) -> str | None:
    """Run the examples of a docstring; return what differs."""
    import doctest

    test = doctest.DocTestParser().get_doctest(examples, {}, "examples", None, 0)
    test.globs = names  # in place of a copy, which would not ask for missing names
    output = list[str]()
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=output.append, clear_globs=False)
    return "".join(output)[-_MOST_ERROR:] if runner.failures else None


def _text(error: BaseException, job: dict[str, str]) -> str:
    """The traceback through the tests, then that through the candidate."""
    import linecache
    import traceback

    for name in ("preamble", "tests"):
        lines = job[name].splitlines(keepends=True)
        linecache.cache[f"{name}.py"] = (len(job[name]), None, lines, f"{name}.py")
    inside = [frame for frame in traceback.extract_tb(error.__traceback__) if "/" not in frame.filename]
    parts = traceback.format_list(inside) + traceback.format_exception_only(error)
    return ("Traceback (most recent call last):\n" + "".join(parts) + str(error.__cause__ or ""))[
        -_MOST_ERROR:
    ]


class _Installed:
    """Has Python look for installed packages, which `-S` leaves out, when the first of them is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that nothing before has found."""
        import site

        sys.meta_path.remove(self)
        site.main()
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path)
        return next((spec for spec in specs if spec is not None), None)


def main() -> None:
    """Run job.json against the candidate on stdin and stdout, and write the verdict to stderr."""
    answers, requests = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    verdict = os.fdopen(os.dup(2), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # what tests print is not the verdict
        os.dup2(nothing, standard)
    with open(JOB, encoding="utf-8") as file:  # `pathlib` takes longer to import than most tests to run
        job = json.load(file)
    sys.meta_path.append(_Installed())
    with verdict:
        json.dump(checked(job, Session(requests, answers)), verdict)
    os._exit(0)  # threads that tests leave do not hold up the verdict
