"""Finds which model and how many samples each stage of an LLM pipeline should get, under a compute budget."""

from importlib.util import find_spec
from pathlib import Path


def _refuse_namesakes() -> None:
    """Raise ImportError where another package hides one that is installed with this one.

    `pipelines` and `datastore` are names that a user's own project may have, and Python looks into the
    working directory first.
    """
    home = Path(__file__).resolve().parents[1]
    for name in ("pipelines", "datastore"):
        spec = find_spec(name)
        place = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if place != home / name / "__init__.py":
            raise ImportError(
                f"agenttts needs its own package {name} in {home / name}, and Python finds {place} first; "
                f"rename yours, or start Python in another directory"
            )


_refuse_namesakes()

from datastore.lazy import public_names  # noqa: E402 - after the check, for its message

__all__ = public_names(__name__)
