"""Libraries of the extra `tune`: imported when they are needed, as the core works without them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.errors import MissingDependency


def library(
    name: str, remedy: str = "tuning needs more libraries: pip install 'agenttts[tune]' ({error})"
) -> Any:
    """The module. MissingDependency with the remedy, `{error}` in it replaced by what went wrong."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependency(remedy.format(error=error)) from None


@contextmanager
def no_progress_bars(datasets: Any) -> Iterator[None]:
    """The datasets library draws no bar of its own within the block."""
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
