"""A recorded sample bank: its Parquet format, checked on reading, and its form in memory for look-ups.

A bank has one row per prompt with the list of its samples. Model, content and sampling parameters are columns
of the row, so that a bank can be understood without a store. Log-probabilities are float32 here and float64
in the store. `transfer` moves samples between a bank file and a store.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datastore import keys
from datastore.errors import BankError, StoreError, translate
from datastore.records import BankRow, Prompt, Sample

SAMPLE = pa.struct(
    [
        pa.field("index", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("generated_tokens", pa.int32()),
        pa.field("mean_logprob", pa.float32()),  # NULL: the server gave none
        pa.field("finish_reason", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("prompt_key", pa.string()),
        pa.field("model_key", pa.string()),
        pa.field("model_name", pa.string()),
        pa.field("model_revision", pa.string()),  # NULL: not stated
        pa.field("active_params", pa.float64()),  # a count; NULL: not known
        pa.field("content", pa.string()),
        pa.field("sampling", pa.string()),
        pa.field("prompt_tokens", pa.int64()),  # NULL: not counted
        pa.field("samples", pa.list_(SAMPLE)),
    ]
)
_OPTIONAL = {"model_revision", "active_params", "prompt_tokens", "mean_logprob"}
_ROUNDED = 1e-6  # what a mean of log-probabilities near 0 may be off by
_ROWS_PER_GROUP = 16384
_PAGE_BYTES = 8 << 20  # pages are compressed one by one; large ones let zstd see what neighbours share


def read_parquet(path: Path) -> pa.Table:
    """Read a bank file and check its columns, keys and indices.

    Args:
        path: The Parquet file.

    Returns:
        The bank as a table with the columns of `SCHEMA`.

    Raises:
        BankError: The file is not a valid bank; the message names the first bad row, counted from 1.
        StoreError: There is no such file.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise StoreError(f"{path}: no such bank; check the path") from None
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise BankError(
            f"{path}: a bank must be a whole Parquet file; restore it from a copy ({reason})"
        ) from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise BankError(
            f"{path}: a bank must have the column {missing[0]}, this file has none; name another file"
        )
    try:
        table = table.select(SCHEMA.names).cast(SCHEMA)
        table.validate(full=True)  # texts that are no UTF-8, lists that end elsewhere
    except (pa.ArrowException, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BankError(f"{path}: a bank's columns must have the types of a bank: {reason}") from error
    check(table, path)
    return table


def check(table: pa.Table, path: Path) -> None:
    """Check that every key is the hash of its parts, every sample's index unique, and every number possible.

    Tokens and indices are 0 or more, log-probabilities finite and at most 0, parameters finite and above 0.

    Args:
        table: A table with the columns of `SCHEMA`.
        path: Where it came from, for messages.

    Raises:
        BankError: A row breaks a rule; the message names it.
    """
    seen: set[str] = set()
    start = 0
    for batch in table.to_batches():
        _check_nulls(batch, start, path)
        columns = [batch.column(name).to_pylist() for name in SCHEMA.names[:7]]
        for row, (key, model_key, name, revision, _, content, sampling) in enumerate(
            zip(*columns, strict=True)
        ):
            place = f"{path}: row {start + row + 1}"
            if model_key != keys.model_key(name, revision):
                raise BankError(
                    f"{place}: model_key must be name@revision, got {model_key!r}; the bank is corrupted"
                )
            if key != keys.prompt_key(model_key, content, sampling):
                raise BankError(
                    f"{place}: prompt_key must be the hash of model, content and sampling, got {key!r}; "
                    "the bank is corrupted or another program made it"
                )
            if key in seen:
                raise BankError(f"{place}: a prompt may have one row, {key} has two; the bank is corrupted")
            seen.add(key)
        _check_numbers(batch, start, path)
        _check_indices(batch, start, path)
        start += batch.num_rows


def _check_nulls(batch: pa.RecordBatch, start: int, path: Path) -> None:
    lists = batch.column("samples")
    samples = lists.flatten()
    owner = pc.list_parent_indices(lists)
    for field in SCHEMA:
        column = batch.column(field.name)
        if field.name not in _OPTIONAL and column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise BankError(f"{path}: row {start + row + 1}: {field.name} must be given, it is NULL")
    for position, field in enumerate(SAMPLE):
        values = samples.flatten()[position]
        if field.name not in _OPTIONAL and values.null_count:
            row = owner[pc.index(pc.is_null(values), True).as_py()].as_py()
            raise BankError(f"{path}: row {start + row + 1}: samples.{field.name} must be given, it is NULL")


def _check_numbers(batch: pa.RecordBatch, start: int, path: Path) -> None:
    samples = batch.column("samples").flatten().flatten()
    owner = pc.list_parent_indices(batch.column("samples")).to_numpy(zero_copy_only=False)
    own = np.arange(batch.num_rows)
    for name, rows, column in (
        ("prompt_tokens", own, batch.column("prompt_tokens")),
        ("active_params", own, batch.column("active_params")),
        ("samples.generated_tokens", owner, samples[2]),
        ("samples.mean_logprob", owner, samples[3]),
    ):
        is_given = column.is_valid().to_numpy(zero_copy_only=False)
        values = column.drop_null().to_numpy(zero_copy_only=False)
        law, holds = ">= 0", values >= 0
        if name == "active_params":
            law, holds = "a finite number above 0", np.isfinite(values) & (values > 0)
        elif name == "samples.mean_logprob":
            law, holds = "a finite number, at most 0", np.isfinite(values) & (values <= _ROUNDED)
        if not holds.all():
            at = int(np.argmin(holds))
            raise BankError(
                f"{path}: row {start + int(rows[is_given][at]) + 1}: {name} must be {law}, got {values[at]}; "
                "correct the row or leave it out"
            )


def _check_indices(batch: pa.RecordBatch, start: int, path: Path) -> None:
    lists = batch.column("samples")
    owner = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    index = lists.flatten().flatten()[0].to_numpy(zero_copy_only=False).astype(np.int64)
    bad = np.flatnonzero(index < 0)
    if bad.size:
        at = bad[0]
        raise BankError(
            f"{path}: row {start + int(owner[at]) + 1}: samples.index must be >= 0, got {index[at]}"
        )
    order = np.lexsort((index, owner))
    again = np.flatnonzero((np.diff(owner[order]) == 0) & (np.diff(index[order]) == 0))
    if again.size:
        at = order[again[0]]
        row = start + int(owner[at]) + 1
        raise BankError(f"{path}: row {row}: samples.index must be unique, {index[at]} is there twice")


def write_parquet(path: Path, batches: Iterator[pa.RecordBatch]) -> int:
    """Write a bank file, compressed with zstd. It appears under its name only once it is complete.

    Args:
        path: The file to write or replace.
        batches: Record batches that can be cast to `SCHEMA`.

    Returns:
        The number of samples written.

    Raises:
        StoreError: The file cannot be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
    count = 0
    try:
        with pq.ParquetWriter(
            new,
            SCHEMA,
            compression="zstd",
            compression_level=12,
            data_page_size=_PAGE_BYTES,
            dictionary_pagesize_limit=_PAGE_BYTES,
            write_page_checksum=True,
        ) as writer:
            for batch in batches:
                writer.write_batch(batch.cast(SCHEMA), row_group_size=_ROWS_PER_GROUP)
                count += len(batch.column("samples").flatten())
        os.replace(new, path)
    except OSError as error:
        raise translate(error, path) from error
    finally:
        new.unlink(missing_ok=True)
    return count


class Bank:
    """Recorded samples in memory, read-only. Its samples belong to no run.

    Attributes:
        source: The path that they were read from.
    """

    def __init__(self, table: pa.Table, source: str) -> None:
        self.source = source
        self._batches = table.to_batches()
        self._lists = [batch.column("samples") for batch in self._batches]
        self._offsets = [column.offsets.to_numpy() for column in self._lists]
        self._values = [column.values.flatten() for column in self._lists]
        self._place: dict[str, tuple[int, int]] = {}
        for number, batch in enumerate(self._batches):
            for row, key in enumerate(batch.column("prompt_key").to_pylist()):
                self._place[key] = (number, row)

    def __contains__(self, prompt_key: object) -> bool:
        return prompt_key in self._place

    def __len__(self) -> int:
        return len(self._place)

    def prompt(self, prompt_key: str) -> Prompt | None:
        """Return the prompt of a key; None when the bank does not have it."""
        place = self._place.get(prompt_key)
        if place is None:
            return None
        number, row = place
        names = ("model_key", "content", "sampling", "prompt_tokens")
        cells = {name: self._batches[number].column(name)[row].as_py() for name in names}
        return Prompt(key=prompt_key, **cells)

    def samples(self, prompt_key: str) -> tuple[Sample, ...]:
        """Return the samples of a prompt, sorted by index; none when the bank does not have the prompt."""
        place = self._place.get(prompt_key)
        if place is None:
            return ()
        number, row = place
        first, end = int(self._offsets[number][row]), int(self._offsets[number][row + 1])
        columns = [column.slice(first, end - first).to_pylist() for column in self._values[number]]
        samples = [
            Sample(
                prompt_key=prompt_key,
                index=index,
                text=text,
                generated_tokens=generated_tokens,
                mean_logprob=mean_logprob,
                finish_reason=finish_reason,
                run_id=None,
                request_id=None,
            )
            for index, text, generated_tokens, mean_logprob, finish_reason in zip(*columns, strict=True)
        ]
        samples.sort(key=attrgetter("index"))
        return tuple(samples)

    def summary(self) -> list[BankRow]:
        """Return how much of each model the bank holds, sorted by model key."""
        rows: dict[str, list[int]] = {}
        for number, batch in enumerate(self._batches):
            offsets = self._offsets[number]
            tokens = np.concatenate(([0], np.cumsum(self._values[number][2].to_numpy(zero_copy_only=False))))
            models, prompt_tokens = (
                batch.column("model_key").to_pylist(),
                batch.column("prompt_tokens").to_pylist(),
            )
            for row, (model_key, of_prompt) in enumerate(zip(models, prompt_tokens, strict=True)):
                first, end = offsets[row], offsets[row + 1]
                total = rows.setdefault(model_key, [0, 0, 0, 0])
                more = (1, int(end - first), of_prompt or 0, int(tokens[end] - tokens[first]))
                rows[model_key] = [a + b for a, b in zip(total, more, strict=True)]
        return [
            BankRow(
                source=self.source,
                model_key=model_key,
                prompts=prompts,
                samples=samples,
                prompt_tokens=prompt_tokens,
                generated_tokens=generated_tokens,
            )
            for model_key, (prompts, samples, prompt_tokens, generated_tokens) in sorted(rows.items())
        ]
