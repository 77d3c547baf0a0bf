"""The JSON schema of a file that a pydantic model describes, and which keys it allows where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue


@lru_cache(maxsize=8)
def file_schema(model: type[BaseModel]) -> JsonSchemaValue:
    """Return the JSON schema (draft 2020-12) of the files that a model describes.

    Fields that no file sets are left out. The result is cached and shared: do not modify it.
    """
    schema = model.model_json_schema(schema_generator=_SchemaOfFiles)
    for name, field in model.model_fields.items():
        if field.exclude:
            del schema["properties"][name]
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


def is_tag(part: str | int) -> bool:
    """Return whether a part of the location of a pydantic error is the tag of a union member, not a key."""
    return isinstance(part, str) and part.startswith("<")


def known_keys(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Return the keys that a file may have in the mapping at a location.

    Args:
        model: The class that describes the file.
        loc: The location as pydantic's errors give it: keys, positions and tags of union members.
    """
    return list(dict.fromkeys(key for form in _forms_at(model, loc) for key in form.get("properties", {})))


def keys_by_kind(model: type[BaseModel], loc: Sequence[str | int]) -> dict[str, list[str]]:
    """Return the kinds that the mapping at a location can have, and the keys of each kind."""
    forms = [form.get("properties", {}) for form in _forms_at(model, loc)]
    return {form["kind"]["const"]: list(form) for form in forms if "const" in form.get("kind", {})}


class _SchemaOfFiles(GenerateJsonSchema):
    def callable_schema(self, schema: object) -> JsonSchemaValue:
        """Describe a function, which files write as `module:function`."""
        return {
            "type": "string",
            "pattern": "^[^:]+:[^:]+$",
            "description": "module:function; the module is a file beside the spec, or installed",
            "examples": ["tools:find"],
        }

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        """Leave keys in the order in which the classes declare them."""
        return value


def _forms_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[JsonSchemaValue]:
    whole = file_schema(model)
    forms = list(_forms(whole, [whole]))
    for part in loc:
        if is_tag(part):
            forms = [form for form in forms if _tag(form) == part]
        else:
            forms = list(_forms(whole, [child for form in forms for child in _children(form, part)]))
    return forms


def _forms(whole: JsonSchemaValue, nodes: Sequence[JsonSchemaValue]) -> Iterator[JsonSchemaValue]:
    """Resolve references and alternatives into the plain schemas that they stand for."""
    for node in nodes:
        if "$ref" in node:
            yield from _forms(whole, [whole["$defs"][node["$ref"].rsplit("/", 1)[1]]])
        else:
            yield node
            yield from _forms(whole, [*node.get("anyOf", ()), *node.get("oneOf", ())])


def _tag(form: JsonSchemaValue) -> str:
    keys: JsonSchemaValue = form.get("properties", {})
    if "python" in keys:
        return "<function>"
    return f"<{keys.get('kind', {}).get('const', 'named')}>"


def _children(node: JsonSchemaValue, part: str | int) -> list[JsonSchemaValue]:
    named = node.get("properties", {})
    if isinstance(part, int):
        children = [node.get("items")]
    elif part in named:
        children = [named[part]]
    else:
        children = [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]
    return [child for child in children if isinstance(child, dict)]
