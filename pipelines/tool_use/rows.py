"""Rows of TaskBench, and of UltraTool in the same form, as examples.

Published rows hold JSON in texts, and arguments under names that are not always the tool's; both are read as
they stand. The tools' descriptions are not in the rows: they come as the shared field `tool_desc`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def example(row: Mapping[str, Any]) -> dict[str, object]:
    """request, tools (name, text), steps, nodes (tool names), links ([source, target]), arguments.

    arguments: [tool, name, value] each. ValueError where the row has no request or tools, or names a tool
    that there is not.
    """
    request = str(row.get("user_request") or row.get("instruction") or "").strip()
    nodes = _decoded(row.get("task_nodes") or row.get("tool_nodes") or [])
    if not request or not nodes:
        raise ValueError(f"a row needs a request and its tools, got {request!r:.60} and {len(nodes)} tools")
    tools = [_tool(node) for node in _decoded(row["tool_desc"])["nodes"]]
    known = {tool["name"] for tool in tools}
    names = [str(node["task"]) for node in nodes]
    links = [[str(link["source"]), str(link["target"])] for link in _decoded(row.get("task_links") or [])]
    unknown = sorted({*names, *(name for link in links for name in link)} - known)
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not among the {len(known)} tools described")
    return {
        "id": str(row["id"]),
        "request": request,
        "tools": tools,
        "steps": [str(step).strip() for step in _decoded(row.get("task_steps") or [])],
        "nodes": list(dict.fromkeys(names)),
        "links": links,
        "arguments": [[str(n["task"]), *pair] for n in nodes for pair in arguments(n.get("arguments") or [])],
    }


def arguments(found: Sequence[object]) -> list[tuple[str, str]]:
    """(name, value) of each argument. One without a name, as where tools pass files on, goes by its kind."""
    pairs = []
    for argument in found:
        if isinstance(argument, Mapping):
            pairs.append((str(argument.get("name", "")), text(argument.get("value", ""))))
        else:
            pairs.append((kind(str(argument)), str(argument)))
    return pairs


def kind(value: str) -> str:
    """What is passed: another tool's output, or an image, audio, video or text."""
    if value.startswith("<node"):
        return "node"
    suffix = value.rsplit(".", 1)[-1].lower()
    kinds = {"image": ("jpg", "jpeg", "png", "gif"), "audio": ("wav", "mp3", "flac"), "video": ("mp4", "avi")}
    return next((name for name, suffixes in kinds.items() if suffix in suffixes), "text")


def text(value: object) -> str:
    """A value as it is compared: texts as they stand, others as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _tool(node: Mapping[str, Any]) -> dict[str, str]:
    parameters = [
        f"{p['name']} ({p['type']}: {p['desc']})" if isinstance(p, Mapping) else str(p)
        for p in node.get("parameters") or node.get("input-type") or ()
    ]
    return {"name": str(node["id"]), "text": f"{node.get('desc', '')} [{', '.join(parameters)}]"}


def _decoded(value: Any) -> Any:
    """JSON in a text, as the hub's rows hold it, or the value itself."""
    return json.loads(value) if isinstance(value, str) else value
