"""User-defined functions in a spec: their names in files and the store, their source, how they are imported.

A function is written `module:name`. Modules are searched for in the spec's directory first, then on Python's
import path; that directory is on `sys.path` only while the function is being imported.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
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
    try:
        return inspect.getsource(_defined(function))
    except (OSError, TypeError):
        return reference(function)


def _inner(function: UserFunction) -> UserFunction:
    """The function inside a `functools.partial`; another function itself."""
    return function.func if isinstance(function, functools.partial) else function


def _defined(function: UserFunction) -> UserFunction:
    """What a source file defines of a function: the inner function, or the class of a callable object."""
    inner = _inner(function)
    return inner if hasattr(inner, "__qualname__") else type(inner)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The names of what a function takes.

    Attributes:
        required: Parameters without a default.
        optional: Parameters with one.
        takes_any: Whether it takes further named arguments.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    takes_any: bool

    def take(self, name: str) -> bool:
        """Return whether an argument may have this name."""
        return self.takes_any or name in self.required or name in self.optional


def parameters(function: UserFunction) -> Parameters:
    """Return the names of what a function takes, all of it by name.

    Raises:
        SpecError: Python does not know its parameters, or one of them can't be given by name.
    """
    try:
        known = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise SpecError(f"{reference(function)} has no signature: {error}") from None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    nameless = [p.name for p in known if p.kind not in (*by_name, inspect.Parameter.VAR_KEYWORD)]
    if nameless:
        raise SpecError(f"{reference(function)} must take all by name, got {nameless[0]!r} by position")
    return Parameters(
        required=tuple(p.name for p in known if p.kind in by_name and p.default is p.empty),
        optional=tuple(p.name for p in known if p.kind in by_name and p.default is not p.empty),
        takes_any=any(p.kind is p.VAR_KEYWORD for p in known),
    )


def code_digest(function: UserFunction) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the module that defines a function.

    So a change of the function's own file, and no other, makes it another function. The file is read once for
    each function, when a spec names it: what runs is what was imported then. Where Python has no file, the
    name as `reference` gives it stands for it.
    """
    try:
        return _digest_once(function)
    except TypeError:  # an object that can't be hashed
        return _digest(function)


def _digest(function: UserFunction) -> str:
    try:
        code = Path(inspect.getsourcefile(_defined(function)) or "").read_bytes()
    except (OSError, TypeError):
        code = b""
    return hashlib.sha256(code + reference(function).encode()).hexdigest()[:16]


_digest_once = functools.lru_cache(maxsize=None)(_digest)


def content_digest(path: Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a file, or of all files below a directory.

    The names of a directory's files count, hidden ones are left out.

    Raises:
        OSError: There is no such file, or it can't be read.
    """
    digest = hashlib.sha256()
    for file in files_below(path):
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(f"{file.relative_to(path).as_posix()}\0{content}\0".encode())
    return digest.hexdigest()[:16]


def files_below(path: Path) -> list[Path]:
    """Return the files below a directory, without hidden ones, in order; of a file, the file."""
    if not path.is_dir():
        return [path]
    parts = {file: file.relative_to(path).parts for file in path.rglob("*") if file.is_file()}
    return sorted(file for file in parts if not any(part.startswith(".") for part in parts[file]))


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
    code_digest(function)
    return function


def _module(name: str, root: Path) -> ModuleType:
    directory = str(root.resolve())
    _unload_namesakes(Path(directory))
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
    here = _module_file(Path(directory, *name.split(".")))
    if here is not None and Path(getattr(module, "__file__", None) or "") != here:
        raise SpecError(
            f"module {name!r} is loaded from {getattr(module, '__file__', 'Python itself')}, not from {here}",
            remedy="rename the module",
        )
    return module


def _module_file(stem: Path) -> Path | None:
    """The file of the module or of the package at a path without its suffix; None where there is none."""
    return next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None)


def _unload_namesakes(directory: Path) -> None:
    """Unload the modules of other specs' directories that a module of this directory has the same name as.

    Such a module is no longer on Python's import path. Functions that were imported from it keep working.
    """
    import_path = {Path(entry or ".").resolve() for entry in sys.path}
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "")
        home = file.parent.parent if file.name == "__init__.py" else file.parent
        if "." in name or name == "__main__" or file.suffix != ".py" or home.resolve() in import_path:
            continue
        if _module_file(directory / name) not in (None, file):
            for loaded in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
                del sys.modules[loaded]


def require_ready(function: UserFunction) -> tuple[str, ...]:
    """Call `require_ready()` of the module that defines a function, if the module has one.

    Returns:
        What it warns of, each with a remedy; empty when it returns None, and without one.

    Raises:
        PipelineError: The function can't work on this machine, for example because a program is missing.
    """
    defined = inspect.unwrap(_defined(function))
    names = getattr(defined, "__globals__", None) or vars(inspect.getmodule(defined))
    hook = names.get("require_ready")
    if callable(hook) and hook is not require_ready:
        return tuple(map(str, hook() or ()))
    return ()
