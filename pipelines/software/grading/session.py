"""The grader's connection to the candidate: what it asks, what it accepts, and what stands for the rest."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from .values import Packed, Packer, Unpacker, updated

_MOST_ANSWER_BYTES = 32 * 2**20
_ONE_BY_ONE = 64  # items of an iterator, which may be endless and slow, before they are fetched many at once
_AT_ONCE = 256


class Gone(BaseException):
    """The candidate no longer answers as agreed; not an `Exception`, so that tests do not handle it."""


class Ungradable(BaseException):
    """The tests can't be run this way; not an `Exception`, so that tests do not handle it."""


class Program(Exception):
    """The traceback through the candidate, as the cause of the exception that it raised."""


class Session:
    """Asks the candidate and takes plain values.

    Args:
        requests: Lines of JSON to the candidate.
        answers: Lines of JSON from the candidate.

    Attributes:
        trouble: How the candidate broke the agreement; None as long as it has not.
        odd: That it returned an object that compares by methods of its own; None as long as it has not.
        fault: Why the tests can't be run this way; None as long as they can.
    """

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._answers = answers
        self._pack = Packer(self._argument).pack
        self._unpack = Unpacker(self._other).unpack
        self._others = dict[int, Other]()
        self._count = 0
        self.trouble: str | None = None
        self.odd: str | None = None
        self.fault: str | None = None

    def ask(self, operation: str, *args: object, **named: object) -> Any:
        """Have an operation done on the other side, for example "call" with a function and its arguments.

        Arguments that the operation changes are changed here too.

        Returns:
            A plain value, or an `Other`.

        Raises:
            Exception: The operation raised it there; its cause is the traceback through the candidate.
            Gone: The candidate has ended, or its answer is not one to this request.
            Ungradable: An argument has no plain value.
        """
        if self.trouble is not None:
            raise Gone(self.trouble)
        self._count += 1
        try:
            request = json.dumps([self._count, operation, self._pack([*args]), self._pack(named)])
        except RecursionError:
            self.refuse("an argument contains itself, or is nested too deeply")
        try:
            self._requests.write(request.encode() + b"\n")
            self._requests.flush()
            line = self._answers.readline(_MOST_ANSWER_BYTES)
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            self._leave("it sent too long an answer" if line else "it ended before its tests did")
        value, raised, after = self._read(line)
        if raised is not None:
            raise raised
        if after is not None:
            updated([args, named], [tuple(after[0]), after[1]])
        return value

    def _read(self, line: bytes) -> tuple[object, Exception | None, list[Any] | None]:
        try:
            number, value, raised, after, odd = json.loads(line, object_hook=self._unpack)
            error = None if raised is None else _exception(*raised)
            if after is not None and [type(part) for part in after] != [list, dict]:
                raise TypeError("arguments")
        except (ValueError, TypeError, RecursionError, MemoryError) as problem:
            self._leave(f"its answer is no plain value ({type(problem).__name__})")
        if number != self._count:
            self._leave("it answered what was not asked")
        self.see(odd)
        return value, error, after

    def see(self, odd: object) -> None:
        """Note the class of an object that defines its own comparisons."""
        if odd is not None:
            self.odd = f"it returned an object that compares by methods of its own, of class {odd!r:.60}"

    def _leave(self, trouble: str) -> NoReturn:
        self.trouble = trouble
        raise Gone(trouble)

    def refuse(self, fault: str) -> NoReturn:
        """Give up, because the tests can't be run this way."""
        self.fault = fault
        raise Ungradable(fault)

    def _argument(self, value: object) -> Packed:
        if isinstance(value, Other):
            return {"other": [["number", value._number]]}
        if isinstance(value, Iterator):
            return {"iterator": [self._pack(item) for item in value]}
        self.refuse(f"they hand over an object of {type(value)!r:.80}, and only plain values can be")

    def _other(self, known: dict[str, object]) -> Other:
        number, kind, true, odd = (known[name] for name in ("number", "kind", "true", "odd"))
        if not isinstance(number, int):
            raise TypeError(f"number: {number!r:.40}")
        if number not in self._others:
            self._others[number] = Other(self, number, f"{kind!r:.60}", bool(true), odd)
        return self._others[number]


def _exception(kinds: list[str], args: list[object], traceback: str) -> Exception:
    """The built-in exception that is nearest to the candidate's."""
    for name in kinds:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                error = kind(*args)
            except TypeError:  # its arguments are of other types than the candidate's
                continue
            error.__cause__ = Program(f"\n{traceback}")
            return error
    raise TypeError("no exception")


class Other:
    """Stands for what stays on the candidate's side: a function, a class, an object, an iterator."""

    __slots__ = ("_kind", "_number", "_odd", "_session", "_true")
    _kind: str
    _number: int
    _odd: object
    _session: Session
    _true: bool

    def __init__(self, session: Session, number: int, kind: str, true: bool, odd: object) -> None:
        values = {"_session": session, "_number": number, "_kind": kind, "_true": true, "_odd": odd}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __call__(self, *args: object, **named: object) -> Any:
        return self._session.ask("call", self, *args, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._session.ask("getattr", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._session.ask("setattr", self, name, value)

    def __getitem__(self, key: object) -> Any:
        return self._session.ask("getitem", self, key)

    def __setitem__(self, key: object, value: object) -> None:
        self._session.ask("setitem", self, key, value)

    def __len__(self) -> Any:
        return self._session.ask("len", self)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._session.ask("iter", self)
        count = 0
        while batch := self._session.ask("take", iterator, 1 if count < _ONE_BY_ONE else _AT_ONCE):
            yield from batch
            count += len(batch)

    def __next__(self) -> Any:
        return self._session.ask("next", self)

    def __str__(self) -> str:
        return str(self._session.ask("str", self))

    def __repr__(self) -> str:
        return str(self._session.ask("repr", self))

    def __bool__(self) -> bool:
        return self._true

    def _compare(self, other: object = None) -> Any:
        self._session.see(self._odd)
        raise TypeError(f"a plain value is needed, and there is an object of class {self._kind}")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _compare
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _compare

    __hash__ = __abs__ = __float__ = __int__ = __index__ = __round__ = _compare
