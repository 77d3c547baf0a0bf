"""How large the result of an operation of a template would be, before the operation runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jinja2
from jinja2.filters import make_attrgetter
from jinja2.runtime import Undefined
from jinja2.utils import Namespace

MOST_CHARACTERS = 5_000_000
_MOST_NUMBER = 100_000  # jinja2's own limit on the length of a range
_MOST_BITS = 20_000
_MOST_SLOW = 200_000
_PADDING = frozenset(
    {"center", "ljust", "rjust", "zfill", "expandtabs", "to_bytes", "batch", "slice", "round"}
)
_AS_TEXT = frozenset({"string", "tojson", "pprint", "format", "indent", "wordwrap", "replace", "e", "escape"})
_SLOW = frozenset({"urlize", "wordwrap", "striptags", "pprint"})  # they take more than linear time
_FIELD = re.compile(r"\{[^{}]*:[^{}]*\{|%[^a-zA-Z%]*\*")  # whose width is a value
_WIDTHS = re.compile(r"\{[^{}]*:[^{}]*|%[^a-zA-Z%]*")


class TemplateLimit(jinja2.TemplateRuntimeError):
    """A template does or makes more than a prompt needs."""


def at_most(amount: float, most: float, what: str) -> None:
    """Check an amount.

    Raises:
        TemplateLimit: It is larger than the most.
    """
    if amount > most:
        raise TemplateLimit(f"a template may take at most {most:,} {what}, and this one needs more")


def n_characters(value: object) -> int:
    """Return how many characters a value has as text, about; counting ends above the limit."""
    return _counted(value, MOST_CHARACTERS, of_texts=True)


def n_items(value: object, most: int) -> int:
    """Return how many values a container and the containers in it hold, each as often as it is held.

    Args:
        value: The container.
        most: The number at which counting is given up.
    """
    return _counted(value, most, of_texts=False)


def _counted(value: object, most: int, *, of_texts: bool) -> int:
    total, waiting = 0, [value]
    while waiting and total <= most:
        item, n_before = waiting.pop(), len(waiting)
        total += len(item) if of_texts and isinstance(item, str | bytes) else 1
        if isinstance(item, Mapping):
            waiting += item.keys()
            waiting += item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += [part for part in item if not isinstance(part, int | float)]
            total += len(item) - (len(waiting) - n_before)
        elif isinstance(item, Namespace):
            waiting.append(object.__getattribute__(item, "_Namespace__attrs"))
    return total


def measure_operator(operator: str, left: Any, right: Any) -> None:
    """Check what an operator would make of two values.

    Raises:
        TemplateLimit: The result would be too large.
    """
    if operator == "%" and isinstance(left, str | bytes):
        _measure_format(str(left), [right])
    elif operator == "+" and _is_sized(left) and _is_sized(right):
        _check_size(len(left) + len(right))
    elif operator == "*":
        if isinstance(left, int) and isinstance(right, int):
            at_most(left.bit_length() + right.bit_length(), _MOST_BITS, "bits of a number")
        for value, times in ((left, right), (right, left)):
            if _is_sized(value) and isinstance(times, int):
                _check_size(len(value) * max(times, 0))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        at_most(left.bit_length() * abs(right), _MOST_BITS, "bits of a number")


def measure_method(value: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check what a method of a text or a number would make.

    Raises:
        TemplateLimit: The result would be too large.
    """
    others = [*args, *kwargs.values()]
    _check_numbers(name, others)
    if name == "replace" and len(args) > 1:
        _measure_replace(value, args[0], args[1])
    elif name == "expandtabs":
        _check_size(len(value) + value.count("\t" if isinstance(value, str) else b"\t") * max([8, *args]))
    elif name == "join" and args and isinstance(args[0], list | tuple):
        _check_size(n_characters(args[0]) + len(value) * len(args[0]))
    elif name == "translate" and args:
        _check_size(len(value) * max([1, *map(n_characters, args[0].values())]))
    elif name in ("format", "format_map"):
        _measure_format(value, others)


def measure_filter(
    environment: jinja2.Environment, name: str, value: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Check what a filter would make of a value.

    Args:
        environment: The environment of the template.
        name: The name of the filter.
        value: The value.
        args: Its arguments after the value.
        kwargs: Its named arguments.

    Returns:
        The value; a list in the place of an iterator that had to be gone through.

    Raises:
        TemplateLimit: The result would be too large, or take too long to make.
    """
    others = [*args, *kwargs.values()]
    texts = [len(it) for it in others if isinstance(it, str)]
    _check_numbers(name, others)
    if name in _AS_TEXT or name in _SLOW:
        size = n_characters(value)
        _check_size(size)
        if name in _SLOW:  # what they put in comes after each character at most
            at_most(size, _MOST_SLOW, f"characters in {name}")
            _check_size(size * max([1, *texts]))
    if name == "join":
        value = list(value)
        _measure_join(environment, value, *args, **kwargs)
    elif name == "sum":
        value = list(value)
        _check_size(n_items(value, MOST_CHARACTERS))
    elif name == "replace" and len(others) > 1:
        _measure_replace(str(value), str(others[0]), str(others[1]))
    elif name == "format":
        _measure_format(str(value), others)
    elif name in ("indent", "tojson"):
        lines = n_items(value, MOST_CHARACTERS) if name == "tojson" else str(value).count("\n") + 1
        _check_size(lines * max([4, *texts, *(it for it in others if isinstance(it, int))]))
    return value


def _measure_join(
    environment: jinja2.Environment, values: list[Any], d: object = "", attribute: Any = None
) -> None:
    get: Callable[[Any], Any] = make_attrgetter(environment, attribute)  # for None the item itself
    size = n_characters(d) * len(values)
    for value in values:
        size += n_characters(get(value))
        _check_size(size)


def _measure_replace(value: Any, old: Any, new: Any) -> None:
    if _is_sized(value) and type(value) is type(old) is type(new):
        _check_size(len(value) + value.count(old) * max(0, len(new) - len(old)))


def _measure_format(text: str, values: Sequence[object]) -> None:
    fields = _WIDTHS.findall(text)
    widths = sum(int(digits[:9]) for part in fields for digits in re.findall(r"\d+", part))
    longest = max([0, *map(n_characters, values)])
    _check_size(len(text) + widths + longest * max(1, text.count("%"), text.count("{")))
    if _FIELD.search(text):
        flat = [item for value in values for item in (value if isinstance(value, tuple | list) else (value,))]
        at_most(max([0, *(abs(it) for it in flat if isinstance(it, int))]), _MOST_NUMBER, "as a width")


def _check_numbers(name: str, values: Iterable[object]) -> None:
    if name in _PADDING:
        at_most(max([0, *(it for it in values if isinstance(it, int))]), _MOST_NUMBER, f"in {name}")


def _check_size(size: int) -> None:
    at_most(size, MOST_CHARACTERS, "characters or items in a value")


def _is_sized(value: object) -> bool:
    return isinstance(value, str | bytes | list | tuple) and not isinstance(value, Undefined)
