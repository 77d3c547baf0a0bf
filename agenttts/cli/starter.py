"""The files of a new pipeline: a spec with comments and a prompt for each stage, or a copy of a family."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from agenttts.errors import UserError
from agenttts.space.units import units
from pipelines.costs import estimated_tokens
from pipelines.reading.numeric import number_of
from pipelines.spec.fields import ReferenceSpec
from pipelines.spec.rules import address_law, without_password

if TYPE_CHECKING:
    from pipelines.dataset.rows import Row

LABELS = ("answer", "answers", "gold", "label", "target", "output")
SCHEMA_FILE = "pipeline.schema.json"
_FEW_CLASSES = 20  # so many distinct labels, each seen several times, are classes
_LONG_ANSWER_WORDS = 6  # longer answers are compared word by word
_MOST_SEARCH, _MOST_TEST = 100, 400
_LEAST_ROWS = 4
_GENERATED_TOKENS = 64
_MEASURED_ROWS = 200
_LEAST_UNITS = 50.0
_LARGEST_SAMPLES = 4


@dataclass(frozen=True, kw_only=True)
class StarterModel:
    """A candidate model of a new pipeline.

    Attributes:
        name: The name in the pipeline file.
        base_url: The address of its server.
        active_params: The number of active parameters.
        served_name: The name that the server knows it by; None where it is `name`.
        context_length: The context length in tokens; None where the server does not report it.
    """

    name: str
    base_url: str
    active_params: float
    served_name: str | None = None
    context_length: int | None = None

    @classmethod
    def parse(cls, text: str) -> StarterModel:
        """Parse the value of `--model`.

        Args:
            text: NAME=URL,PARAMS, such as `small=http://127.0.0.1:8001/v1,3e9`.

        Raises:
            UserError: The text has another form.
        """
        match = re.fullmatch(r"([\w.-]+)=(https?://[^\s,]+),(\S+)", text.strip())
        try:
            params = float("" if match is None else match[3])
        except ValueError:
            params = math.nan
        if match is None or not 0 < params < math.inf:
            name, equals, address = text.partition("=")
            shown = name + equals + without_password(address)
            raise UserError(
                "--model is NAME=URL,PARAMS such as small=http://127.0.0.1:8001/v1,3e9, with PARAMS, the "
                f"active parameters, a number above 0; got {shown!r}"
            )
        if (law := address_law(match[2])) is not None:
            raise UserError(f"--model {match[1]}: the address {law}")
        return cls(name=match[1], base_url=match[2], active_params=params)


@dataclass(frozen=True, kw_only=True)
class Starter:
    """The choices that a new pipeline is generated from.

    Attributes:
        name: The name of the pipeline.
        data: The file with the rows.
        inputs: The fields that the prompts show.
        label: The field with the gold value.
        metric: The kind of the built-in metric.
        stages: The names of the stages, in their order.
        models: The candidate models.
        budget: The budget in units per query; None for some samples of the largest model at every stage.
    """

    name: str
    data: Path
    inputs: Sequence[str]
    label: str
    metric: str
    stages: Sequence[str] = ("draft", "final")
    models: Sequence[StarterModel] = field(default_factory=tuple)
    budget: float | None = None


def families() -> dict[str, Path]:
    """Return the spec files of the ready-made pipelines, by the name of the pipeline."""
    root = Path(str(files("pipelines")))
    specs = {
        spec.stem if spec.stem != "pipeline" else spec.parent.name: spec for spec in root.glob("*/*.yaml")
    }
    return dict(sorted(specs.items()))


def columns(data: Path) -> tuple[list[Row], list[str]]:
    """Read a data file.

    Args:
        data: The file.

    Returns:
        The rows, and the names of the fields that every row has.

    Raises:
        UserError: The file does not exist, or has too few rows.
    """
    from pipelines.dataset.rows import read_file

    if not data.is_file():
        raise UserError(f"--data must be a file that exists, got {str(data)!r}")
    rows = read_file(data)
    if len(rows) < _LEAST_ROWS:
        raise UserError(f"{data}: a pipeline needs {_LEAST_ROWS} rows or more, got {len(rows)}")
    shared = [name for name in rows[0].fields if all(row.fields.get(name) is not None for row in rows)]
    return rows, shared


def guessed_label(fields: Sequence[str]) -> str | None:
    """Guess which field holds the gold value, by the usual names.

    Args:
        fields: The names of the fields.

    Returns:
        The name of the field; None when no field has such a name.
    """
    return next((name for name in LABELS if name in fields), None)


def gold_fields(rows: Sequence[Row], label: str) -> set[str]:
    """Return the fields that would reveal the answer in a prompt.

    Those are the label, fields with the usual names of labels, fields that only rows with a label have, and
    fields that hold the label's value in half of the rows (in nine of ten where there are few classes, which
    agree by chance).

    Args:
        rows: The rows of the data.
        label: The field with the gold value.
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
    """Choose a metric by the type of the label.

    Lists are compared as sets, booleans and few distinct classes by accuracy, numbers as numbers unless any
    has leading zeros, long answers token by token, anything else by exact match.

    Args:
        rows: The rows of the data.
        label: The field with the gold value.

    Returns:
        The kind of the built-in metric.
    """
    labels = [row.fields[label] for row in rows if row.fields.get(label) is not None]
    if all(isinstance(value, list) for value in labels):
        return "set_f1"
    distinct = {str(value) for value in labels}
    if all(isinstance(value, bool) for value in labels) or len(distinct) <= min(
        _FEW_CLASSES, len(labels) // 4
    ):
        return "accuracy"
    if all(number_of(value) is not None and not _is_code(value) for value in labels):
        return "number"
    words = sorted(len(str(value).split()) for value in labels)
    return "token_f1" if words[len(words) // 2] > _LONG_ANSWER_WORDS else "exact_match"


def candidates(texts: Sequence[str]) -> list[StarterModel]:
    """Parse the values of all `--model`, and complete them by what their servers report.

    Args:
        texts: The values.

    Raises:
        UserError: One has another form, two have one name, or two are one served model with different
            parameters, which no pipeline may have.
    """
    models = [StarterModel.parse(text) for text in texts]
    names = [model.name for model in models]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"--model must have a name of its own each time, got {repeated!r} twice; rename one")
    models = [completed_by_server(model) for model in models]
    first_of = dict[str, StarterModel]()
    for model in models:
        served_name = model.served_name or model.name
        twin = first_of.setdefault(served_name, model)
        if twin.active_params != model.active_params:
            raise UserError(
                f"--model {twin.name} and {model.name}: both are {served_name!r} by what the servers list, "
                f"and one model has one number of parameters, got {twin.active_params:g} and "
                f"{model.active_params:g}; state the same, or name the server of another model"
            )
    return models


def completed_by_server(model: StarterModel) -> StarterModel:
    """Add the name and the context length that the model's server reports.

    Args:
        model: The model.

    Returns:
        The completed model; the same model when the server does not answer.
    """
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
    """Generate the files of a new pipeline.

    Args:
        starter: The choices.
        directory: Where the files will be; the path of the data is written relative to it.

    Returns:
        The text of each file, by relative path.

    Raises:
        UserError: The data lack a field, or a metric or stage name is not valid.
    """
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
    template = environment.get_template("prompt.j2")
    prompts = {
        stage: template.render(inputs=starter.inputs, before=before, is_last=stage == starter.stages[-1])
        for before, stage in zip((None, *starter.stages), starter.stages, strict=False)
    }
    prompt_tokens = {
        stage: _mean_tokens(prompt, rows) + (_GENERATED_TOKENS if stage != starter.stages[0] else 0)
        for stage, prompt in prompts.items()
    }
    sizes = [model.active_params for model in starter.models]
    reference = ReferenceSpec(
        active_params=min(sizes),
        prompt_tokens=min(prompt_tokens.values()),
        generated_tokens=_GENERATED_TOKENS,
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
        prompt_tokens=prompt_tokens,
        reference=reference,
        units=_units(max(sizes), prompt_tokens.values(), reference)
        if starter.budget is None
        else starter.budget,
    )
    texts = {"pipeline.yaml": spec, SCHEMA_FILE: json.dumps(spec_schema(), indent=1) + "\n"}
    return texts | {f"prompts/{stage}.j2": prompt for stage, prompt in prompts.items()}


def family_files(name: str) -> dict[str, str]:
    """Read the spec of a ready-made pipeline, its prompts, and the modules that lie beside it as files.

    Args:
        name: The name of the pipeline.

    Returns:
        The text of each file, by relative path.

    Raises:
        UserError: There is no pipeline of that name.
    """
    known = families()
    if name not in known:
        raise UserError(f"--from is one of {', '.join(known)}; got {name!r}")
    spec = known[name]
    text = spec.read_text(encoding="utf-8")
    text = re.sub(r"^bank: .*\n", "", text, flags=re.MULTILINE)
    modules = re.findall(r'python: "(\w+):', text)  # without a package: in the directory of the spec
    beside = sorted({*re.findall(r"(?:prompts|schemas|data)/[\w.-]+", text), *(f"{m}.py" for m in modules)})
    texts = {"pipeline.yaml": text}
    texts |= {path: (spec.parent / path).read_text(encoding="utf-8") for path in beside}
    return texts


def write_files(texts: Mapping[str, str], directory: Path, force: bool) -> None:
    """Write all files, or none.

    Args:
        texts: The text of each file, by relative path.
        directory: Where the files go.
        force: Whether existing files are replaced.

    Raises:
        UserError: A file exists already, and `force` is false.
    """
    existing = [path for path in texts if (directory / path).exists()]
    if existing and not force:
        raise UserError(f"{directory / existing[0]} is there already; name another directory, or add --force")
    for path, text in texts.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text, encoding="utf-8")


def _mean_tokens(prompt: str, rows: Sequence[Row]) -> int:
    """The mean length of a prompt over the first rows, without what earlier stages write into it."""
    shown = rows[:_MEASURED_ROWS]
    return round(sum(estimated_tokens(_filled(prompt, row)) for row in shown) / len(shown))


def _filled(prompt: str, row: Row) -> str:
    """A prompt with the row's values; names of fields are data, and no template is run."""
    for name, value in row.fields.items():
        prompt = prompt.replace(f"{{{{ {name} }}}}", str(value))
    return prompt


def _units(largest: float, prompt_tokens: Iterable[int], reference: ReferenceSpec) -> float:
    """A budget for some samples of the largest model at every stage, and not below the least."""
    once = sum(units(largest, n, reference.generated_tokens, 1, reference) for n in prompt_tokens)
    enough = max(_LEAST_UNITS, _LARGEST_SAMPLES * once)
    step = 10 ** (math.floor(math.log10(enough)) - 1)
    return float(step * math.ceil(enough / step))


def _holds(value: object, label: object) -> bool:
    """Whether a field's value is the label's, or a list that has it."""
    return value == label or (isinstance(value, list) and label in value)


def _is_code(label: object) -> bool:
    """Whether a label is digits with a leading zero, such as a postal code, which a number would not keep."""
    return isinstance(label, str) and re.match(r"\s*0[0-9]", label) is not None


def _quoted(text: str) -> str:
    """Text as a YAML double-quoted scalar."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
