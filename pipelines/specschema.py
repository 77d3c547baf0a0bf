"""The JSON schema of a pipeline file, and which keys it allows where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from pipelines.spec import PipelineSpec


@lru_cache(maxsize=1)
def spec_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a pipeline file."""
    schema = PipelineSpec.model_json_schema(schema_generator=_SchemaOfFiles)
    del schema["properties"]["root"]
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


class _SchemaOfFiles(GenerateJsonSchema):
    def callable_schema(self, schema: Any) -> JsonSchemaValue:
        """Functions, which JSON lacks, are written by name."""
        name = {"type": "string", "pattern": "^[^:]+:[^:]+$", "description": "module:function"}
        return {
            "type": "object",
            "properties": {"python": name},
            "required": ["python"],
            "additionalProperties": False,
        }


def known_keys(place: Sequence[str | int]) -> list[str]:
    """The keys that a pipeline file may have in the mapping at a place, a path of keys and positions."""
    nodes = [spec_schema()]
    for part in place:
        nodes = [child for node in _forms(nodes) for child in _children(node, part)]
    return list(dict.fromkeys(key for node in _forms(nodes) for key in node.get("properties", {})))


def _forms(nodes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for node in nodes:
        if "$ref" in node:
            yield from _forms([spec_schema()["$defs"][node["$ref"].rsplit("/", 1)[1]]])
        else:
            yield node
            yield from _forms([*node.get("anyOf", ()), *node.get("oneOf", ())])


def _children(node: dict[str, Any], part: str | int) -> list[dict[str, Any]]:
    named = node.get("properties", {})
    child = node.get("items") if isinstance(part, int) else named.get(part, node.get("additionalProperties"))
    return [child] if isinstance(child, dict) else []
