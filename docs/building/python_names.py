"""The reference of Python names: what `__all__` of each package lists, documented from its docstrings."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType

PACKAGES = ("agenttts", "pipelines", "datastore")


def overview() -> str:
    """Return a table of the names of every package, each with what it is for."""
    parts: list[str] = []
    for package in PACKAGES:
        rows = [f"| `{name}` | {_summary(value)} |" for name, value in _names(package)]
        parts.append("\n".join([f"## [{package}](python-{package}.md)", "", "| | |", "| --- | --- |", *rows]))
    return "\n\n".join(parts)


def generate(package: str) -> str:
    """Return the reference of a package as Markdown, with directives that Sphinx's autodoc fills in."""
    earlier = PACKAGES[: PACKAGES.index(package)]
    package_of = {id(value): other for other in reversed(earlier) for _, value in _names(other)}
    return "\n\n".join(
        f"`{name}`: see [{package_of[id(value)]}.{name}](python-{package_of[id(value)]}.md)"
        if id(value) in package_of
        else _entry(package, name, value)
        for name, value in _names(package)
    )


def _names(package: str) -> list[tuple[str, object]]:
    module = import_module(package)
    return [(name, getattr(module, name)) for name in sorted(module.__all__, key=str.lower)]


def _summary(value: object) -> str:
    """The first paragraph of a name's documentation; nothing for data, whose type's it would be."""
    if not (inspect.ismodule(value) or inspect.isclass(value) or inspect.isfunction(value)):
        return ""
    return " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split()).replace("|", "\\|")


def _entry(package: str, name: str, value: object) -> str:
    path = f"{package}.{name}"
    if inspect.ismodule(value):
        return _module(path, value)
    if inspect.isclass(value):
        return _directive("autoclass", path, "   :members:", "   :exclude-members: model_config")
    return _directive("autofunction" if callable(value) else "autodata", path)


def _module(path: str, module: ModuleType) -> str:
    """A module of functions: what it is for, then each of them."""
    functions = [
        name for name, value in inspect.getmembers(module, inspect.isfunction) if not name.startswith("_")
    ]
    own = [name for name in functions if getattr(module, name).__module__ == module.__name__]
    summary = (module.__doc__ or "").split("\n\n")[0]
    parts = (_directive("autofunction", f"{path}.{name}") for name in own)
    return "\n\n".join([f"## {path}\n\n{summary}", *parts])


def _directive(kind: str, path: str, *options: str) -> str:
    lines = "\n".join([f".. {kind}:: {path}", *options])
    return f"```{{eval-rst}}\n{lines}\n```"
