"""Load the examples of both splits of a pipeline, and check that every row has the fields that it needs.

Both splits are always read and compared, even when only one is needed: a test set that is missing, invalid,
or overlaps with the search split is reported before anything is spent. `rows` reads files and the hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from datastore.keys import canonical_json
from pipelines.dataset.needs import Need, broken_law, check_rows, needs_of, refuse_unknown, row_check
from pipelines.dataset.rows import Row, made_row, read_file, read_hub
from pipelines.errors import DatasetError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON, read_json
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.templates import used_fields

Split = Literal["search", "test"]
ItemT = TypeVar("ItemT")
_SPLITS: tuple[Split, ...] = ("search", "test")
_MOST_BAD = 0.1
_BAD = (ValueError, LookupError, TypeError, AttributeError)
"""Exceptions of `prepare` that mark a row as unusable."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The examples of both splits.

    Attributes:
        search: Examples on which allocations are compared.
        test: Examples on which only the winner and the best default are scored.
        left_out: For each row that was left out, its place and the reason.
    """

    search: list[Example]
    test: list[Example]
    left_out: tuple[str, ...]


def load_splits(spec: PipelineSpec) -> Splits:
    """Load the examples of both splits.

    They come in the order of their rows, or are drawn from the pool in an order that the dataset's seed
    decides. Rows that `prepare` refuses are left out, as are rows of a pool that lack a field or repeat the
    inputs of another row.

    Args:
        spec: The pipeline, whose dataset is read.

    Raises:
        SpecError: A file is missing, a split is empty, the pool has too few usable rows, or the spec names a
            field that no row has.
        DatasetError: A row lacks a field, an id occurs twice, a test row repeats the inputs of a search row,
            or more than a tenth of the rows is unusable.
        MissingDependency: A hub dataset needs the datasets library, which is not installed.
    """
    needs = list(needs_of(spec, labels=True))
    left_out: list[str] = []
    if spec.dataset.pool is None:
        rows = {split: _prepared(spec, split, left_out) for split in _SPLITS}
        refuse_unknown([row for split_rows in rows.values() for row in split_rows], needs, spec)
        for split_rows in rows.values():
            check_rows(split_rows, needs, spec)
        _refuse_overlap(spec, rows["search"], rows["test"])
    else:
        rows = _drawn(spec, needs, left_out)
    examples = {split: _examples(split_rows, spec.dataset.id_field) for split, split_rows in rows.items()}
    return Splits(search=examples["search"], test=examples["test"], left_out=tuple(left_out))


def load_examples(spec: PipelineSpec, split: Split) -> list[Example]:
    """Load the examples of one split.

    Both splits are read and compared, and the same errors are raised as by `load_splits`.
    """
    splits = load_splits(spec)
    return splits.search if split == "search" else splits.test


def with_data(
    spec: PipelineSpec, file: Path | None, n_search: int | None = None, n_test: int | None = None
) -> PipelineSpec:
    """Return a spec whose pool is a local file, or from whose pool other numbers of rows are drawn.

    Args:
        spec: The spec to change.
        file: The file that replaces the pool; None keeps the pool. Shared files that lie in the directory of
            this file are read from there.
        n_search: Number of rows of the search split; None keeps it.
        n_test: Number of rows of the test split; None keeps it.

    Raises:
        SpecError: The dataset has no pool.
    """
    changes: dict[str, object] = (
        {} if file is None else {"hub": None, "config": None, "pool": str(file.resolve())}
    )
    if file is not None:
        shared = spec.dataset.shared
        beside = {name: file.resolve().parent / Path(path).name for name, path in shared.items()}
        changes["shared"] = {**shared, **{name: str(path) for name, path in beside.items() if path.is_file()}}
    changes |= {name: n for name, n in (("search", n_search), ("test", n_test)) if n is not None}
    if changes and spec.dataset.pool is None:
        raise spec.error_at("dataset.pool", "is not set, so that neither file nor numbers can be changed")
    return spec.model_copy(update={"dataset": spec.dataset.model_copy(update=changes)}) if changes else spec


def examples_from_rows(
    spec: PipelineSpec, rows: Iterable[Mapping[str, JSON]], *, source: str = "inputs", labels: bool = False
) -> list[Example]:
    """Build examples from rows in memory, such as new inputs, with the same checks as for a dataset.

    If a row lacks the dataset's id field, the ids are the numbers of the rows, from 1.

    Args:
        spec: The pipeline that the examples are for.
        rows: The fields of each row.
        source: The name of the rows in messages.
        labels: Whether every row must have the gold values of the metrics too.

    Raises:
        DatasetError: A row lacks a field or has a value that is not JSON-able, or an id occurs twice.
    """
    checked = [made_row(f"{source}: row {number}", row) for number, row in enumerate(rows, 1)]
    check = row_check(spec, labels=labels)
    for row in checked:
        check(row)
    id_field = spec.dataset.id_field
    return _examples(checked, id_field if all(id_field in row.fields for row in checked) else None)


def examples_digest(examples: Sequence[Example]) -> str:
    """Compute the SHA-256 (hex) of the ids and fields of examples, in order."""
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


def _drawn(spec: PipelineSpec, needs: Sequence[Need], left_out: list[str]) -> dict[Split, list[Row]]:
    """Draw the rows of search, then those of test, in an order that depends on the seed only."""
    dataset = spec.dataset
    assert dataset.pool is not None
    pool, shared = _read(spec, "pool", dataset.pool), _shared(spec)
    inputs = frozenset[str]().union(*(used_fields(stage) for stage in spec.stages))
    seen = dict[str, str]()
    bad, repeats = list[str](), list[str]()
    counts = {split: int(getattr(dataset, split)) for split in _SPLITS}
    drawn, prepared = list[Row](), list[Row]()
    for position in seeded_order(range(len(pool)), str, dataset.seed):
        if len(drawn) == sum(counts.values()):
            break
        raw = pool[position]
        try:
            row = _prepare(spec, raw, shared)
        except _BadRow as problem:
            bad.append(str(problem))
            continue
        prepared.append(row)
        broken = next((f"field {n.field!r} {law}" for n in needs if (law := broken_law(row, n))), None)
        row_inputs = _inputs_key(row, inputs)
        if broken is not None:
            bad.append(f"{row.place}: {broken}")
        elif row_inputs in seen:
            repeats.append(f"{row.place}: repeats the inputs of {seen[row_inputs]}")
        else:
            seen[row_inputs] = row.place
            drawn.append(row)
    refuse_unknown(prepared, needs, spec)
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
    values = {}
    for name, file in spec.dataset.shared.items():
        try:
            values[name] = read_json((spec.root / file).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
            raise spec.error_at(
                f"dataset.shared.{name}",
                f"{file!r} can't be read: {reason}",
                remedy="put it beside the spec",
            ) from None
    return values


def _prepare(spec: PipelineSpec, row: Row, shared: Mapping[str, JSON]) -> Row:
    if spec.dataset.prepare is None:
        return Row(row.place, {**shared, **row.fields})
    try:
        return made_row(row.place, spec.dataset.prepare.python({**shared, **row.fields}))
    except _BAD as error:
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        raise _BadRow(f"{row.place}: {reason}") from error


def _refuse_many(bad: Sequence[str], count: int) -> None:
    if len(bad) > max(1, _MOST_BAD * count):
        raise DatasetError(
            f"at most a tenth of the rows may be unusable, got {len(bad)} of {count}: {'; '.join(bad[:3])}"
        )


def seeded_order(
    items: Iterable[ItemT], key: Callable[[ItemT], object], seed: int, purpose: str = ""
) -> list[ItemT]:
    """Shuffle items by a seed; the result does not depend on the machine or on the order of the input.

    Args:
        items: The items to shuffle.
        key: Returns what identifies an item. Its text, the seed and the purpose decide the item's position.
        seed: Another seed gives another order.
        purpose: A name for the order, so that two orders of the same items under one seed are unrelated.

    Returns:
        All items in their new order.
    """
    prefix = f"{seed}|{purpose}|" if purpose else f"{seed}|"
    return sorted(items, key=lambda item: hashlib.sha256(f"{prefix}{key(item)}".encode()).digest())


def _read(spec: PipelineSpec, field: str, source: str) -> Sequence[Row]:
    dataset = spec.dataset
    if dataset.hub is not None:
        local = spec.root / dataset.hub
        if (local / "dataset_dict.json").is_file():
            rows: Sequence[Row] = read_file(local / source)
        else:
            rows = read_hub(str(local) if local.is_dir() else dataset.hub, dataset.config, source)
    else:
        file = spec.root / source
        if not file.exists():
            remedy = "paths start from the spec's directory; for a hub dataset add hub"
            raise spec.error_at(
                f"dataset.{field}", f"must be a file that exists, got {source!r}", remedy=remedy
            )
        rows = read_file(file)
    if not rows:
        raise spec.error_at(f"dataset.{field}", f"must have at least one row, got none in {source!r}")
    return rows


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
    seen = {_inputs_key(row, inputs): row.place for row in search}
    for row in test:
        place = seen.get(_inputs_key(row, inputs))
        if place is not None:
            raise DatasetError(
                f"{row.place}: a test row must not repeat the inputs of a search row, got those of {place}; "
                f"remove one"
            )


def _inputs_key(row: Row, inputs: frozenset[str]) -> str:
    values = {name: value for name, value in row.fields.items() if name in inputs}
    return canonical_json(values or row.fields)
