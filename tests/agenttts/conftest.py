"""A pipeline with a full bank, and a search on it, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttts import search
from tests.agenttts.recorded import write_recorded


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The spec of a small pipeline whose bank answers every allocation."""
    return write_recorded(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="session")
def searched(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a search on that pipeline; to be read only."""
    db = tmp_path_factory.mktemp("searched") / "run.duckdb"
    search(recorded, budget=60, trials=10, replay=True, db=db)
    return db
