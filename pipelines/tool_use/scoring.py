"""TaskBench's metrics (Shen et al. 2023) for one request: ROUGE-L of steps, F1 of tools, links, parameters.

The published F1 counts over all requests together. Here it is 2·|both| / (|output| + |gold|) for each
request, and the mean is reported. It is 1 when both the output and the gold value are empty, and 0
when there is no output.
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
    """A link: the tool `target` takes the output of the tool `source`."""

    source: str
    target: str


class Selection(TypedDict):
    """The output of the stage that selects tools."""

    tools: list[str]
    links: list[Link]


class Argument(TypedDict):
    """A parameter of a tool and its value."""

    name: str
    value: JSON


class Call(TypedDict):
    """A tool with values for its parameters."""

    tool: str
    arguments: list[Argument]


def steps_rouge_l(output: Sequence[JSON] | None, example: Example) -> float:
    """Compute ROUGE-L's F-measure of the joined steps, over lower-case alphanumeric tokens, unstemmed."""
    return rouge_l(" ".join(map(str, output or ())), " ".join(example["steps"]))


def rouge_l(answer: str, gold: str) -> float:
    """Compute ROUGE-L's F-measure of two texts, over lower-case alphanumeric tokens."""
    return rouge_l_of(_TOKEN.findall(answer.lower()), _TOKEN.findall(gold.lower()))


def node_f1(output: Selection | list[Call] | None, example: Example) -> float:
    """Compute the F1 over the names of tools, in a selection or in calls."""
    return 0.0 if output is None else _f1(tools(output), example["nodes"])


def edge_f1(output: Selection | list[Call] | None, example: Example) -> float:
    """Compute the F1 over the links (source, target)."""
    if output is None:
        return 0.0
    links = () if isinstance(output, list) else output.get("links", ())
    return _f1(((link["source"], link["target"]) for link in links), map(tuple, example["links"]))


def parameter_name_f1(output: Sequence[Call] | None, example: Example) -> float:
    """Compute the F1 over pairs (tool, parameter name)."""
    if output is None:
        return 0.0
    return _f1((call[:2] for call in calls(output)), (tuple(a[:2]) for a in example["arguments"]))


def parameter_value_f1(output: Sequence[Call] | None, example: Example) -> float:
    """Compute the F1 over triples (tool, parameter name, value)."""
    return 0.0 if output is None else _f1(calls(output), map(tuple, example["arguments"]))


def tools(output: Selection | list[Call] | None) -> list[str]:
    """Return the names of the tools in a selection or in a list of calls."""
    if isinstance(output, list):
        return [str(call["tool"]) for call in output]
    return [str(name) for name in output.get("tools", ())] if output else []


def calls(output: Sequence[Call] | None) -> list[tuple[str, str, str]]:
    """Return (tool, parameter name, value) of every parameter that has a value."""
    return [(str(call["tool"]), *pair) for call in output or () for pair in arguments(call["arguments"])]


def _f1(output: Iterable[object], gold: Iterable[object]) -> float:
    output_items, gold_items = set(output), set(gold)
    if not output_items and not gold_items:
        return 1.0
    return 2 * len(output_items & gold_items) / (len(output_items) + len(gold_items))
