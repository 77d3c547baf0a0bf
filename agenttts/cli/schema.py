"""`agenttts schema`: the JSON schema of the pipeline file."""

from __future__ import annotations

import pipelines
from agenttts.cli.options import Json, print_json


def schema(json: Json = True) -> None:
    """Print the JSON schema of a pipeline file, for editors and other programs.

    Example: `agenttts schema > pipeline.schema.json`
    """
    print_json(pipelines.spec_schema())
