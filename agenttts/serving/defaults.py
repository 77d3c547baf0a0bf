"""What the command line shows of this package; importing it costs nothing."""

from __future__ import annotations

CONCURRENCY = 32
"""Sequences at once that each server's KV cache is planned for."""
