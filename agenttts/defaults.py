"""Defaults that the command line shows and `agenttts.search.entry` uses; importing them costs nothing."""

from __future__ import annotations

from pathlib import Path

DEFAULT_DB = Path("agenttts.duckdb")
