"""Rows of TaskBench, and of UltraTool in the same form, as examples.

Published rows contain JSON in texts, and names of arguments that are not always parameters of the tool; both
are accepted. The descriptions of the tools are not in the rows but in the shared field `tool_desc`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def example(row: Mapping[str, Any]) -> dict[str, object]:
    """Build an example from a row.

    Args:
        row: A row, with the shared field `tool_desc`.

    Returns:
        `id`, `request`, `tools` (`name` and `text` of every available tool), and the gold values: `steps`
        (texts), `nodes` (names of tools), `links` ([source, target]) and `arguments` ([tool, name, value]).

    Raises:
        ValueError: The row has no request or no tools, or names a tool that is not described.
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


def arguments(entries: Sequence[object]) -> list[tuple[str, str]]:
    """Return (name, value) of each argument.

    An argument without a name, as in domains whose tools pass files on, is named after its kind.
    """
    pairs = []
    for argument in entries:
        if isinstance(argument, Mapping):
            pairs.append((str(argument.get("name", "")), text(argument.get("value", ""))))
        else:
            pairs.append((kind(str(argument)), str(argument)))
    return pairs


def kind(value: str) -> str:
    """Return the kind of an argument: `node` (the output of a tool), `image`, `audio`, `video` or `text`."""
    if value.startswith("<node"):
        return "node"
    suffix = value.rsplit(".", 1)[-1].lower()
    kinds = {"image": ("jpg", "jpeg", "png", "gif"), "audio": ("wav", "mp3", "flac"), "video": ("mp4", "avi")}
    return next((name for name, suffixes in kinds.items() if suffix in suffixes), "text")


def text(value: object) -> str:
    """Return the text under which a value is compared: a text itself, other values as JSON."""
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
