"""References that are made from code are complete: fields of the pipeline file, commands, public names."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import jsonschema
import pytest
from pydantic import TypeAdapter

from docs.building import commands, pipeline_file, python_names
from docs.building.pages import completed
from pipelines import PipelineSpec
from pipelines.spec import fields, models, stage, stage_parts, variants
from pipelines.spec.schema import file_schema
from tests.agenttts.commands import agenttts

SECTIONS = pipeline_file.sections()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name or "file")
def test_every_field_is_described_and_has_an_example_of_its_schema(section: pipeline_file.Section) -> None:
    """No field of the pipeline file lacks a description or an example, and the schema takes each example."""
    definitions = file_schema(PipelineSpec)["$defs"]
    assert section.meaning, section
    for field in section.fields:
        assert field.description or "const" in field.schema, f"{section.name}.{field.name}"
        assert field.examples, f"{section.name}.{field.name}"
        for example in field.examples:
            jsonschema.validate(example, {**field.schema, "$defs": definitions})


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name or "file")
def test_what_the_schema_takes_the_product_takes(section: pipeline_file.Section, tmp_path: Path) -> None:
    """Each example passes the validators of its field, functions beside the file included."""
    for module, name in (("tools", "find"), ("rows", "prepare"), ("scores", "quality"), ("checks", "run")):
        (tmp_path / f"{module}.py").write_text(f"def {name}(*args):\n    return args\n")
    modules = (fields, models, stage, stage_parts, variants)
    classes = {"": PipelineSpec} | {name: kind for module in modules for name, kind in vars(module).items()}
    model = classes[section.name]
    by_key = {field.alias or name: field for name, field in model.model_fields.items()}
    for field in section.fields:
        info = by_key[field.name]
        adapter = TypeAdapter(info.rebuild_annotation())
        for example in field.examples:
            adapter.validate_python(example, context={"root": tmp_path})


def test_every_kind_of_mapping_has_its_section() -> None:
    """Every definition of the schema that is a mapping with fields stands in the reference."""
    definitions = set(file_schema(PipelineSpec)["$defs"]) - {"JsonValue"}
    assert {section.name for section in SECTIONS} == definitions | {""}


def test_the_reference_of_commands_names_every_option_of_every_help() -> None:
    """A command's section lists exactly the options that its `--help` lists."""
    for command in commands.commands():
        help_text = agenttts(*command.path.split()[1:], "--help").out
        for option in command.options:
            assert option in help_text, (command.path, option)
        assert command.help, command.path
        for parameter in command.parameters:
            assert parameter.help, (command.path, parameter.name)


def test_every_public_name_is_in_the_reference_with_a_docstring() -> None:
    """What `__all__` of a package lists stands in the reference of Python names."""
    overview = python_names.overview()
    for package in python_names.PACKAGES:
        text = python_names.generate(package)
        for name in import_module(package).__all__:
            assert f"{package}.{name}" in text or f"`{name}`: see" in text, name
            assert f"| `{name}` | " in overview


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    """Building fails on a link between files that has no target; links in code blocks are none."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        completed("[here](nowhere.md)", tmp_path / "page.md")
    assert completed("```\n[a](b)\n```\n", tmp_path / "page.md") == "```\n[a](b)\n```\n"
