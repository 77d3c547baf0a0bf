"""Programs in what models write: one function, or several files under their names."""

from __future__ import annotations

import re
import textwrap
import warnings

from pipelines.examples import Example

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_FILE = re.compile(r"([\w./-]+\.\w+)[^\n`]*\n+```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


def function(text: str, example: Example) -> str:
    """A Python program: the code in the fences, else all of it; a bare body is put under its signature.

    ValueError for a text that is no Python.
    """
    code = "\n\n".join(_FENCE.findall(text)) or text
    entry_point = example.get("entry_point")
    if code.strip() and entry_point and f"def {entry_point}" not in code:
        body = code if code[:1] in (" ", "\t") else textwrap.indent(code, "    ")
        code = f"{example['task'].rstrip()}\n{body}"
    _require_python(code)
    return code.strip("\n") + "\n"


def files(text: str, example: Example) -> dict[str, str]:
    """Files by name: a line that ends in the name, then its fence. One fence without a name is main.py.

    ValueError where there is no code, or no Python among it.
    """
    found = {name.lstrip("./"): code for name, code in _FILE.findall(text) if ".." not in name}
    if not found:
        fences = _FENCE.findall(text)
        found = {"main.py": "\n\n".join(fences) if fences else text}
    python = [name for name in found if name.endswith(".py")]
    if not python:
        raise ValueError(f"no Python file among {', '.join(found)}")
    if "main.py" not in found and len(python) == 1:
        found["main.py"] = found.pop(python[0])
    for name in found:
        if name.endswith(".py"):
            _require_python(found[name])
    return found


def _require_python(code: str) -> None:
    if not code.strip():
        raise ValueError("no code")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<written>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"not Python: {error}") from None
