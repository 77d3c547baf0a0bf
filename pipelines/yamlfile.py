"""A YAML file as plain data, with the line of everything in it.

Scalars are read by YAML 1.2's core schema, so that 7e9 is a number and `no` is text. Duplicate keys, keys
that are not text, several documents and tags are refused. What the data means is left to `specfile`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import SpecError

Place = tuple[str | int, ...]
_TAG = "tag:yaml.org,2002:"
_MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 the library's own name, replaced on purpose


for _kind, _pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9_]*)",
    "float": r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "merge": r"<<",
}.items():
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})$"), [None])


@dataclass
class Document:
    """The file's data, and the 1-based line of each value by its path of keys and positions."""

    file: str
    data: Any = None
    lines: dict[Place, int] = field(default_factory=dict)


def read_yaml(file: Path) -> Document:
    """Read a YAML file. SpecError, with the line, when it can't be read or is not plain YAML."""
    document = Document(str(file))
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise SpecError(f"can't be read: {error.strerror}", file=file, remedy="check the path") from None
    except UnicodeDecodeError:
        raise SpecError("must be UTF-8 text", file=file) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        text = ", ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(f"must be YAML: {text}", file=file, line=mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise SpecError(f"must be YAML: {error}", file=file) from None
    document.data = _value(document, node, (), ()) if node is not None else None
    return document


def _value(document: Document, node: yaml.Node, path: Place, above: tuple[yaml.Node, ...]) -> Any:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if node in above:
        raise _refusal(document, node, "an alias must not hold itself")
    if len(document.lines) > _MOST_VALUES:
        raise _refusal(document, node, f"must have at most {_MOST_VALUES} values")
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(document, node, path, (*above, node))
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_value(document, item, (*path, i), (*above, node)) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and node.tag.removeprefix(_TAG) in _SCALARS:
        return _SCALARS[node.tag.removeprefix(_TAG)](node.value)
    raise _refusal(document, node, f"tags have no meaning here, got {node.tag!r}")


def _mapping(document: Document, node: yaml.MappingNode, path: Place, above: tuple[yaml.Node, ...]) -> Any:
    mapping: dict[str, Any] = {}
    merged: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == _TAG + "merge":
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        elif key.tag != _TAG + "str":
            raise _refusal(
                document, key, f"a key must be text, got {getattr(key, 'value', key.tag)!r}; quote it"
            )
        elif key.value in mapping:
            first = document.lines[(*path, key.value)]
            raise _refusal(
                document, key, f"a key must stand once, got {key.value!r} again (first in line {first})"
            )
        else:
            document.lines[(*path, key.value)] = key.start_mark.line + 1
            mapping[key.value] = _value(document, value, (*path, key.value), above)
    for key, value in _merged(document, merged):
        if key.value not in mapping:
            document.lines[(*path, key.value)] = key.start_mark.line + 1
            mapping[key.value] = _value(document, value, (*path, key.value), above)
    return mapping


def _merged(document: Document, nodes: list[yaml.Node]) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    for node in nodes:
        if not isinstance(node, yaml.MappingNode) or any(key.tag != _TAG + "str" for key, _ in node.value):
            raise _refusal(document, node, "<< takes a mapping that merges no other")
        yield from node.value


def _refusal(document: Document, node: yaml.Node, law: str) -> SpecError:
    return SpecError(law, file=document.file, line=node.start_mark.line + 1)


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text.replace("_", "")),
    "float": lambda text: float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan")),
}
