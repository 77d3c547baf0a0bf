"""Where `agenttts run` writes its answers, a JSON line for each: stdout, or a file to go on with later."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Self

from agenttts.cli.options import stdout
from agenttts.errors import UserError
from agenttts.terminal import escaped_json
from datastore.keys import well_formed

if TYPE_CHECKING:
    from agenttts.answering import Answer
    from pipelines.dataset.inputs import NewInput


class Answers:
    """Answers, written line by line.

    Attributes:
        n: How many there are, those written before included.
        n_failed: How many of them have no output.
        first_failure: Why the first of these has none; None without one.
        is_broken: Whether an answer could not be written.
    """

    def __init__(self, file: FileIO | None, path: Path | None) -> None:
        self.n = self.n_failed = 0
        self.first_failure: str | None = None
        self.is_broken = False
        self._file = file
        self._name = "stdout" if path is None else str(path)

    @classmethod
    @contextmanager
    def open(cls, path: Path | None, *, resume: bool) -> Iterator[Self]:
        """Open a file of answers.

        Args:
            path: The file; None for stdout.
            resume: Whether to go on after its last whole line; a part of a line after it is cut off.

        Raises:
            UserError: The file can't be opened, or has answers that are not gone on with.
        """
        if path is None:
            if stdout() is None:
                raise UserError("stdout: is closed; name a file (--out)")
            yield cls(None, None)
            return
        try:
            file = path.open("ab", buffering=0)
        except OSError as error:
            raise UserError(
                f"{path}: can't be written: {error.strerror}; name another file (--out)"
            ) from error
        with file:
            status = os.fstat(file.fileno())
            is_kept = stat.S_ISREG(status.st_mode)
            if resume and not is_kept:
                raise UserError(
                    f"{path}: not a file that keeps what is written, so that --resume has nothing to go on "
                    "with; leave --resume out, or name a file (--out)"
                )
            if is_kept and not resume and status.st_size:
                raise UserError(
                    f"{path}: has answers already; --resume goes on after them, or name another file (--out)"
                )
            yield cls(file, path)

    def before(self, inputs: Iterator[NewInput]) -> Iterator[Answer]:
        """Yield the answers that are there already, and read their inputs.

        Args:
            inputs: All inputs from the first; afterwards, those without an answer are left.

        Raises:
            UserError: A line is no answer, or is not that of the input in its place.
        """
        if self._file is None or not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            return
        whole = 0
        with open(self._name, "rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    whole += len(line)
                    yield self._answer(line, next(inputs, None))
        self._file.truncate(whole)

    def _answer(self, line: bytes, row: NewInput | None) -> Answer:
        place = f"{self._name}:{self.n + 1}"
        try:
            answer: Answer = json.loads(line)
            own_id, _ = answer["id"], answer["status"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(f"{place}: not an answer of `agenttts run`; name another file (--out)") from None
        if row is None or row.id != own_id:
            fault = "there is no such input" if row is None else f"the input there has {row.id!r}"
            raise UserError(
                f"{place}: the answer to {own_id!r}, but {fault}; --resume takes the same inputs, all of them"
            )
        self._count(answer)
        return answer

    def write(self, answer: Answer) -> None:
        """Write an answer, which is with the system when this returns.

        Raises:
            UserError: It can't be written; what was written before is whole.
            BrokenPipeError: Nobody reads stdout any more.
        """
        text = escaped_json(well_formed(json.dumps(answer, ensure_ascii=False))) + "\n"
        try:
            if self._file is None:
                stdout().write(text)
                stdout().flush()
            else:
                left = text.encode()
                while left:
                    left = left[self._file.write(left) :]
        except BrokenPipeError:
            self.is_broken = True
            raise
        except OSError as error:
            self.is_broken = True
            if self._file is None:  # what is left of the line would fail once more at the end
                os.dup2(os.open(os.devnull, os.O_WRONLY), stdout().fileno())
            raise UserError(
                f"{self._name}: can't be written: {error.strerror}; make room and go on (--out FILE --resume)"
            ) from error
        self._count(answer)

    def _count(self, answer: Answer) -> None:
        self.n += 1
        if answer["status"] != "ok":
            self.n_failed += 1
            self.first_failure = self.first_failure or answer.get("reason")
