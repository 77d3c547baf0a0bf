"""Functions of the user's own in a spec: their names in files and the store, their source, how to find them.

A function is written `module:name`. Modules are looked for in the spec's directory first, then wherever
Python looks; that directory is on `sys.path` only while the function is being imported.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from pipelines.errors import SpecError

UserFunction: TypeAlias = Callable[..., Any]
"""A function of the user's own: what it takes and gives is checked where it is called."""


def reference(function: UserFunction) -> str:
    """`module:qualified name` of a function; of its class where it is an object that can be called."""
    if isinstance(function, functools.partial):
        return f"{reference(function.func)}(*{function.args!r}, **{function.keywords!r})"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def source(function: UserFunction) -> str:
    """The function's source text; its name alone where there is none (built in, typed at a prompt)."""
    inner = function.func if isinstance(function, functools.partial) else function
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    try:
        return inspect.getsource(named)
    except (OSError, TypeError):
        return reference(function)


def resolve(name: object, root: Path) -> UserFunction:
    """The function that `module:name` stands for. SpecError when there is none or it can't be imported."""
    module_name, colon, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not (colon and module_name and path):
        raise SpecError(f"a function is written module:name, got {name!r}")
    try:
        function: object = operator.attrgetter(path)(_module(module_name, root))
    except AttributeError:
        raise SpecError(f"module {module_name!r} has no {path!r}", remedy="correct the name") from None
    if not callable(function):
        raise SpecError(f"{name!r} must be a function, got {type(function).__name__}")
    return function


def _module(name: str, root: Path) -> ModuleType:
    directory = str(root.resolve())
    sys.path.insert(0, directory)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise SpecError(
            f"module {name!r} can't be imported: {type(error).__name__}: {error}",
            remedy=f"put it into {directory} or install it",
        ) from error
    finally:
        sys.path.remove(directory)
    own = Path(directory, *name.split("."))
    here = next((file for file in (own.with_suffix(".py"), own / "__init__.py") if file.is_file()), None)
    if here is not None and Path(getattr(module, "__file__", None) or "") != here:
        raise SpecError(
            f"module {name!r} is loaded from {getattr(module, '__file__', 'Python itself')}, not from {here}",
            remedy="rename the module",
        )
    return module


def require_ready(function: UserFunction) -> None:
    """Call `require_ready()` of the function's module, where it has one.

    It raises a PipelineError where the function can't do its work on this machine.
    """
    inner = function.func if isinstance(function, functools.partial) else function
    hook = getattr(inspect.getmodule(inner), "require_ready", None)
    if callable(hook) and hook is not require_ready:
        hook()
