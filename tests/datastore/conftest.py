"""A store in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from datastore import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of a test is."""
    return tmp_path / "runs.duckdb"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A new store, open for writing."""
    with Store.open(path) as opened:
        yield opened
