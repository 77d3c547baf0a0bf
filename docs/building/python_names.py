"""The reference of Python names: what `__all__` of each package lists, documented from its docstrings."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType

PACKAGES = ("agenttts", "pipelines", "datastore")


def generate() -> str:
    """Return the reference as Markdown, with directives that Sphinx's autodoc fills in."""
    parts: list[str] = []
    package_of: dict[int, str] = {}
    for package in PACKAGES:
        parts.append(f"## {package}")
        module = import_module(package)
        for name in sorted(module.__all__, key=str.lower):
            value = getattr(module, name)
            first = package_of.setdefault(id(value), package)
            parts.append(
                _entry(package, name, value) if first == package else f"`{name}`: see {first}.{name}"
            )
    return "\n\n".join(parts)


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
    return "\n\n".join([f"### {path}\n\n{summary}", *parts])


def _directive(kind: str, path: str, *options: str) -> str:
    lines = "\n".join([f".. {kind}:: {path}", *options])
    return f"```{{eval-rst}}\n{lines}\n```"
