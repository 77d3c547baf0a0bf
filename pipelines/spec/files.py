"""Pipeline specs as files: read from YAML, written as JSON for the store, compared by a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaValue

from datastore.keys import canonical_json, well_formed
from pipelines.spec.configfile import ConfigFile, validated
from pipelines.spec.functions import UserFunction, code_digest, content_digest, reference, source
from pipelines.spec.models import ModelSpec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.schema import file_schema
from pipelines.spec.stage import StageSpec
from pipelines.spec.templates import check_templates

__all__ = ["dump_spec", "load_spec", "restore_spec", "spec_digest", "spec_functions", "spec_schema"]

_WITHOUT_EFFECT = ("base_url", "api_key_env", "path", "serve_args", "memory", "max_n", "about")
_LATER_FIELDS: Mapping[type[BaseModel], tuple[str, ...]] = {
    ModelSpec: ("variants",),
    StageSpec: ("prompts", "lengths", "python", "named_options", "files", "cost", "costs"),
}


def load_spec(path: Path | str) -> PipelineSpec:
    """Read a pipeline from a YAML file.

    Functions that the file names are imported, so load only files that you would run.

    Args:
        path: The file. Relative paths in it start from its directory.

    Raises:
        SpecError: One error for all problems: `file:line: field: rule, got value; remedy`, one per line.
    """
    source_file = ConfigFile.read(Path(path))
    root = source_file.file.parent
    spec = source_file.validated(PipelineSpec, root, root=root)
    spec._source = source_file
    check_templates(spec)
    return spec


def spec_schema() -> JsonSchemaValue:
    """Return the JSON schema (draft 2020-12) of a pipeline file, for editors and validators."""
    return file_schema(PipelineSpec)


def dump_spec(spec: PipelineSpec) -> str:
    """Write a spec as JSON, as the store records it for a run.

    Prompts are included; functions are written as `module:name`. Options keep their order, since the first is
    the default. `restore_spec` reads the text.
    """
    data = {**spec.model_dump(mode="json"), "root": str(spec.root.resolve())}
    return well_formed(json.dumps(data, ensure_ascii=False, allow_nan=False))


def restore_spec(text: str) -> PipelineSpec:
    """Read a spec that `dump_spec` wrote.

    Raises:
        SpecError: A function can no longer be imported, or the text does not describe a valid spec.
    """
    data = json.loads(text)
    root = Path(data.pop("root"))
    return validated(PipelineSpec, data, root, root=root)


def spec_digest(spec: PipelineSpec) -> str:
    """Compute the SHA-256 (hex) of everything in a spec that can change a result.

    The texts of prompts, the sources of functions and the content of the files that stages' functions read
    are included. The addresses and settings of servers (base_url, api_key_env, path, serve_args, memory,
    max_n), the path of the bank and the directory of the spec are left out, so that a run can be resumed
    after a move, and so is every `about`, which no model of the pipeline is shown. The rows of the dataset
    are not read.
    """
    data = spec.model_dump(
        mode="json", exclude={"bank": True, "about": True, "stages": {"__all__": {"about"}}}
    )
    for model, model_spec in zip(data["models"].values(), spec.models.values(), strict=True):
        for name in _WITHOUT_EFFECT:
            del model[name]
        _drop_defaults(model, model_spec)
    for stage, stage_spec in zip(data["stages"], spec.stages, strict=True):
        _drop_defaults(stage, stage_spec)
    data["functions"] = [(reference(function), source(function)) for function in spec_functions(spec)]
    codes = [code_digest(stage.python) for stage in spec.stages if stage.python is not None]
    if codes:
        data["called"] = codes
    contents = {
        f"{stage.name}.{name}": content_digest(path) if path.exists() else None
        for stage in spec.stages
        for name, path in stage.paths.items()
    }
    if contents:
        data["read"] = contents
    orders = [[*stage.prompts, *stage.named_options] for stage in spec.stages]
    if any(len(names) > 1 for names in orders):
        data["order"] = orders  # the first is the default; keys of mappings are sorted below
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


def _drop_defaults(data: dict[str, object], part: ModelSpec | StageSpec) -> None:
    """Leave out fields that specs of before did not have, where they are at their default."""
    for name in _LATER_FIELDS[type(part)]:
        if part.is_default(name):
            del data[type(part).model_fields[name].alias or name]


def spec_functions(part: object) -> Iterator[UserFunction]:
    """Yield every function that a spec, or a part of one, names."""
    if callable(part) and not isinstance(part, type):
        yield part
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from spec_functions(getattr(part, name))
    elif isinstance(part, tuple | Mapping):
        for item in part.values() if isinstance(part, Mapping) else part:
            yield from spec_functions(item)
