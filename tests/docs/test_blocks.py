"""No code block of README, docs or the pipelines' READMEs names what is not there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from agenttts.tasktune.data.build import DataConfig
from agenttts.tasktune.fit import FitConfig
from docs.building import commands
from pipelines import PipelineSpec, load_policy, load_spec
from pipelines.spec.configfile import load_config
from pipelines.spec.schema import file_schema
from tests.docs.pages import ROOT, Block, blocks
from tests.public import assert_imports_are_public

LANGUAGES = {"console", "bash", "yaml", "python", "text"}
OPTIONS = {command.path: command.options for command in commands.commands()}
SCHEMA = file_schema(PipelineSpec)
FRAGMENTS: Mapping[str, Mapping[str, object]] = {
    "in place of": SCHEMA,
    "further models": SCHEMA,
    "further fields of a stage": SCHEMA["$defs"]["StageSpec"],
    "further fields of a model": SCHEMA["$defs"]["ModelSpec"],
}
"""What a block of YAML is a part of, by the words of its first comment."""

PROGRAMS = {"accelerate", "cd", "curl", "docker", "export", "git", "mkdir", "ray", "source"}
"""Programs of others that blocks may show without a check."""


def test_every_block_has_a_language_that_is_checked() -> None:
    """A block without a language, or in another one, would escape the checks."""
    assert len(blocks()) > 60
    for block in blocks():
        assert block.language in LANGUAGES, block


@pytest.mark.parametrize("block", [*blocks(language="console"), *blocks(language="bash")], ids=str)
def test_every_command_is_there_with_its_options(block: Block) -> None:
    """Commands, options, make targets, extras, scripts and modules that a block names exist."""
    assert block.commands, block
    for line in block.commands:
        words = shlex.split(re.split(r"\s[<>&|]", f"{line} ")[0])
        if words[:2] == ["docker", "run"]:  # what follows the name of the image
            words = words[
                words.index(next(word for word in words if re.fullmatch(r"agenttts(:\w+)?", word))) :
            ]
            words[0] = "agenttts"
        program, rest = Path(words[0]).name, words[1:]
        if program == "agenttts":
            path = _command(words)
            for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
                assert option in OPTIONS[path], (str(block), path, option)
        elif program == "make":
            assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif program == "pip":
            assert _is_installable(rest), line
        elif program == "python":
            assert _is_runnable(rest), line
        else:
            assert program in PROGRAMS, (str(block), line)


@pytest.mark.parametrize("block", blocks(language="yaml"), ids=str)
def test_every_yaml_is_taken_by_its_schema(block: Block, tmp_path: Path) -> None:
    """A whole file is read as the product reads it; a part says of what it is one, and fits the schema."""
    file = tmp_path / "block.yaml"
    file.write_text(block.text)
    name = block.comment.partition(",")[0]
    if name == "pipeline.yaml":
        assert load_spec(file).stages
    elif name == "policy.yaml":
        assert load_policy(file).rungs
    elif name in ("data.yaml", "fit.yaml"):
        assert load_config(file, DataConfig if name == "data.yaml" else FitConfig)
    else:
        (part,) = (schema for words, schema in FRAGMENTS.items() if block.comment.startswith(words))
        properties = {**part, "required": [], "$defs": SCHEMA["$defs"]}
        data = YAML(typ="safe").load(block.text)
        for stage in data.get("stages", ()) if block.comment.startswith("further models") else ():
            stage.update(name="stage")
        jsonschema.validate(data, properties)


@pytest.mark.parametrize("block", blocks(language="python"), ids=str)
def test_every_python_block_compiles_and_imports_public_names(block: Block) -> None:
    """No block shows a name that may not be imported."""
    compile(block.text, str(block), "exec")
    assert_imports_are_public(block.text)


def test_every_command_has_a_place_in_the_guide() -> None:
    """Each command of the command line is shown in a block of README or of a guide page."""
    shown = {
        _command(shlex.split(re.split(r"\s[<>&|]", f"{line} ")[0]))
        for block in blocks(language="console")
        for line in block.commands
        if line.startswith("agenttts ") and not line.startswith("agenttts --")
    }
    named = {name for name in OPTIONS if not _is_group(name)}
    aside = {"agenttts demo", "agenttts schema", "agenttts bank list", "agenttts bank import"}
    assert named - shown <= aside, named - shown - aside


def test_pages_name_no_option_that_is_not_there() -> None:
    """An option in the text of README or of a guide page is one of a command."""
    others = {"--help", "--build-arg", "--security-opt", "--working-dir"}  # docker's and Ray's
    every = frozenset(others).union(*OPTIONS.values())
    for page, option in _options_in_text():
        assert option in every, (page, option)


def test_readme_is_short() -> None:
    """A visitor reads it in three minutes."""
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def _options_in_text() -> list[tuple[str, str]]:
    files = [ROOT / "README.md", *sorted((ROOT / "docs/guide").glob("*.md"))]
    fenced = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    return [
        (file.name, option)
        for file in files
        for option in re.findall(r"`(--[a-z-]+)", fenced.sub("", file.read_text()))
    ]


def _command(words: list[str]) -> str:
    """The command that a line calls: its first words that are one."""
    path = "agenttts"
    for word in words[1:]:
        if f"{path} {word}" not in OPTIONS:
            break
        path = f"{path} {word}"
    return path


def _is_group(path: str) -> bool:
    return any(other.startswith(f"{path} ") for other in OPTIONS)


def _is_installable(arguments: list[str]) -> bool:
    (what,) = (word for word in arguments[1:] if not word.startswith("-"))
    extras = re.search(r"\[(.*)\]", what)
    declared = (ROOT / "pyproject.toml").read_text()
    return (
        all(re.search(rf"^{extra} = \[", declared, re.M) for extra in extras[1].split(","))
        if extras
        else what == "."
    )


def _is_runnable(arguments: list[str]) -> bool:
    if arguments[0] == "-m":
        return arguments[1] == "venv" or find_spec(arguments[1]) is not None
    return (ROOT / arguments[0]).exists()
