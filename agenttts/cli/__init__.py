"""The command line: `agenttts` and its commands, one module each."""

from agenttts.cli.main import main

__all__ = ["main"]
