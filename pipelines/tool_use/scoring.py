"""TaskBench's measures (Shen et al. 2023) for one request: ROUGE-L of steps, F1 of tools, links, parameters.

The published F1 counts over all requests together; for a single one it is 2·|both| / (|said| + |gold|), which
is what these give and whose mean is reported. Where there is nothing to name and nothing is named it is 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pipelines.examples import Example
from pipelines.metrics import rouge_l_of
from pipelines.tool_use.rows import arguments

_TOKEN = re.compile(r"[a-z0-9]+")


def steps_rouge_l(output: Any | None, example: Example) -> float:
    """ROUGE-L F-measure of the steps, joined, over lower-case alphanumeric tokens, without stemming."""
    return rouge_l(" ".join(map(str, output or ())), " ".join(example["steps"]))


def rouge_l(said: str, right: str) -> float:
    """2·lcs / (|said| + |right|) in tokens; 0 when nothing is in common."""
    return rouge_l_of(_TOKEN.findall(said.lower()), _TOKEN.findall(right.lower()))


def node_f1(output: Any | None, example: Example) -> float:
    """F1 of the tools' names, of a selection or of filled calls."""
    return _f1(tools(output), example["nodes"])


def edge_f1(output: Any | None, example: Example) -> float:
    """F1 of the links, source and target in their order."""
    links = output.get("links", ()) if isinstance(output, dict) else ()
    return _f1(((link["source"], link["target"]) for link in links), map(tuple, example["links"]))


def parameter_name_f1(output: Any | None, example: Example) -> float:
    """F1 of (tool, parameter name)."""
    return _f1((call[:2] for call in calls(output)), (tuple(a[:2]) for a in example["arguments"]))


def parameter_value_f1(output: Any | None, example: Example) -> float:
    """F1 of (tool, parameter name, value)."""
    return _f1(calls(output), map(tuple, example["arguments"]))


def tools(output: Any | None) -> list[str]:
    """The tools that a selection, or a list of filled calls, names."""
    if isinstance(output, dict):
        return [str(name) for name in output.get("tools", ())]
    return [str(call["tool"]) for call in output or ()]


def calls(output: Any | None) -> list[tuple[str, str, str]]:
    """(tool, name, value) of every filled parameter."""
    return [(str(call["tool"]), *pair) for call in output or () for pair in arguments(call["arguments"])]


def _f1(said: Iterable[Any], right: Iterable[Any]) -> float:
    first, second = set(said), set(right)
    if not first and not second:
        return 1.0
    return 2 * len(first & second) / (len(first) + len(second))
