"""Running the command line in this process: `agenttts("search", ...)` gives exit code, stdout and stderr."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
from dataclasses import dataclass
from typing import Any
from unittest import mock

from agenttts.cli.main import main


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as one JSON value; whatever else is printed there is an error."""
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        return [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]


def agenttts(*arguments: object, stdin: str = "") -> Done:
    """The command as a shell would run it, with pipes instead of a terminal."""
    out, err = io.StringIO(), io.StringIO()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with (
            mock.patch.object(sys, "argv", ["agenttts", *map(str, arguments)]),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
        code: Any = 0
    except SystemExit as end:
        code = end.code
    finally:
        signal.signal(signal.SIGTERM, before)
    return Done(0 if code is None else int(code), out.getvalue(), err.getvalue())
