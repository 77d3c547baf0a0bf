"""The candidate's side: runs solution.py and does with it what the grader asks, one line of JSON at a time.

The candidate lives in this process and can change everything here. It gains nothing: the grader sends
arguments, never tests, expected values or verdicts, and takes plain values only.
"""

from __future__ import annotations

import json
import operator
import os
import sys
import types
from collections.abc import Callable
from itertools import islice
from typing import BinaryIO, Final

from .values import Packed, Packer, Unpacker, compares

SOLUTION: Final = "solution.py"
_MOST_TRACEBACK = 1500


class Answers:
    """Answers requests until there are no more.

    Args:
        requests: Lines of JSON from the grader.
        answers: Lines of JSON to the grader.
    """

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._answers = answers
        self._module = types.ModuleType("__main__")
        self._others = list[object]()  # what stays here, by its number
        self._numbers = dict[int, int]()  # its number, by its address
        self._packer = Packer(self._other)
        self._pack = self._packer.pack
        self._unpack = Unpacker(lambda number: self._others[number["number"]]).unpack  # type: ignore[call-overload]
        self._operations: dict[str, Callable[..., object]] = {
            "load": self._load,
            "name": self._name,
            "end": lambda: None,
            "call": lambda function, *args, **named: function(*args, **named),
            "getattr": getattr,
            "setattr": setattr,
            "getitem": operator.getitem,
            "setitem": operator.setitem,
            "len": len,
            "iter": iter,
            "next": next,
            "take": lambda iterator, most: list(islice(iterator, most)),
            "str": str,
            "repr": repr,
        }

    def serve(self) -> None:
        """Answer until the grader has gone."""
        for line in self._requests:
            self._answers.write(json.dumps(self._answer(line)).encode() + b"\n")
            self._answers.flush()

    def _answer(self, line: bytes) -> list[Packed]:
        """Do what a request asks.

        Returns:
            The number of the request, the value, the exception (None if there is none), the arguments after
            the call (None if they have not changed), and the class of a plain value that compares by methods
            of its own.
        """
        number, operation, args, named = json.loads(line, object_hook=self._unpack)
        value: Packed = None
        raised: list[Packed] | None = None
        after: list[Packed] | None = None
        self._packer.odd = None
        try:
            value = self._pack(self._operations[operation](*args, **named))
            changed = [self._pack(args), self._pack(named)]
            after = changed if changed != json.loads(line)[2:] else None
        except Exception as error:
            raised = self._raised(error)
        return [number, value, raised, after, self._packer.odd]

    def _raised(self, error: Exception) -> list[Packed]:
        """The names of an exception's classes, its arguments, and the traceback through the candidate."""
        import traceback

        try:
            args = self._pack(list(error.args))
        except Exception:
            args = []
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        own = [line for line in lines if "/grading/" not in line.partition("\n")[0]]
        kinds: list[Packed] = [kind.__name__ for kind in type(error).__mro__]
        return [kinds, args, "".join(own)[-_MOST_TRACEBACK:]]

    def _load(self) -> None:
        sys.modules["__main__"] = self._module
        with open(SOLUTION, encoding="utf-8") as file:
            code = compile(file.read(), os.path.abspath(SOLUTION), "exec", dont_inherit=True)
        exec(code, self._module.__dict__)

    def _name(self, name: str) -> object:
        try:
            return self._module.__dict__[name]
        except KeyError:
            raise NameError(f"name {name!r} is not defined") from None

    def _other(self, value: object) -> Packed:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._others)
            self._others.append(value)
        number = self._numbers[id(value)]
        kind = type(value)
        odd = kind.__name__ if compares(kind, object) else None
        return {"other": [["number", number], ["kind", kind.__name__], ["true", bool(value)], ["odd", odd]]}


def main() -> None:
    """Serve on stdin and stdout; what the candidate prints goes to stderr, and it reads nothing."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    Answers(requests, answers).serve()
