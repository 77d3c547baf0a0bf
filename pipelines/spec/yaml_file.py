"""Read a YAML file as plain data, with the line of every value in it.

Scalars are read by YAML 1.2's core schema, so that 7e9 is a number, and `no` and 2026-11-26 are text.
Duplicate keys, keys that are not text, several documents and unknown tags are refused. `configfile` validates
the data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import RoundTripRepresenter

from pipelines.errors import SpecError

Place = tuple[str | int, ...]
_TAG = "tag:yaml.org,2002:"
_MOST_VALUES = 100_000


class _Constructor(SafeConstructor):
    """Reads as text what only YAML 1.1 has a meaning for."""


for _kind in ("timestamp", "value"):
    _Constructor.add_constructor(f"{_TAG}{_kind}", SafeConstructor.construct_yaml_str)


class _Representer(RoundTripRepresenter):
    """Escapes the line breaks of Unicode, which a reader would take for the end of a line."""


def _represent_text(representer: RoundTripRepresenter, text: str) -> ScalarNode:
    style = '"' if any(c in text for c in "\x85\u2028\u2029") else None
    return representer.represent_scalar(f"{_TAG}str", text, style=style)


_Representer.add_representer(str, _represent_text)


@dataclass
class Document:
    """The content of a YAML file.

    Attributes:
        file: The file.
        data: Its content; None when the file is empty.
        lines: The 1-based line of each value, by its path of keys and positions.
    """

    file: Path
    data: object = None
    lines: dict[Place, int] = field(default_factory=dict)


def read_yaml(file: Path) -> Document:
    """Read a YAML file.

    Raises:
        SpecError: The file can't be read or is not plain YAML; with the line where it is known.
    """
    document = Document(file)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"))
        if node is not None:
            _read_lines(document, node, (), ())
            document.data = yaml.constructor.construct_document(node)
            _read_lines(document, node, (), ())  # once more, for the keys that were merged in
    except OSError as error:
        raise SpecError(f"can't be read: {error.strerror}", file=file, remedy="check the path") from None
    except UnicodeDecodeError:
        raise SpecError("must be UTF-8 text", file=file) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        text = ", ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(f"must be YAML: {text}", file=file, line=mark.line + 1 if mark else None) from None
    except RecursionError:
        raise SpecError("must not be nested this deep", file=file) from None
    except (YAMLError, ValueError) as error:  # ValueError: an integer of more than 4,300 digits, for one
        raise SpecError(f"must be YAML: {error}", file=file) from None
    return document


def yaml_text(data: object) -> str:
    """Write plain data as a YAML document; mappings keep their order.

    Args:
        data: Mappings, lists and scalars.
    """
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.width = 1 << 20  # wrapping a quoted text adds a space to it
    stream = StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _read_lines(document: Document, node: Node, path: Place, above: tuple[Node, ...]) -> None:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if node in above:
        raise _refusal(document, node, "an alias must not hold itself")
    if len(document.lines) > _MOST_VALUES:
        raise _refusal(document, node, f"must have at most {_MOST_VALUES} values")
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            _read_lines(document, item, (*path, index), (*above, node))
    for key, value in node.value if isinstance(node, MappingNode) else ():
        if key.tag == f"{_TAG}merge":
            continue
        if key.tag != f"{_TAG}str":
            shown = f"{key.value!r}; quote it" if isinstance(key, ScalarNode) else "more than that"
            raise _refusal(document, key, f"a key must be text, got {shown}")
        document.lines.setdefault((*path, key.value), key.start_mark.line + 1)
        _read_lines(document, value, (*path, key.value), (*above, node))


def _refusal(document: Document, node: Node, law: str) -> SpecError:
    return SpecError(law, file=document.file, line=node.start_mark.line + 1)
