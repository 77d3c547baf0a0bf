"""User-defined functions in a spec: their names in files and the store, their source, how they are imported.

A function is written `module:name`. Modules are searched for in the spec's directory first, then on Python's
import path; that directory is on `sys.path` only while the function is being imported.
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
"""A user-defined function. Its arguments and its result are checked where it is called."""


def reference(function: UserFunction) -> str:
    """Return the name of a function as `module:qualified name`.

    A callable object goes by the name of its class. A `functools.partial` goes by the name of the function
    inside it, followed by the arguments that it fixes.
    """
    if isinstance(function, functools.partial):
        return f"{reference(function.func)}(*{function.args!r}, **{function.keywords!r})"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def source(function: UserFunction) -> str:
    """Return the source text of a function.

    Returns:
        The source of the function, of the one inside a `functools.partial`, or of a callable object's class.
        Where Python has no source (built-in functions, code typed at a prompt), the name as `reference` gives
        it.
    """
    inner = function.func if isinstance(function, functools.partial) else function
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    try:
        return inspect.getsource(named)
    except (OSError, TypeError):
        return reference(function)


def resolve(name: object, root: Path) -> UserFunction:
    """Import the function that `module:name` names.

    Args:
        name: The name as the spec gives it; anything but a text of this form is refused.
        root: The directory in which modules are searched for first.

    Raises:
        SpecError: The name has another form, the module can't be imported or comes from elsewhere than the
            file in `root`, or the module has no such function.
    """
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
    stem = Path(directory, *name.split("."))
    here = next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None)
    if here is not None and Path(getattr(module, "__file__", None) or "") != here:
        raise SpecError(
            f"module {name!r} is loaded from {getattr(module, '__file__', 'Python itself')}, not from {here}",
            remedy="rename the module",
        )
    return module


def require_ready(function: UserFunction) -> tuple[str, ...]:
    """Call `require_ready()` of the module that defines a function, if the module has one.

    Returns:
        What it warns of, each with a remedy; empty when it returns None, and without one.

    Raises:
        PipelineError: The function can't work on this machine, for example because a program is missing.
    """
    inner = function.func if isinstance(function, functools.partial) else function
    hook = getattr(inspect.getmodule(inner), "require_ready", None)
    if callable(hook) and hook is not require_ready:
        return tuple(map(str, hook() or ()))
    return ()
