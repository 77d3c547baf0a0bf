"""Pipeline specs as files: YAML in, with every error under its file and line; JSON for the store; schema;
digest.

Wherever a spec takes a parser, aggregator, scorer or metric, a file may write `{python: "module:function"}`.
Loading such a file imports that module (see `functions`), so load only specs that you would run.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipelines.errors import SpecError
from pipelines.functions import reference, resolve, source
from pipelines.jsonvalues import canonical
from pipelines.prompts import check_templates
from pipelines.spec import AggregatorSpec, PipelineSpec
from pipelines.specschema import known_keys, spec_schema
from pipelines.yamlfile import Place, read_yaml

__all__ = ["dump_spec", "load_spec", "restore_spec", "spec_digest", "spec_functions", "spec_schema"]

_UNION_TAGS = ("written", "function")
_ADDRESS_FIELDS = ("base_url", "api_key_env", "path", "serve_args", "max_n")


def load_spec(path: Path | str) -> PipelineSpec:
    """Read a pipeline from YAML; relative paths in it start from its directory.

    Raises one SpecError for all that is wrong: `file:line: field: law, got value; remedy`, one per line.
    """
    file = Path(path)
    document = read_yaml(file)
    if not isinstance(document.data, dict):
        raise SpecError(f"must be a mapping of keys, got {_shown(document.data)}", file=file, line=1)
    by_name = {_field(place, document.data): line for place, line in reversed(document.lines.items())}
    lines = {_field(place, None): line for place, line in document.lines.items()} | by_name
    try:
        spec = _validated(document.data, file.parent)
    except SpecError as error:
        placed = [_placed(problem, str(file), lines) for problem in error.problems]
        raise SpecError.all_of(sorted(placed, key=lambda problem: problem.line or 0)) from None
    spec._file, spec._lines = str(file), lines
    check_templates(spec)
    return spec


def dump_spec(spec: PipelineSpec) -> str:
    """The whole spec as JSON, prompts included and functions as `module:name`: what the store keeps of a
    run."""
    return canonical({**spec.model_dump(mode="json"), "root": str(spec.root.resolve())})


def restore_spec(text: str) -> PipelineSpec:
    """The spec that `dump_spec` wrote. SpecError when a function of it can't be imported any more."""
    data = json.loads(text)
    return _validated(data, Path(data.pop("root")))


def spec_digest(spec: PipelineSpec) -> str:
    """SHA-256, in hex, of all that can change a result: prompts' texts and functions' sources included.

    Where servers are (base_url, api_key_env, path, serve_args, max_n), the bank's place and the spec's
    directory are left out, so that a run can be resumed after a move. Rows of the dataset are not looked at.
    """
    data = spec.model_dump(mode="json", exclude={"bank"})
    for model in data["models"].values():
        for name in _ADDRESS_FIELDS:
            del model[name]
    for stage in data["stages"]:
        if not stage["verifiers"]:
            del stage["verifiers"]  # runs from before there were any keep their digest
    data["functions"] = [(reference(function), source(function)) for function in spec_functions(spec)]
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def spec_functions(spec: PipelineSpec) -> Iterator[Callable[..., Any]]:
    """Every function of the user's own, or of a family, that the spec names."""
    for stage in spec.stages:
        own = stage.aggregator
        named = (own.scorer, own.feedback) if isinstance(own, AggregatorSpec) else (own,)
        yield from filter(callable, (stage.parser, *named, stage.metric))
    yield from filter(callable, (spec.metric, *spec.metrics.values(), spec.dataset.prepare))


def _validated(data: Mapping[str, Any], root: Path) -> PipelineSpec:
    problems: list[SpecError] = []
    resolved = _resolved(data, (), root, data, problems)
    if "root" in data:
        problems.append(_unknown_key(("root",), data))
    try:
        spec = PipelineSpec.model_validate({**resolved, "root": root})
    except ValidationError as error:
        problems += [_problem(found, data) for found in _telling(error.errors())]
    if problems:
        raise SpecError.all_of(problems)
    return spec


def _resolved(value: Any, path: Place, root: Path, data: Any, problems: list[SpecError]) -> Any:
    """The data with each `{python: name}`, where a function may stand, replaced by the function."""
    if isinstance(value, dict) and "python" in value and "python" in known_keys(path):
        try:
            if len(value) > 1:
                raise SpecError(f"python must stand alone, got {', '.join(value)}")
            return resolve(value["python"], root)
        except SpecError as error:
            problems.append(SpecError(error.message, field=_field(path, data), remedy=error.remedy))
            return _placeholder
    if isinstance(value, dict):
        return {key: _resolved(item, (*path, key), root, data, problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, (*path, i), root, data, problems) for i, item in enumerate(value)]
    return value


def _placeholder() -> None:
    """Stands for a function that was not found, so that the rest of the spec is still looked at."""


def _telling(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without the errors that only follow from others: a list that counts as empty as its items are wrong."""
    return [e for e in errors if not (e["type"] == "too_short" and e["input"])] or errors


def _problem(found: ErrorDetails, data: Mapping[str, Any]) -> SpecError:
    path = _path(found["loc"], data)
    if found["type"] == "extra_forbidden":
        return _unknown_key(path, data)
    if found["type"] == "missing":
        return SpecError("is required", field=_field(path, data), remedy=f"add {path[-1]}")
    law = found["msg"].removeprefix("Value error, ").split(", got ")[0].split(" or instance of ")[0]
    for theirs, ours in _WORDS.items():
        law = law.replace(theirs, ours)
    remedy = None
    if found["type"] == "string_type" and isinstance(found["input"], int | float):
        remedy = "put it in quotes"
    return SpecError(f"{law}, got {_shown(found['input'])}", field=_field(path, data), remedy=remedy)


_WORDS = {
    "Input should": "must",
    "String should": "must",
    "Tuple should": "must",
    "Dictionary should": "must",
    "valid tuple": "list",
    "valid dictionary": "mapping of keys",
    "valid string": "text",
    "valid boolean": "true or false",
    " after validation, not 0": "",
    "a valid": "a",
    "a text": "text",
    "a integer": "an integer",
    "greater than or equal to": ">=",
    "less than or equal to": "<=",
    "greater than": ">",
    "less than": "<",
}


def _unknown_key(path: Place, data: Any) -> SpecError:
    known = [key for key in known_keys(path[:-1]) if key != "python"]
    near = difflib.get_close_matches(str(path[-1]), known, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(known)}"
    return SpecError("unknown key", field=_field(path, data), remedy=remedy)


def _path(loc: tuple[str | int, ...], data: Any) -> Place:
    """Where in the data pydantic's location is: without the names it gives to the members of a union."""
    path: list[str | int] = []
    for part in loc:
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int)
        )
        if inside or part not in _UNION_TAGS:
            path.append(part)
            data = data[part] if inside else None
    return tuple(path)


def _field(path: Place, data: Any) -> str:
    """`stages[answer].parser.kind`: a stage by its name where the data has it, else by its position."""
    parts = []
    for depth, part in enumerate(path):
        if isinstance(part, int) and path[:depth] == ("stages",) and data is not None:
            stage = data["stages"][part]
            name = stage.get("name") if isinstance(stage, dict) else None
            parts.append(f"[{name if isinstance(name, str) else part}]")
        else:
            parts.append(f"[{part}]" if isinstance(part, int) else f".{part}")
    return "".join(parts).removeprefix(".")


def _placed(problem: SpecError, file: str, lines: Mapping[str, int]) -> SpecError:
    if problem.file is not None:
        return problem
    place = problem.field or ""
    while place and place not in lines:
        place = place[: max(place.rfind("."), place.rfind("["), 0)]
    return SpecError(
        problem.message,
        file=file,
        line=lines.get(place, 1),
        field=problem.field,
        remedy=problem.remedy,
    )


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
