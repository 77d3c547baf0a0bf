"""A pipeline with a full bank, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agenttts.recorded import write_recorded


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The spec of a small pipeline whose bank answers every allocation."""
    return write_recorded(tmp_path_factory.mktemp("recorded"))
