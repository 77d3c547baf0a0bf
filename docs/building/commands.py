"""The reference of the commands, made from the command line itself: usage, help, arguments and options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from agenttts.cli.main import app

Parameter = TyperArgument | TyperOption
_WORDS = {int: "whole number", float: "number", bool: "true or false", Path: "path"}


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command that does something, or the program itself.

    Attributes:
        path: Its words, such as `agenttts tune fit`.
        help: What it does, as Markdown.
        parameters: Its arguments and options that are shown in its help.
    """

    path: str
    help: str
    parameters: tuple[Parameter, ...]

    @property
    def options(self) -> frozenset[str]:
        """Every name of every option, such as `--db`."""
        named = (parameter for parameter in self.parameters if isinstance(parameter, TyperOption))
        return frozenset(name for option in named for name in (*option.opts, *option.secondary_opts))


def commands() -> list[Command]:
    """Return the commands in the order in which `--help` lists them, groups before their members."""
    return list(_below(get_command(app), "agenttts"))


def generate() -> str:
    """Return the reference as Markdown."""
    return "\n\n".join(_written(command) for command in commands())


def _below(command: object, path: str) -> Iterator[Command]:
    assert isinstance(command, TyperCommand | TyperGroup)
    shown = tuple(
        parameter
        for parameter in command.params
        if isinstance(parameter, TyperArgument | TyperOption) and not parameter.hidden
    )
    yield Command(path=path, help=command.help or "", parameters=shown)
    for name, below in command.commands.items() if isinstance(command, TyperGroup) else ():
        yield from _below(below, f"{path} {name}")


def _written(command: Command) -> str:
    arguments = [part for part in command.parameters if isinstance(part, TyperArgument)]
    options = [part for part in command.parameters if isinstance(part, TyperOption)]
    entries: list[Parameter] = [*arguments, *options]
    usage = " ".join([command.path, *map(_usage, arguments), *(["[OPTIONS]"] if options else [])])
    parts = [f"## {command.path}", command.help, f"```text\n{usage}\n```"]
    return "\n\n".join([*parts, *map(_entry, entries)])


def _usage(argument: TyperArgument) -> str:
    name = (argument.metavar or argument.name or "").upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _entry(parameter: Parameter) -> str:
    names = (parameter.name or "",) if isinstance(parameter, TyperArgument) else parameter.opts
    title = ", ".join(f"`{name}`" for name in names)
    title += "".join(f" / `{name}`" for name in parameter.secondary_opts)
    facts = [_type(parameter)] if not getattr(parameter, "is_flag", False) else []
    if parameter.required:
        facts.append("required")
    elif parameter.show_default and not (parameter.default in (None, (), []) or parameter.default is False):
        facts.append(f"default `{parameter.default}`")
    in_brackets = f" ({', '.join(facts)})" if facts else ""
    return f"{title}{in_brackets}\n: {parameter.help or ''}"


def _type(parameter: Parameter) -> str:
    """What value it takes, in words."""
    annotation = parameter.type_descriptor.annotation
    kind = next(iter(get_args(annotation)), annotation)  # of the entries, where it may be given several times
    word = _WORDS.get(kind, "text")
    return f"{word}, may be repeated" if getattr(parameter, "multiple", False) else word
