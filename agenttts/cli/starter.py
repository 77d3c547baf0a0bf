"""The files of a new pipeline: a spec with comments and a prompt for each stage, or a copy of a family."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from agenttts.errors import UserError

if TYPE_CHECKING:
    from pipelines.dataset.rows import Row

LABELS = ("answer", "answers", "gold", "label", "target", "output")
SCHEMA_FILE = "pipeline.schema.json"
_FEW_CLASSES = 20  # so many distinct labels, each seen several times, are classes
_LONG_ANSWER_WORDS = 6  # longer answers are compared word by word
_MOST_SEARCH, _MOST_TEST = 100, 400
_LEAST_ROWS = 4


@dataclass(frozen=True, kw_only=True)
class StarterModel:
    """A candidate model. served_name, context_length: as its server says, where it answers."""

    name: str
    base_url: str
    active_params: float
    served_name: str | None = None
    context_length: int | None = None

    @classmethod
    def parse(cls, text: str) -> StarterModel:
        """From NAME=URL,PARAMS such as small=http://127.0.0.1:8001/v1,3e9. UserError for another form."""
        match = re.fullmatch(r"([\w.-]+)=(https?://[^\s,]+),([\d.eE+]+)", text.strip())
        try:
            if match is None or not float(match[3]) > 0:
                raise ValueError
        except ValueError:
            raise UserError(
                f"--model is NAME=URL,PARAMS such as small=http://127.0.0.1:8001/v1,3e9; got {text!r}"
            ) from None
        return cls(name=match[1], base_url=match[2], active_params=float(match[3]))


@dataclass(frozen=True, kw_only=True)
class Starter:
    """What a new pipeline is made of. inputs: fields that the prompts show."""

    name: str
    data: Path
    inputs: Sequence[str]
    label: str
    metric: str
    stages: Sequence[str] = ("draft", "final")
    models: Sequence[StarterModel] = field(default_factory=tuple)
    budget: float = 50.0


def families() -> dict[str, Path]:
    """The ready-made pipelines by name: the spec's file without its ending."""
    root = Path(str(files("pipelines")))
    found = {
        spec.stem if spec.stem != "pipeline" else spec.parent.name: spec for spec in root.glob("*/*.yaml")
    }
    return dict(sorted(found.items()))


def columns(data: Path) -> tuple[list[Row], list[str]]:
    """The rows of a data file, and the fields that every one of them has. UserError for too few rows."""
    from pipelines.dataset.rows import read_file

    if not data.is_file():
        raise UserError(f"--data must be a file that exists, got {str(data)!r}")
    rows = read_file(data)
    if len(rows) < _LEAST_ROWS:
        raise UserError(f"{data}: a pipeline needs {_LEAST_ROWS} rows or more, got {len(rows)}")
    shared = [name for name in rows[0].fields if all(row.fields.get(name) is not None for row in rows)]
    return rows, shared


def guessed_label(fields: Sequence[str]) -> str | None:
    """The field that most likely holds the gold value."""
    return next((name for name in LABELS if name in fields), None)


def gold_fields(rows: Sequence[Row], label: str) -> set[str]:
    """The fields that would give the answer away in a prompt.

    Those are the label, fields with the usual names of labels, fields that only rows with a label have, and
    fields that hold the label's value in half of the rows (in nine of ten where there are few classes, which
    agree by chance).
    """
    labelled = [row.fields for row in rows if row.fields.get(label) is not None]
    unlabelled = [row.fields for row in rows if row.fields.get(label) is None]
    few_classes = len({str(fields[label]) for fields in labelled}) <= _FEW_CLASSES
    share = 0.9 if few_classes else 0.5
    gold = {label, *LABELS}
    for name in {name for fields in labelled for name in fields} - gold:
        repeats = sum(_holds(fields.get(name), fields[label]) for fields in labelled)
        only_with_label = unlabelled and all(fields.get(name) is None for fields in unlabelled)
        if repeats >= share * len(labelled) or only_with_label:
            gold.add(name)
    return gold


def suited_metric(rows: Sequence[Row], label: str) -> str:
    """The metric for the label's type.

    Lists are compared as sets, true or false and few distinct classes by accuracy, long answers token by
    token, anything else by exact match.
    """
    labels = [row.fields[label] for row in rows if row.fields.get(label) is not None]
    if all(isinstance(value, list) for value in labels):
        return "set_f1"
    distinct = {str(value) for value in labels}
    if all(isinstance(value, bool) for value in labels) or len(distinct) <= min(
        _FEW_CLASSES, len(labels) // 4
    ):
        return "accuracy"
    words = sorted(len(str(value).split()) for value in labels)
    return "token_f1" if words[len(words) // 2] > _LONG_ANSWER_WORDS else "exact_match"


def asked(model: StarterModel) -> StarterModel:
    """The model with the name and context length that its server gives; as it is where none answers."""
    import httpx2

    try:
        answer = httpx2.get(f"{model.base_url.rstrip('/')}/models", timeout=2.0)
        served = {str(entry["id"]): entry.get("max_model_len") for entry in answer.json()["data"]}
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        return model
    name = model.name if model.name in served or len(served) != 1 else next(iter(served))
    length = served.get(name)
    return StarterModel(
        name=model.name,
        base_url=model.base_url,
        active_params=model.active_params,
        served_name=name if name != model.name else None,
        context_length=int(length) if length else None,
    )


def starter_files(starter: Starter, directory: Path) -> dict[str, str]:
    """The new pipeline's files by relative path. UserError for what its data does not have."""
    import jinja2

    from pipelines import BuiltinMetric, spec_schema

    rows, fields = columns(starter.data)
    for name in (*starter.inputs, starter.label):
        if name not in fields:
            raise UserError(
                f"{starter.data}: field {name!r} must be in every row; those are {', '.join(fields)}"
            )
    kinds = get_args(BuiltinMetric.model_fields["kind"].annotation)
    if starter.metric not in kinds:
        raise UserError(f"--metric is one of {', '.join(kinds)}; got {starter.metric!r}")
    bad = [name for name in starter.stages if not re.fullmatch(r"[A-Za-z_]\w*", name) or name in fields]
    if bad or len(set(starter.stages)) < len(starter.stages) or not starter.stages:
        raise UserError(f"stages have names of their own, letters and _, not a field's; got {starter.stages}")
    search = min(_MOST_SEARCH, len(rows) // 2)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("agenttts.cli"),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    ids = {str(row.fields.get("id")) for row in rows}
    spec = environment.get_template("pipeline.yaml.j2").render(
        starter=starter,
        pool=os.path.relpath(starter.data.resolve(), directory.resolve()),
        search=search,
        test=min(_MOST_TEST, len(rows) - search),
        has_id="id" in fields and len(ids) == len(rows),
        schema_file=SCHEMA_FILE,
        quoted=_quoted,
    )
    prompt = environment.get_template("prompt.j2")
    made = {"pipeline.yaml": spec, SCHEMA_FILE: json.dumps(spec_schema(), indent=1) + "\n"}
    for before, stage in zip((None, *starter.stages), starter.stages, strict=False):
        made[f"prompts/{stage}.j2"] = prompt.render(inputs=starter.inputs, before=before)
    return made


def family_files(name: str) -> dict[str, str]:
    """A ready-made family's spec and prompts by relative path. UserError for a name that there is not."""
    known = families()
    if name not in known:
        raise UserError(f"--from is one of {', '.join(known)}; got {name!r}")
    spec = known[name]
    text = spec.read_text(encoding="utf-8")
    text = re.sub(r"^bank: .*\n", "", text, flags=re.MULTILINE)
    beside = sorted(set(re.findall(r"(?:prompts|schemas|data)/[\w.-]+", text)))
    made = {"pipeline.yaml": text}
    made |= {path: (spec.parent / path).read_text(encoding="utf-8") for path in beside}
    return made


def write_files(made: Mapping[str, str], directory: Path, force: bool) -> None:
    """Write them all, or none: UserError where one is there already, unless forced."""
    there = [path for path in made if (directory / path).exists()]
    if there and not force:
        raise UserError(f"{directory / there[0]} is there already; name another directory, or add --force")
    for path, text in made.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text, encoding="utf-8")


def _holds(value: object, label: object) -> bool:
    """Whether a field's value is the label's, or a list that has it."""
    return value == label or (isinstance(value, list) and label in value)


def _quoted(text: str) -> str:
    """Text as a YAML double-quoted scalar."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
