"""Pipeline specs as files: YAML in, JSON for the store, the digest that says whether two are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaValue

from datastore.keys import canonical_json
from pipelines.spec.configfile import ConfigFile, validated
from pipelines.spec.functions import UserFunction, reference, source
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.schema import file_schema
from pipelines.spec.strict import PythonFunction
from pipelines.spec.templates import check_templates

__all__ = ["dump_spec", "load_spec", "restore_spec", "spec_digest", "spec_functions", "spec_schema"]

_ADDRESS_FIELDS = ("base_url", "api_key_env", "path", "serve_args", "max_n")


def load_spec(path: Path | str) -> PipelineSpec:
    """Read a pipeline from YAML; relative paths in it start from its directory.

    Raises one SpecError for all that is wrong: `file:line: field: law, got value; remedy`, one per line.
    """
    source_file = ConfigFile.read(Path(path))
    root = source_file.file.parent
    spec = source_file.validated(PipelineSpec, root, root=root)
    spec._source = source_file
    check_templates(spec)
    return spec


def spec_schema() -> JsonSchemaValue:
    """JSON schema (draft 2020-12) of a pipeline file."""
    return file_schema(PipelineSpec)


def dump_spec(spec: PipelineSpec) -> str:
    """The whole spec as JSON, prompts included and functions as `module:name`: what the store keeps of a
    run."""
    return canonical_json({**spec.model_dump(mode="json"), "root": str(spec.root.resolve())})


def restore_spec(text: str) -> PipelineSpec:
    """The spec that `dump_spec` wrote. SpecError when a function of it can't be imported any more."""
    data = json.loads(text)
    root = Path(data.pop("root"))
    return validated(PipelineSpec, data, root, root=root)


def spec_digest(spec: PipelineSpec) -> str:
    """SHA-256, in hex, of all that can change a result: prompts' texts and functions' sources included.

    Where servers are (base_url, api_key_env, path, serve_args, max_n), the bank's place and the spec's
    directory are left out, so that a run can be resumed after a move. Rows of the dataset are not looked at.
    """
    data = spec.model_dump(mode="json", exclude={"bank"})
    for model in data["models"].values():
        for name in _ADDRESS_FIELDS:
            del model[name]
    data["functions"] = [(reference(function), source(function)) for function in spec_functions(spec)]
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


def spec_functions(part: object) -> Iterator[UserFunction]:
    """Every function of the user's own, or of a family, that a spec or a part of one names."""
    if isinstance(part, PythonFunction):
        yield part.python
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from spec_functions(getattr(part, name))
    elif isinstance(part, tuple | Mapping):
        for item in part.values() if isinstance(part, Mapping) else part:
            yield from spec_functions(item)
