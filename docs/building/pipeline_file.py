"""The reference of the pipeline file, made from its JSON schema: each field with a meaning and an example."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic.json_schema import JsonSchemaValue
from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import BaseRepresenter

from pipelines import PipelineSpec
from pipelines.spec.schema import file_schema

_SCHEMA = file_schema(PipelineSpec)
_DEFINITIONS: Mapping[str, JsonSchemaValue] = _SCHEMA["$defs"]
_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
_LIMITS = {
    "exclusiveMinimum": "above",
    "gt": "above",
    "minimum": "at least",
    "maximum": "at most",
    "le": "at most",
}


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a mapping of the file.

    Attributes:
        name: Its key.
        required: Whether the mapping must have it.
        schema: Its JSON schema.
    """

    name: str
    required: bool
    schema: JsonSchemaValue

    @property
    def description(self) -> str:
        """What it means, as a sentence; empty where the schema does not say."""
        return _sentence(self.schema.get("description", ""))

    @property
    def examples(self) -> tuple[object, ...]:
        """Values that it may have; its only value where it has one alone, as `kind`."""
        return (self.schema["const"],) if "const" in self.schema else tuple(self.schema.get("examples", ()))


@dataclass(frozen=True, kw_only=True)
class Section:
    """One kind of mapping of the file.

    Attributes:
        place: Where it stands, such as `stages[].parser`; empty for the file itself.
        name: The name of its definition in the schema; empty for the file itself.
        schema: Its JSON schema.
    """

    place: str
    name: str
    schema: JsonSchemaValue

    @property
    def meaning(self) -> str:
        """What it describes: the first paragraph of its docstring."""
        return " ".join(str(self._mapping.get("description", "")).split("\n\n")[0].split())

    @property
    def fields(self) -> tuple[Field, ...]:
        """Its fields, in the order of the schema."""
        required = self._mapping.get("required", ())
        return tuple(
            Field(name=name, required=name in required, schema=schema)
            for name, schema in self._mapping.get("properties", {}).items()
        )

    @property
    def _mapping(self) -> JsonSchemaValue:
        """Its schema without the alternatives that are no mapping."""
        return next((form for form in self.schema.get("anyOf", ()) if "properties" in form), self.schema)

    @property
    def title(self) -> str:
        """Its heading."""
        kind = next((field.schema.get("const") for field in self.fields if field.name == "kind"), None)
        if not self.place:
            return "The file"
        if kind is not None:
            return f"`{self.place}`: `kind: {kind}`"
        return f"`{self.place}`: `python:`" if self.name.startswith("Python") else f"`{self.place}`"


def sections() -> list[Section]:
    """Return every kind of mapping that the file may have: each once, the file itself first."""
    by_name = {"": Section(place="", name="", schema=_SCHEMA)}
    waiting = list(by_name.values())
    while waiting:
        parent = waiting.pop(0)
        for field in parent.fields:
            place = f"{parent.place}.{field.name}" if parent.place else field.name
            for name, suffix in _references(field.schema):
                if name not in by_name and name != "JsonValue":
                    by_name[name] = Section(place=place + suffix, name=name, schema=_DEFINITIONS[name])
                    waiting.append(by_name[name])
    top = [field.name for field in by_name[""].fields]
    return sorted(by_name.values(), key=lambda section: _rank(section, top))


def generate() -> str:
    """Return the reference as Markdown."""
    return "\n\n".join(_written(section) for section in sections())


def _rank(section: Section, top: list[str]) -> int:
    """The position of the key of the file that a section stands under."""
    key = section.place.split(".")[0].split("[")[0]
    return top.index(key) if key else -1


def _references(schema: JsonSchemaValue, suffix: str = "") -> Iterator[tuple[str, str]]:
    """The definitions that a field's values may have, each with what follows the field's name."""
    if "$ref" in schema:
        yield schema["$ref"].rsplit("/", 1)[1], suffix
    for form in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _references(form, suffix)
    if isinstance(schema.get("items"), dict):
        yield from _references(schema["items"], f"{suffix}[]")
    for form in _values(schema):
        yield from _references(form, f"{suffix}.NAME")


def _values(schema: JsonSchemaValue) -> list[JsonSchemaValue]:
    """The schemas of the values of a mapping with names as keys."""
    forms = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
    return [form for form in forms if isinstance(form, dict)]


def _written(section: Section) -> str:
    heading = f"(file-{section.name.lower() or 'file'})=\n## {section.title}"
    entries = (_entry(field) for field in section.fields if "const" not in field.schema)
    return "\n\n".join([heading, section.meaning, *entries])


def _entry(field: Field) -> str:
    facts = [_type(field.schema)]
    if field.required:
        facts.append("required")
    elif field.schema.get("default") not in (None, "", [], {}):
        facts.append(f"default `{_yaml(field.schema['default'])}`")
    example = f" Example: `{field.name}: {_yaml(field.examples[0])}`" if field.examples else ""
    return f"`{field.name}` ({', '.join(fact for fact in facts if fact)})\n: {field.description}{example}"


def _type(schema: JsonSchemaValue) -> str:
    """What values a field may have, in words, with links to the sections of mappings."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return "any value" if name == "JsonValue" else f"[{_name_of(name)}](#file-{name.lower()})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    alternatives = (*schema.get("anyOf", ()), *schema.get("oneOf", ()))
    forms = [form for form in alternatives if form.get("type") != "null"]
    if forms:
        return " or ".join(dict.fromkeys(_type(form) for form in forms))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object":
        values = [_type(form) for form in _values(schema)]
        return f"mapping of names to {values[0]}" if values else "mapping"
    limits = [f"{words} {schema[key]:g}" for key, words in _LIMITS.items() if key in schema]
    return " ".join([_TYPES.get(schema.get("type", ""), "any value"), " and ".join(limits)]).strip()


def _name_of(definition: str) -> str:
    if definition.startswith("Python"):
        return "a function"
    section = next(section for section in sections() if section.name == definition)
    kind = section.schema.get("properties", {}).get("kind", {}).get("const")
    return kind or section.place.removesuffix(".NAME").removesuffix("[]").rsplit(".", 1)[-1]


def _sentence(text: str) -> str:
    words = " ".join(text.split())
    is_name = "_" in words.split(" ")[0] or words.startswith("null")
    return f"{words if is_name else words[:1].upper() + words[1:]}." if words else ""


def _number(representer: BaseRepresenter, value: float) -> ScalarNode:
    """A number as a person writes it: 4e9, not 4000000000.0."""
    written = f"{value:g}".replace("e+0", "e").replace("e+", "e") if value >= 1e6 else repr(value)
    return representer.represent_scalar("tag:yaml.org,2002:float", written)


def _yaml(value: object) -> str:
    """A value as one line of YAML."""
    yaml = YAML()
    yaml.default_flow_style = True
    yaml.width = 10_000
    yaml.representer.add_representer(float, _number)
    stream = io.StringIO()
    yaml.dump({"value": value}, stream)
    return stream.getvalue().strip()[len("{value: ") : -1]
