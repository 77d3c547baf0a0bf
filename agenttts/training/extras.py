"""Settings of optional libraries that more than one trainer needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def no_progress_bars(datasets: ModuleType) -> Iterator[None]:
    """Switch off the progress bars of the datasets library within the block.

    Args:
        datasets: The imported module `datasets`.
    """
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
