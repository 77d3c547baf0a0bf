"""Read a YAML file as a pydantic model; every error names its file and line.

Where a model takes a user-defined function, a file writes `{python: "module:function"}`. Loading such a
file imports that module (see `functions`), so load only files that you would run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipelines.errors import SpecError
from pipelines.spec.schema import is_tag, keys_by_kind, known_keys
from pipelines.spec.yaml_file import Place, read_yaml

Model = TypeVar("Model", bound=BaseModel)

_VARIANT = re.compile(r"/([^./\[]+)")
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


@dataclass(frozen=True)
class ConfigFile:
    """The mapping of keys in a file, and the line of each of its fields.

    Attributes:
        file: The file that was read.
        data: The mapping that it contains.
        lines: The 1-based line of each field. The fields of a stage are listed under its name
            (`stages[answer].prompt`) and under its position (`stages[0].prompt`).
    """

    file: Path
    data: Mapping[str, object]
    lines: Mapping[str, int]

    @classmethod
    def read(cls, file: Path) -> ConfigFile:
        """Read a YAML file.

        Raises:
            SpecError: The file can't be read, is not YAML, or is not one mapping of keys.
        """
        document = read_yaml(file)
        if not isinstance(document.data, dict):
            raise SpecError(f"must be a mapping of keys, got {_shown(document.data)}", file=file, line=1)
        lines = {_field(place, {}): line for place, line in document.lines.items()}
        by_name = {_field(place, document.data): line for place, line in reversed(document.lines.items())}
        return cls(file, document.data, lines | by_name)

    def validated(self, model: type[Model], functions_from: Path, **given: object) -> Model:
        """Validate the data as the function `validated` does; errors also name the file and the line.

        Args:
            model: The class to build.
            functions_from: The directory in which modules of functions are searched for first.
            **given: Fields that the file must not contain.

        Raises:
            SpecError: One error for all problems, in the order of their lines.
        """
        try:
            return validated(model, self.data, functions_from, **given)
        except SpecError as error:
            placed = [problem if problem.file else self._placed(problem) for problem in error.problems]
            raise SpecError.all_of(sorted(placed, key=lambda problem: problem.line or 0)) from None

    def line_of(self, field: str) -> int | None:
        """Return the 1-based line of a field, or of the nearest field around it.

        Args:
            field: A field such as `stages[answer].parser.kind`, or `models.small/think.speed` of a variant.

        Returns:
            The line; None when the file has neither the field nor one around it.
        """
        while field:
            for written in (field, _VARIANT.sub(r".variants.\1", field), _VARIANT.sub("", field)):
                if written in self.lines:
                    return self.lines[written]
            field = field[: max(field.rfind("."), field.rfind("["), 0)]
        return None

    def _placed(self, problem: SpecError) -> SpecError:
        line = self.line_of(problem.field or "")
        return SpecError(
            problem.message, file=self.file, line=line, field=problem.field, remedy=problem.remedy
        )


def load_config(path: Path | str, model: type[Model], *, functions_from: Path | None = None) -> Model:
    """Read a YAML file as a pydantic model.

    Args:
        path: The file.
        model: The class that describes the file.
        functions_from: The directory in which modules of functions are searched for first; None means the
            file's directory.

    Raises:
        SpecError: One error for all problems: `file:line: field: rule, got value; remedy`, one per line.
    """
    file = Path(path)
    return ConfigFile.read(file).validated(model, functions_from or file.parent)


def validated(model: type[Model], data: Mapping[str, object], functions_from: Path, **given: object) -> Model:
    """Validate plain data as a pydantic model.

    Args:
        model: The class to build.
        data: The fields by name; functions are given as `module:name`.
        functions_from: The directory in which modules of functions are searched for first.
        **given: Further fields of the model, which the data must not contain.

    Raises:
        SpecError: One error for all problems, with their fields but without lines.
    """
    problems = [_unknown_key(model, (name,), name) for name in given if name in data]
    try:
        whole = model.model_validate({**data, **given}, context={"root": functions_from})
    except ValidationError as error:
        problems += [_problem(model, details, data) for details in _causes(error.errors())]
    if problems:
        raise SpecError.all_of(problems)
    return whole


def _causes(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out the errors that follow from others: a list counts as too short when its items are invalid."""
    return [e for e in errors if not (e["type"] == "too_short" and e["input"])] or errors


def _problem(model: type[BaseModel], details: ErrorDetails, data: Mapping[str, object]) -> SpecError:
    path = tuple(part for part in details["loc"] if not is_tag(part))
    field, value, facts = _field(path, data), details["input"], details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return _unknown_key(model, details["loc"], field)
        case "missing":
            return SpecError("is required", field=field, remedy=f"add {path[-1]}")
        case "function":
            return SpecError(facts["law"], field=field, remedy=facts["remedy"])
        case "union_tag_invalid":
            return _unknown_kind(model, details["loc"], field, value["kind"])
        case "union_tag_not_found" | "dataclass_type":
            return SpecError(f"must be a mapping of keys, got {_shown(value)}", field=field)
        case "value_error":
            law = details["msg"].removeprefix("Value error, ")
            shown = ", got " in law or isinstance(value, Mapping)
            return SpecError(law if shown else f"{law}, got {_shown(value)}", field=field)
    law = details["msg"].split(" or instance of ")[0]
    for theirs, ours in _WORDS.items():
        law = law.replace(theirs, ours)
    quotable = details["type"] == "string_type" and isinstance(value, int | float)
    remedy = "put it in quotes" if quotable else None
    return SpecError(f"{law}, got {_shown(value)}", field=field, remedy=remedy)


def _unknown_key(model: type[BaseModel], loc: Place, field: str) -> SpecError:
    *above, key = loc
    known = known_keys(model, above)
    near = difflib.get_close_matches(str(key), known, n=1)
    if above and is_tag(above[-1]) and not near:
        owners = [kind for kind, keys in keys_by_kind(model, above[:-1]).items() if key in keys]
        if owners:
            law = f"belongs to kind {' or '.join(owners)}, got kind {str(above[-1]).strip('<>')}"
            return SpecError(law, field=field)
    remedy = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(known)}"
    return SpecError("unknown key", field=field, remedy=remedy)


def _unknown_kind(model: type[BaseModel], loc: Place, field: str, kind: object) -> SpecError:
    kinds = list(keys_by_kind(model, loc))
    near = difflib.get_close_matches(str(kind), kinds, n=1)
    law = f"must be {', '.join(map(repr, kinds[:-1]))} or {kinds[-1]!r}, got {_shown(kind)}"
    return SpecError(law, field=f"{field}.kind", remedy=f"did you mean {near[0]}?" if near else None)


def _field(path: Place, data: Mapping[str, object]) -> str:
    """A path as text, such as `stages[answer].parser.kind`; a stage without a name goes by its position."""
    parts = []
    for depth, part in enumerate(path):
        if isinstance(part, int) and path[:depth] == ("stages",):
            stages = data.get("stages")
            stage = stages[part] if isinstance(stages, list) else None
            name = stage.get("name") if isinstance(stage, dict) else None
            parts.append(f"[{name if isinstance(name, str) else part}]")
        else:
            parts.append(f"[{part}]" if isinstance(part, int) else f".{part}")
    return "".join(parts).removeprefix(".")


def _shown(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
