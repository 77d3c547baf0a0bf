"""TaskBench's measures (Shen et al. 2023) for one request: ROUGE-L of steps, F1 of tools, links, parameters.

The published F1 counts over all requests together; for a single one it is 2·|both| / (|said| + |gold|), which
is what these give and whose mean is reported. Where there is nothing to name and nothing is named it is 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypedDict

from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.stages.metrics import rouge_l_of
from pipelines.tool_use.rows import arguments

_TOKEN = re.compile(r"[a-z0-9]+")


class Link(TypedDict):
    """One tool's output that another takes."""

    source: str
    target: str


class Selection(TypedDict):
    """What the stage of selection puts out."""

    tools: list[str]
    links: list[Link]


class Argument(TypedDict):
    """A parameter and its value."""

    name: str
    value: JSON


class Call(TypedDict):
    """A tool with its parameters filled."""

    tool: str
    arguments: list[Argument]


def steps_rouge_l(output: Sequence[JSON] | None, example: Example) -> float:
    """ROUGE-L F-measure of the steps, joined, over lower-case alphanumeric tokens, without stemming."""
    return rouge_l(" ".join(map(str, output or ())), " ".join(example["steps"]))


def rouge_l(said: str, right: str) -> float:
    """2·lcs / (|said| + |right|) in tokens; 0 when nothing is in common."""
    return rouge_l_of(_TOKEN.findall(said.lower()), _TOKEN.findall(right.lower()))


def node_f1(output: Selection | list[Call] | None, example: Example) -> float:
    """F1 of the tools' names, of a selection or of filled calls."""
    return _f1(tools(output), example["nodes"])


def edge_f1(output: Selection | list[Call] | None, example: Example) -> float:
    """F1 of the links, source and target in their order."""
    links = output.get("links", ()) if output and not isinstance(output, list) else ()
    return _f1(((link["source"], link["target"]) for link in links), map(tuple, example["links"]))


def parameter_name_f1(output: Sequence[Call] | None, example: Example) -> float:
    """F1 of (tool, parameter name)."""
    return _f1((call[:2] for call in calls(output)), (tuple(a[:2]) for a in example["arguments"]))


def parameter_value_f1(output: Sequence[Call] | None, example: Example) -> float:
    """F1 of (tool, parameter name, value)."""
    return _f1(calls(output), map(tuple, example["arguments"]))


def tools(output: Selection | list[Call] | None) -> list[str]:
    """The tools that a selection, or a list of filled calls, names."""
    if isinstance(output, list):
        return [str(call["tool"]) for call in output]
    return [str(name) for name in output.get("tools", ())] if output else []


def calls(output: Sequence[Call] | None) -> list[tuple[str, str, str]]:
    """(tool, name, value) of every filled parameter."""
    return [(str(call["tool"]), *pair) for call in output or () for pair in arguments(call["arguments"])]


def _f1(said: Iterable[object], right: Iterable[object]) -> float:
    first, second = set(said), set(right)
    if not first and not second:
        return 1.0
    return 2 * len(first & second) / (len(first) + len(second))
