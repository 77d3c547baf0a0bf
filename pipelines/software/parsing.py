"""Parsers for programs: one function, or several files by name."""

from __future__ import annotations

from pipelines.examples import Example
from pipelines.reading.readers import (
    blocks,
    code,
    completed,
    defines,
    file_name,
    python_problem,
    required,
    strip_thinking,
)


def function(text: str, example: Example) -> str:
    """Extract a Python program from a text.

    Args:
        text: What the model wrote. The program is the code in its fences, or the whole text if it has none.
        example: The example. If the code does not define its `entry_point`, the code is taken as the body of
            the function and put under the signature in `task`.

    Raises:
        ValueError: The text contains no valid Python.
    """
    entry_point = example.get("entry_point")
    program = required(code(required(strip_thinking(text)), "python", defining=entry_point or None))
    if entry_point and not _stands_alone(program, entry_point):
        program = completed(example["task"], program)
    _require_python(program)
    return program.strip("\n") + "\n"


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
    answer = required(strip_thinking(text))
    fenced = blocks(answer)
    by_name = {name: block.code for block in fenced if (name := file_name(block))}
    if not by_name:
        by_name = {"main.py": "\n\n".join(block.code for block in fenced) if fenced else answer}
    python = [name for name in by_name if name.endswith(".py")]
    if not python:
        raise ValueError(f"no Python file among {', '.join(by_name)}")
    if "main.py" not in by_name and len(python) == 1:
        by_name["main.py"] = by_name.pop(python[0])
    for name in by_name:
        if name.endswith(".py"):
            _require_python(by_name[name])
    return by_name


def _stands_alone(program: str, entry_point: str) -> bool:
    """Whether a program defines its function itself; a body may have a variable of the function's name."""
    return defines(program, entry_point) and (
        f"def {entry_point}" in program or python_problem(program) is None
    )


def _require_python(program: str) -> None:
    if not program.strip():
        raise ValueError("no code")
    if (problem := python_problem(program)) is not None:
        raise ValueError(f"not Python: {problem}")
