"""JSON values: checked against a schema, built from a function's result.

The only module that knows the jsonschema library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import jsonschema
import referencing
from jsonschema.protocols import Validator

from pipelines.patterns import first_match

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None
"""A value that JSON can hold."""

_Schema: TypeAlias = Mapping[str, Mapping[str, JSON]]


_BETWEEN = re.compile(r"[\s,]*")  # the items of a list


class RepeatedKey(ValueError):
    """An object of a JSON text has a key twice."""


def _once(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise RepeatedKey(f"a key must stand once in an object, got {repeated!r} twice; keep one")
    return members


def read_json(text: str | bytes, *, once: bool = False) -> JSON:
    """Parse JSON.

    Args:
        text: The text.
        once: Whether a key that stands twice in an object is refused, as in what people write; what models
            write may have the last of several.

    Raises:
        RepeatedKey: An object has a key twice, where that is refused.
        ValueError: It is not JSON, or is nested too deep for Python.
    """
    try:
        value: JSON = json.loads(text, object_pairs_hook=_once if once else None)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return value


def repeated_at(text: str) -> tuple[int, int]:
    """Return the first item of a list in JSON that holds a key twice: its number and its line, from 1.

    Args:
        text: A list of which `read_json` said that a key stands twice in an object.
    """
    decoder, number, position = json.JSONDecoder(object_pairs_hook=_once), 1, text.index("[") + 1
    while True:
        position = next(_BETWEEN.finditer(text, position)).end()
        try:
            _, position = decoder.raw_decode(text, position)
        except RepeatedKey:
            return number, text.count("\n", 0, position) + 1
        number += 1


def plain(value: object) -> JSON:
    """Convert a value to plain JSON values: tuples become lists, and a set becomes a sorted list.

    Raises:
        ValueError: The value is not JSON-able, or contains a number that is not finite or text that UTF-8
            can't encode.
    """
    if isinstance(value, set | frozenset):
        value = sorted(value)
    try:
        text = json.dumps(value, allow_nan=False)
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{type(value).__name__} is not JSON-able: {error}") from None
    value_read: JSON = json.loads(text)
    return value_read


def schema_problem(schema: dict[str, JSON]) -> str | None:
    """Return why a schema is invalid as JSON schema; None when it is valid.

    The draft is 2020-12 unless `$schema` names another.
    """
    try:
        jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as error:
        return _at(error)
    return None


def value_problem(value: JSON, schema: Mapping[str, JSON]) -> str | None:
    """Return where and how a value violates a schema; None when it does not.

    References to other files or URLs are not followed. A text on which a `pattern` takes too long violates
    it.
    """
    draft = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    kind = _with_limited_patterns(draft)
    rules = {name: rule for name, rule in schema.items() if name != "$schema"}  # a $ref would follow it back
    error = jsonschema.exceptions.best_match(kind(rules, registry=referencing.Registry()).iter_errors(value))
    return None if error is None else _at(error)


@cache
def _with_limited_patterns(draft: type[Validator]) -> type[Validator]:
    keywords = {
        "pattern": _pattern_problems,
        "patternProperties": _member_problems,
        "additionalProperties": _further_problems,
    }
    limited: type[Validator] = jsonschema.validators.extend(draft, keywords)  # type: ignore[no-untyped-call]
    return limited


def _pattern_problems(
    validator: Any, pattern: str, value: JSON, schema: _Schema
) -> Iterator[jsonschema.ValidationError]:
    if not isinstance(value, str):
        return
    try:
        if first_match(pattern, value) is None:
            yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")
    except ValueError as error:
        yield jsonschema.ValidationError(str(error))


def _member_problems(
    validator: Any, patterns: Mapping[str, JSON], value: JSON, schema: _Schema
) -> Iterator[jsonschema.ValidationError]:
    if not isinstance(value, dict):
        return
    for pattern, rules in patterns.items():
        for name, member in value.items():
            try:
                if first_match(pattern, name) is not None:
                    yield from validator.descend(member, rules, path=name, schema_path=pattern)
            except ValueError as error:
                yield jsonschema.ValidationError(str(error))


def _further_problems(
    validator: Any, rules: JSON, value: JSON, schema: _Schema
) -> Iterator[jsonschema.ValidationError]:
    if not isinstance(value, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    try:
        further = [n for n in value if n not in known and all(first_match(p, n) is None for p in patterns)]
    except ValueError as error:
        yield jsonschema.ValidationError(str(error))
        return
    if rules is False and further:
        names, were = ", ".join(map(repr, further)), "was" if len(further) == 1 else "were"
        yield jsonschema.ValidationError(f"Additional properties are not allowed ({names} {were} unexpected)")
    for name in further if isinstance(rules, dict) else ():
        yield from validator.descend(value[name], rules, path=name)


def _at(error: jsonschema.ValidationError | jsonschema.SchemaError) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    return f"{path.lstrip('.')}: {error.message}" if path else str(error.message)
