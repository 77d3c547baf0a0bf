"""Rows of HumanEval, MBPP and SRDD as examples. ValueError where a row can't be asked or scored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any


def humaneval(row: Mapping[str, Any]) -> dict[str, object]:
    """task (signature and docstring), entry_point, preamble (what stands before it), tests, shown ("")."""
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
    """The same; the first assertion is shown, as it names the function, and all of them are the tests."""
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
    """task (the software's description), name, category."""
    name, task = str(row.get("Name") or "").strip(), str(row.get("Description") or "").strip()
    if not name or not task:
        raise ValueError(f"a row needs a name and a description, got {name!r:.60} and {task!r:.60}")
    mark = hashlib.sha256(task.encode()).hexdigest()[:6]  # some names come twice
    return {"id": f"{name}-{mark}", "name": name, "task": task, "category": str(row.get("Category") or "")}
