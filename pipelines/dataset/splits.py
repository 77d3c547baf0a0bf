"""Examples of a pipeline's two splits, with all that its prompts, parsers and metrics need in every row.

Whichever split is asked for, both are read and compared, so that a test set that is missing, broken or not
sealed is found before anything is spent. Reading files and the hub is in `tables`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from datastore.keys import canonical_json
from pipelines.dataset.rows import Row, made_row, read_file, read_hub
from pipelines.errors import DatasetError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.templates import needed_fields, used_fields
from pipelines.spec.variants import BuiltinMetric

__all__ = [
    "Example",
    "Splits",
    "examples_digest",
    "examples_from_rows",
    "load_examples",
    "load_splits",
    "seeded_order",
    "with_data",
]

Split = Literal["search", "test"]
ItemT = TypeVar("ItemT")
_SPLITS: tuple[Split, ...] = ("search", "test")
_MOST_BAD = 0.1
_BAD = (ValueError, LookupError, TypeError, AttributeError)
"""What `prepare` may raise for a row that is not as it should be."""


@dataclass(frozen=True)
class _Need:
    """A field that every row must have, whose need it is, and whether it is a gold value or a list."""

    field: str
    needer: str
    nullable: bool = False
    texts: bool = False
    items: bool = False
    label: bool = False


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Both splits, and what became of rows that are in neither: where each stands, and why."""

    search: list[Example]
    test: list[Example]
    left_out: tuple[str, ...]


def load_splits(spec: PipelineSpec) -> Splits:
    """Both splits in the order of their rows, or as drawn from the pool by the dataset's seed.

    Rows that `prepare` refuses, and in a pool those that lack a field or repeat another's inputs, are left
    out. Raises a SpecError when a file is missing or a split is empty, DatasetError when a row lacks a field,
    an id comes twice, a test row asks what a search row asks, or more than a tenth of the rows is bad,
    MissingDependency when a hub dataset needs its library.
    """
    needs = list(_needs(spec, labels=True))
    left_out: list[str] = []
    if spec.dataset.pool is None:
        rows = {split: _prepared(spec, split, left_out) for split in _SPLITS}
        for found in rows.values():
            _check(found, needs, spec)
        _refuse_overlap(spec, rows["search"], rows["test"])
    else:
        rows = _drawn(spec, needs, left_out)
    examples = {split: _examples(found, spec.dataset.id_field) for split, found in rows.items()}
    return Splits(search=examples["search"], test=examples["test"], left_out=tuple(left_out))


def load_examples(spec: PipelineSpec, split: Split) -> list[Example]:
    """The examples of one split; both are read and compared. Raises as `load_splits` does."""
    found = load_splits(spec)
    return found.search if split == "search" else found.test


def with_data(
    spec: PipelineSpec, file: Path | None, n_search: int | None = None, n_test: int | None = None
) -> PipelineSpec:
    """The spec with its pool read from a local file, or with other numbers of rows drawn from it.

    Shared files are taken from the file's directory where they are there. SpecError without a pool.
    """
    changes: dict[str, object] = (
        {} if file is None else {"hub": None, "config": None, "pool": str(file.resolve())}
    )
    if file is not None:
        beside = {name: file.resolve().parent / Path(own).name for name, own in spec.dataset.shared.items()}
        found = {name: str(path) for name, path in beside.items() if path.is_file()}
        changes["shared"] = {**spec.dataset.shared, **found}
    changes |= {name: n for name, n in (("search", n_search), ("test", n_test)) if n is not None}
    if changes and spec.dataset.pool is None:
        raise spec.error_at("dataset.pool", "is not set, so that neither file nor numbers can be changed")
    return spec.model_copy(update={"dataset": spec.dataset.model_copy(update=changes)}) if changes else spec


def examples_from_rows(
    spec: PipelineSpec, rows: Iterable[Mapping[str, JSON]], *, source: str = "inputs", labels: bool = False
) -> list[Example]:
    """Examples from rows at hand, such as new inputs; checked like a dataset's, gold values only with
    `labels`.

    A row without the dataset's id field is named by its number.
    """
    made = [made_row(f"{source}: row {number}", row) for number, row in enumerate(rows, 1)]
    _check(made, list(_needs(spec, labels=labels)), spec)
    id_field = spec.dataset.id_field
    return _examples(made, id_field if all(id_field in row.fields for row in made) else None)


def examples_digest(examples: Sequence[Example]) -> str:
    """SHA-256, in hex, of the examples' ids and fields, in order."""
    rows = [[example.id, dict(example.fields)] for example in examples]
    return hashlib.sha256(canonical_json(rows).encode()).hexdigest()


def _prepared(spec: PipelineSpec, split: Split, left_out: list[str]) -> list[Row]:
    name = getattr(spec.dataset, split)
    rows, bad = [], []
    shared = _shared(spec)
    for row in _read(spec, split, name):
        try:
            rows.append(_prepare(spec, row, shared))
        except _BadRow as problem:
            bad.append(str(problem))
    _refuse_many(bad, len(bad) + len(rows))
    left_out += bad
    if not rows:
        raise spec.error_at(f"dataset.{split}", f"must have at least one row, got none in {name!r}")
    return rows


def _drawn(spec: PipelineSpec, needs: Sequence[_Need], left_out: list[str]) -> dict[Split, list[Row]]:
    """So many rows for search, then so many for test, in an order that the seed alone decides."""
    dataset = spec.dataset
    assert dataset.pool is not None
    pool, shared = _read(spec, "pool", dataset.pool), _shared(spec)
    inputs = frozenset[str]().union(*(used_fields(stage) for stage in spec.stages))
    seen = dict[str, str]()
    bad, repeats = list[str](), list[str]()
    counts = {split: int(getattr(dataset, split)) for split in _SPLITS}
    drawn: list[Row] = []
    for position in seeded_order(range(len(pool)), str, dataset.seed):
        if len(drawn) == sum(counts.values()):
            break
        raw = pool[position]
        try:
            row = _prepare(spec, raw, shared)
        except _BadRow as problem:
            bad.append(str(problem))
            continue
        broken = next((f"field {n.field!r} {law}" for n in needs if (law := _broken(row, n))), None)
        asked = _asked(row, inputs)
        if broken is not None:
            bad.append(f"{row.place}: {broken}")
        elif asked in seen:
            repeats.append(f"{row.place}: repeats the inputs of {seen[asked]}")
        else:
            seen[asked] = row.place
            drawn.append(row)
    _refuse_many(bad, len(bad) + len(repeats) + len(drawn))
    if len(drawn) < sum(counts.values()):
        raise spec.error_at(
            "dataset.search",
            f"search and test together must be at most the {len(drawn)} usable rows of the pool, got "
            f"{counts['search']} + {counts['test']}",
        )
    left_out += bad + repeats
    return {"search": drawn[: counts["search"]], "test": drawn[counts["search"] :]}


class _BadRow(Exception):
    """A row that is left out."""


def _shared(spec: PipelineSpec) -> dict[str, JSON]:
    found = {}
    for name, wanted in spec.dataset.shared.items():
        try:
            found[name] = json.loads((spec.root / wanted).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
            raise spec.error_at(
                f"dataset.shared.{name}",
                f"{wanted!r} can't be read: {reason}",
                remedy="put it beside the spec",
            ) from None
    return found


def _prepare(spec: PipelineSpec, row: Row, shared: Mapping[str, JSON]) -> Row:
    if spec.dataset.prepare is None:
        return Row(row.place, {**shared, **row.fields})
    try:
        return made_row(row.place, spec.dataset.prepare.python({**shared, **row.fields}))
    except _BAD as error:
        said = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        raise _BadRow(f"{row.place}: {said}") from error


def _refuse_many(bad: Sequence[str], count: int) -> None:
    if len(bad) > max(1, _MOST_BAD * count):
        raise DatasetError(
            f"at most a tenth of the rows may be unusable, got {len(bad)} of {count}: {'; '.join(bad[:3])}"
        )


def seeded_order(
    items: Iterable[ItemT], key: Callable[[ItemT], object], seed: int, purpose: str = ""
) -> list[ItemT]:
    """The items shuffled by a seed: the same on every machine, whatever order they come in.

    Args:
        items: What to shuffle.
        key: What identifies an item; its text decides where the item comes, together with seed and purpose.
        seed: Another seed gives another order.
        purpose: Keeps apart orders of the same items that should have nothing to do with each other.
    """
    prefix = f"{seed}|{purpose}|" if purpose else f"{seed}|"
    return sorted(items, key=lambda item: hashlib.sha256(f"{prefix}{key(item)}".encode()).digest())


def _read(spec: PipelineSpec, field: str, wanted: str) -> Sequence[Row]:
    dataset = spec.dataset
    if dataset.hub is not None:
        local = spec.root / dataset.hub
        if (local / "dataset_dict.json").is_file():
            rows: Sequence[Row] = read_file(local / wanted)
        else:
            rows = read_hub(str(local) if local.is_dir() else dataset.hub, dataset.config, wanted)
    else:
        file = spec.root / wanted
        if not file.exists():
            remedy = "paths start from the spec's directory; for a hub dataset add hub"
            raise spec.error_at(
                f"dataset.{field}", f"must be a file that exists, got {wanted!r}", remedy=remedy
            )
        rows = read_file(file)
    if not rows:
        raise spec.error_at(f"dataset.{field}", f"must have at least one row, got none in {wanted!r}")
    return rows


def _needs(spec: PipelineSpec, *, labels: bool) -> Iterator[_Need]:
    for stage in spec.stages:
        for field in sorted(needed_fields(stage)):
            yield _Need(field, f"the prompt of stage {stage.name!r}")
        if stage.parser.allowed_field is not None:
            yield _Need(stage.parser.allowed_field, f"the parser of stage {stage.name!r}", texts=True)
        if labels and isinstance(stage.metric, BuiltinMetric):
            yield _gold(stage.metric, f"the metric of stage {stage.name!r}", nullable=True)
    for name, metric in spec.metrics.items() if labels else ():
        if isinstance(metric, BuiltinMetric):
            yield _gold(metric, f"the metric {name!r}", nullable=True)
    if labels and isinstance(spec.metric, BuiltinMetric):
        yield _gold(spec.metric, "the pipeline's metric", nullable=False)


def _gold(metric: BuiltinMetric, needer: str, *, nullable: bool) -> _Need:
    return _Need(metric.label, needer, nullable=nullable, items=metric.of_sets, label=True)


def _check(rows: Sequence[Row], needs: Sequence[_Need], spec: PipelineSpec) -> None:
    for row in rows:
        for need in needs:
            law = _broken(row, need)
            if law is not None:
                remedy = f"; {need.needer} needs it"
                if need.field in {stage.name for stage in spec.stages} and not need.label:
                    remedy += f", or the output of stage {need.field!r}, which must then be among its inputs"
                raise DatasetError(f"{row.place}: field {need.field!r} {law}{remedy}")


def _broken(row: Row, need: _Need) -> str | None:
    if need.field not in row.fields:
        return f"is missing (the row has {', '.join(row.fields)})"
    value = row.fields[need.field]
    if value is None:
        return None if need.nullable else "must not be null"
    is_texts = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
    if need.texts and not is_texts:
        return f"must be a list of texts, got {value!r:.60}"
    if need.items and not isinstance(value, list):
        return f"must be a list, got {value!r:.60}"
    return None


def _examples(rows: Sequence[Row], id_field: str | None) -> list[Example]:
    examples: dict[str, tuple[str, Example]] = {}
    for number, row in enumerate(rows, 1):
        value = number if id_field is None else row.fields.get(id_field)
        if not isinstance(value, str | int) or value == "":
            raise DatasetError(
                f"{row.place}: the id field {id_field!r} must be text or an integer, got {value!r}"
            )
        name = str(value)
        if name in examples:
            raise DatasetError(
                f"{row.place}: ids must differ, got {name!r} again (first {examples[name][0]}); "
                f"correct the rows or leave dataset.id_field out"
            )
        examples[name] = (row.place, Example(name, row.fields))
    return [example for _, example in examples.values()]


def _refuse_overlap(spec: PipelineSpec, search: Sequence[Row], test: Sequence[Row]) -> None:
    inputs = frozenset[str]().union(*(used_fields(stage) for stage in spec.stages))
    seen = {_asked(row, inputs): row.place for row in search}
    for row in test:
        place = seen.get(_asked(row, inputs))
        if place is not None:
            raise DatasetError(
                f"{row.place}: a test row must not repeat the inputs of a search row, got those of {place}; "
                f"remove one"
            )


def _asked(row: Row, inputs: frozenset[str]) -> str:
    asked = {name: value for name, value in row.fields.items() if name in inputs}
    return canonical_json(asked or row.fields)
