"""Parsers for programs: one function, or several files by name."""

from __future__ import annotations

import re
import textwrap
import warnings

from pipelines.examples import Example

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_FILE = re.compile(r"([\w./-]+\.\w+)[^\n`]*\n+```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


def function(text: str, example: Example) -> str:
    """Extract a Python program from a text.

    Args:
        text: What the model wrote. The program is the code in its fences, or the whole text if it has none.
        example: The example. If the code does not define its `entry_point`, the code is taken as the body of
            the function and put under the signature in `task`.

    Raises:
        ValueError: The text contains no valid Python.
    """
    code = "\n\n".join(_FENCE.findall(text)) or text
    entry_point = example.get("entry_point")
    if code.strip() and entry_point and f"def {entry_point}" not in code:
        body = code if code[:1] in (" ", "\t") else textwrap.indent(code, "    ")
        code = f"{example['task'].rstrip()}\n{body}"
    _require_python(code)
    return code.strip("\n") + "\n"


def files(text: str, example: Example) -> dict[str, str]:
    """Extract the files of a program from a text: a line that ends in the name, then a fenced block.

    Args:
        text: What the model wrote. If it names no file, the code in its fences, or the whole text, is
            main.py; if main.py is missing, the only Python file becomes main.py.
        example: The example, which is not used.

    Returns:
        The texts of the files by name.

    Raises:
        ValueError: There is no Python file, or one that is not valid Python.
    """
    by_name = {name.lstrip("./"): code for name, code in _FILE.findall(text) if ".." not in name}
    if not by_name:
        fences = _FENCE.findall(text)
        by_name = {"main.py": "\n\n".join(fences) if fences else text}
    python = [name for name in by_name if name.endswith(".py")]
    if not python:
        raise ValueError(f"no Python file among {', '.join(by_name)}")
    if "main.py" not in by_name and len(python) == 1:
        by_name["main.py"] = by_name.pop(python[0])
    for name in by_name:
        if name.endswith(".py"):
            _require_python(by_name[name])
    return by_name


def _require_python(code: str) -> None:
    if not code.strip():
        raise ValueError("no code")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<written>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"not Python: {error}") from None
