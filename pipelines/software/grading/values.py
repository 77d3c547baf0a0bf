"""Plain values as JSON: all that passes between a candidate and its grader.

A value is of one of the types below, exactly. An instance of a subclass passes as the plain value that it
extends, so that no method of it does. Anything else stays where it is and passes as a number that names it;
`Packer` and `Unpacker` are told what to do then. Whatever the JSON holds, reading it makes plain values and
calls no code of the other side.
"""

from __future__ import annotations

import builtins
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, ItemsView, Iterable, Sequence
from importlib import import_module
from typing import Any, Final, TypeAlias

Packed: TypeAlias = bool | int | float | str | list["Packed"] | dict[str, "Packed"] | None

_MOST_BITS = 10_000  # Python limits how many digits it reads and writes, and takes long for them
_BY_CONSTRUCTOR: Final = frozenset(
    {
        "datetime.date",
        "datetime.datetime",
        "datetime.time",
        "datetime.timedelta",
        "decimal.Decimal",
        "fractions.Fraction",
    }
)
_SEQUENCES: Final[dict[type, str]] = {
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    deque: "deque",
    type({}.values()): "values",
    type({}.keys()): "keys",
}
_MAPPINGS: Final[dict[type, str]] = {
    dict: "dict",
    Counter: "counter",
    OrderedDict: "ordered",
    type({}.items()): "items",
}
_PLAIN: Final[dict[type, Callable[[Any], object]]] = {  # what a subclass extends, read without its methods
    int: lambda value: int.__add__(value, 0),
    float: lambda value: float.__add__(value, 0.0),
    complex: lambda value: complex.__add__(value, 0j),
    str: str.__str__,
    bytes: lambda value: bytes(memoryview(value)),
    bytearray: lambda value: bytearray(memoryview(value)),
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    deque: lambda value: deque(deque.__iter__(value)),
    dict: lambda value: {key: dict.__getitem__(value, key) for key in dict.__iter__(value)},
}


_COMPARISONS: Final = ("eq", "ne", "lt", "le", "gt", "ge", "sub", "rsub", "abs", "float")


class NotPlain(ValueError):
    """What came from the other side is no plain value."""


class Packer:
    """Turns values into JSON.

    Args:
        other: What a value that is not plain passes as.

    Attributes:
        odd: The class of the last value that extends a plain type and defines its own comparisons.
    """

    def __init__(self, other: Callable[[object], Packed]) -> None:
        self._other = other
        self.odd: str | None = None

    def pack(self, value: object) -> Packed:
        """Turn a value into JSON; a `RecursionError` means that it contains itself or is too deep."""
        kind = type(value)
        if value is None or kind is bool or kind is str or kind is float:
            return value  # type: ignore[return-value]
        if isinstance(value, int) and kind is int:
            return value if value.bit_length() < _MOST_BITS else {"int": hex(value)}
        if isinstance(value, list) and kind is list:
            return [self.pack(item) for item in value]
        if kind in _SEQUENCES:
            items: Iterable[object] = value  # type: ignore[assignment]
            return {_SEQUENCES[kind]: [self.pack(item) for item in items]}
        if kind in _MAPPINGS:
            pairs: ItemsView[object, object] = value.items() if isinstance(value, dict) else value  # type: ignore[assignment]
            return {_MAPPINGS[kind]: [[self.pack(key), self.pack(item)] for key, item in pairs]}
        return self._rare(value, kind)

    def _rare(self, value: object, kind: type) -> Packed:
        if isinstance(value, complex) and kind is complex:
            return {"complex": [value.real, value.imag]}
        if isinstance(value, bytes | bytearray) and kind in (bytes, bytearray):
            return {kind.__name__: value.hex()}
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, type):
            name = value.__name__
            return {"type": name} if getattr(builtins, name, None) is value else self._other(value)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in _BY_CONSTRUCTOR:
            return {name: [self.pack(part) for part in value.__reduce__()[1]]}
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            return self.pack(value.item())
        for base, plain in _PLAIN.items():
            if issubclass(kind, base):  # not isinstance: an object may lie about its class
                self.odd = kind.__name__ if compares(kind, base) else self.odd
                return self.pack(plain(value))
        return self._other(value)


def compares(kind: type, base: type) -> bool:
    """Whether a class compares, or measures a distance, by methods of its own."""
    methods = (f"__{name}__" for name in _COMPARISONS)
    return any(getattr(kind, method, None) is not getattr(base, method, None) for method in methods)


class Unpacker:
    """Turns JSON into values; give `unpack` to `json.loads` as `object_hook`.

    Args:
        other: What stands for a value that stayed on the other side, by its number and description.
    """

    def __init__(self, other: Callable[[dict[str, object]], object]) -> None:
        self._other = other

    def unpack(self, tagged: dict[str, object]) -> object:
        """Make the value of a JSON object whose only key is its type.

        Raises:
            NotPlain: The type is unknown, or the content isn't that of a value of that type.
        """
        try:
            ((tag, content),) = tagged.items()
            if tag in _MAKERS:
                return _MAKERS[tag](content)
            if tag in _BY_CONSTRUCTOR and isinstance(content, list):
                module, _, name = tag.partition(".")
                return getattr(import_module(module), name)(*content)
            if tag == "other" and isinstance(content, list):
                return self._other(dict(content))
        except Exception as error:
            raise NotPlain(f"{type(error).__name__}: {error}") from None
        raise NotPlain(f"no type {tag!r:.40}")


def _type(name: str) -> type:
    kind = getattr(builtins, name)
    if not isinstance(kind, type):
        raise TypeError(name)
    return kind


def _range(parts: Sequence[int]) -> range:
    start, stop, step = parts
    return range(start, stop, step)


def _complex(parts: Sequence[float]) -> complex:
    real, imaginary = parts
    return complex(real, imaginary)


def _pairs(items: Iterable[tuple[object, object]]) -> dict[object, object]:
    return {key: value for key, value in items}


_MAKERS: Final[dict[str, Callable[..., object]]] = {
    "int": lambda text: int(text, 16),
    "complex": _complex,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": _range,
    "type": _type,
    "iterator": iter,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
    "keys": lambda items: dict.fromkeys(items).keys(),
    "values": lambda items: dict(enumerate(items)).values(),
    "items": lambda items: _pairs(items).items(),
    "dict": _pairs,
    "counter": lambda items: Counter(_pairs(items)),
    "ordered": lambda items: OrderedDict(_pairs(items)),
}


def updated(old: object, new: object) -> object:
    """Change a container in place to what the other side made of it.

    Returns:
        `old`, which now equals `new`, if both are containers of one type; else `new`.
    """
    if type(old) is not type(new):
        return new
    if isinstance(old, list) and isinstance(new, list):
        old[:] = [*map(updated, old, new), *new[len(old) :]]
    elif isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        return tuple(map(updated, old, new))  # what it contains stays the same objects
    elif isinstance(old, dict) and isinstance(new, dict):
        items = {key: updated(old.get(key), value) for key, value in new.items()}
        old.clear()
        old.update(items)
    elif isinstance(old, set) and isinstance(new, set):
        old.clear()
        old.update(new)
    elif isinstance(old, deque | bytearray) and isinstance(new, deque | bytearray):
        old.clear()
        old.extend(new)
    else:
        return new
    return old
