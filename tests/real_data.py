"""Where real data for tests lies: the directory that AGENTTTS_DATA names, else one beside the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("AGENTTTS_DATA") or Path(__file__).parents[2] / "shared" / "data")


def need(name: str) -> Path:
    """The file of that name; the test is skipped where it is absent."""
    file = DATA / name
    if not file.is_file():
        pytest.skip(f"real data is absent: {file}")
    return file
