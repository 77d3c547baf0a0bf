"""YAML files of this package as pydantic models, every error with its file, line, field, law and value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipelines.errors import SpecError
from pipelines.functions import resolve
from pipelines.yamlfile import Document, Place, read_yaml

Model = TypeVar("Model", bound=BaseModel)


def load_config(path: Path | str, model: type[Model], *, functions_from: Path | None = None) -> Model:
    """The file as a `model`. Raises one SpecError for all that is wrong, a line each.

    `{python: "module:function"}` stands for a function, imported from the file's directory (or
    `functions_from`) or the path.
    """
    file = Path(path)
    document = read_yaml(file)
    if not isinstance(document.data, dict):
        raise SpecError(f"must be a mapping of keys, got {document.data!r:.60}", file=file, line=1)
    data = _with_functions(document.data, functions_from or file.parent)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SpecError.all_of([_problem(found, document) for found in error.errors()]) from None


def _with_functions(value: Any, root: Path) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {"python"}:
            return resolve(value["python"], root)
        return {key: _with_functions(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_functions(item, root) for item in value]
    return value


def _problem(found: Any, document: Document) -> SpecError:
    place: Place = tuple(part for part in found["loc"] if part not in ("written", "function"))
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    known = place
    while known and known not in document.lines:
        known = known[:-1]
    line = document.lines.get(known, 1)
    if found["type"] == "missing":
        return SpecError("is required", file=document.file, line=line, field=field, remedy=f"add {place[-1]}")
    if found["type"] == "extra_forbidden":
        return SpecError("unknown key", file=document.file, line=line, field=field)
    law = found["msg"].removeprefix("Value error, ").replace("Input should", "must")
    shown = "" if isinstance(found["input"], Mapping) else f", got {found['input']!r:.60}"
    return SpecError(f"{law}{shown}", file=document.file, line=line, field=field)
