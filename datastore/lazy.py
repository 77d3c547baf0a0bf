"""The public names of a package, each imported when it is first used.

duckdb, numpy, openai and optuna take more than a second of CPU to import; a command that only prints its help
needs none of them. The names of a package, and the modules that define them, stand in its `__init__.pyi`:
type checkers, editors and this module read the same file.
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType


class LazyPackage(ModuleType):
    """A package whose public names are imported when they are first used."""

    def __getattr__(self, name: str) -> object:
        if name not in _homes(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        home, original = _homes(self)[name]
        if home == self.__name__:
            value: object = import_module(f"{home}.{original}")
        else:
            module = import_module(home)
            value = (
                getattr(module, original)
                if hasattr(module, original)
                else import_module(f"{home}.{original}")
            )
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # The import of a submodule sets it as an attribute of its package. A public name has precedence:
        # `agenttts.search.entry` is the function, whether or not the module of that name was imported first.
        if not isinstance(value, ModuleType) or name not in _homes(self):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_homes(self)})


def public_names(package: str) -> list[str]:
    """Make the names that a package's `__init__.pyi` imports attributes of the package.

    Args:
        package: The package's `__name__`; it is being imported. Its stub consists of absolute imports,
            `from module import name`, with or without `as`; `from package import module` makes a submodule
            of the package itself a public name.

    Returns:
        The names, sorted, for the package's `__all__`.
    """
    module = sys.modules[package]
    stub = ast.parse(Path(str(module.__file__)).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = (node for node in stub.body if isinstance(node, ast.ImportFrom))
    homes = {
        alias.asname or alias.name: (str(node.module), alias.name) for node in imports for alias in node.names
    }
    module.__dict__["_homes"] = homes
    module.__class__ = LazyPackage
    return sorted(homes)


def _homes(package: ModuleType) -> dict[str, tuple[str, str]]:
    """The module and the name in it of each public name."""
    homes: dict[str, tuple[str, str]] = package.__dict__["_homes"]
    return homes
