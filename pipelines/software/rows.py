"""Rows of HumanEval, MBPP and SRDD as examples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any


def humaneval(row: Mapping[str, Any]) -> dict[str, object]:
    """Build an example from a row of HumanEval.

    Returns:
        `id`, `task` (signature and docstring), `entry_point` (name of the function), `preamble` (the code
        before the function), `tests` (the hidden tests) and `shown` (empty, as the docstring contains the
        examples).

    Raises:
        ValueError: The prompt does not define the function, or the tests do not define `check`.
    """
    task, entry_point, tests = (str(row.get(name) or "") for name in ("prompt", "entry_point", "test"))
    if f"def {entry_point}(" not in task or "def check(" not in tests:
        raise ValueError(f"a row needs a prompt that defines {entry_point!r} and a test that defines check")
    return {
        "id": str(row["task_id"]),
        "task": task,
        "entry_point": entry_point,
        "preamble": task[: task.rindex(f"def {entry_point}(")],
        "tests": f"{tests}\ncheck({entry_point})\n",
        "shown": "",
    }


def mbpp(row: Mapping[str, Any]) -> dict[str, object]:
    """Build an example from a row of MBPP, with the same fields as `humaneval`.

    All assertions are the tests. The first one is `shown` in the prompt, because it names the function;
    `entry_point` and `preamble` are empty.

    Raises:
        ValueError: The row has no text or no tests.
    """
    assertions = [str(test) for test in row.get("test_list") or ()]
    task = str(row.get("text") or row.get("prompt") or "").strip()
    if not task or not assertions:
        raise ValueError(f"a row needs a text and tests, got {task!r:.60} and {len(assertions)} tests")
    setup = str(row.get("test_setup_code") or "\n".join(row.get("test_imports") or ()))
    return {
        "id": str(row["task_id"]),
        "task": task,
        "entry_point": "",
        "preamble": "",
        "tests": "\n".join([setup, *assertions, ""]),
        "shown": "\n".join([setup, assertions[0], ""]).lstrip(),
    }


def srdd(row: Mapping[str, Any]) -> dict[str, object]:
    """Build an example from a row of SRDD.

    Returns:
        `id`, `name`, `task` (the description of the software) and `category`.

    Raises:
        ValueError: The row has no name or no description.
    """
    name, task = str(row.get("Name") or "").strip(), str(row.get("Description") or "").strip()
    if not name or not task:
        raise ValueError(f"a row needs a name and a description, got {name!r:.60} and {task!r:.60}")
    mark = hashlib.sha256(task.encode()).hexdigest()[:6]  # some names come twice
    return {"id": f"{name}-{mark}", "name": name, "task": task, "category": str(row.get("Category") or "")}
