"""The program `agenttts`, also as `python -m agenttts`: the command line, and Ctrl-C while it is imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that `sys.argv` names, and exit."""
    try:
        from agenttts.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
