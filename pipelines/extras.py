"""Optional libraries: imported where they are needed, because the core works without them."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

from pipelines.errors import MissingDependency


def library(name: str, purpose: str = "tuning", *, extra: str | None = "tune") -> ModuleType:
    """Import an optional library.

    Args:
        name: The module to import, such as `safetensors.torch`.
        purpose: What needs the library, as the error's first words.
        extra: The extra of this distribution that includes the library; None when no extra does.

    Raises:
        MissingDependency: The import fails. The message names the command that installs the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        command = f"pip install {package}" if extra is None else install_command(extra)
        raise MissingDependency(
            f"{purpose} needs {package}, which can't be imported ({error}); run: {command}"
        ) from None


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this distribution from the distribution's own source.

    The source is the directory or URL that pip recorded in `direct_url.json` (PEP 610), else the package
    index.
    """
    source = _source()
    if source is None:
        return f"pip install 'agenttts[{extra}]'"
    if source.startswith("/") and Path(source).is_dir():
        return f"pip install '{source}[{extra}]'"
    return f"pip install 'agenttts[{extra}] @ {source}'"


def _source() -> str | None:
    """The directory or URL that the distribution was installed from; None for a package index."""
    try:
        record = distribution("agenttts").read_text("direct_url.json")
        url = str(json.loads(record)["url"]) if record else None
    except (PackageNotFoundError, ValueError, KeyError, TypeError):
        return None
    if url is None or not url.startswith("file://"):
        return url
    path = unquote(urlsplit(url).path)
    return path if Path(path).is_dir() else url
