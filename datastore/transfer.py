"""Samples from a store to a bank file and back, in the format that `bank` defines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from datastore import bank, opening
from datastore.errors import BankError, StoreError, locked, translate
from datastore.rows import execute_on

_ROWS_PER_BATCH = 16384

# Sorted so that neighbours resemble one another, which is what compresses.
_EXPORT = """
SELECT prompts.key AS prompt_key,
       prompts.model_key,
       coalesce(models.name, prompts.model_key) AS model_name,
       models.revision AS model_revision,
       models.active_params,
       prompts.content,
       prompts.sampling,
       prompts.prompt_tokens,
       drawn.samples
FROM (
    SELECT prompt_key,
           list(struct_pack("index" := "index", text := text, generated_tokens := generated_tokens,
                            mean_logprob := mean_logprob::FLOAT, finish_reason := finish_reason)
                ORDER BY "index") AS samples
    FROM samples
    WHERE $run_id IS NULL OR run_id = $run_id
    GROUP BY prompt_key
) AS drawn
JOIN prompts ON prompts.key = drawn.prompt_key
LEFT JOIN models ON models.key = prompts.model_key
ORDER BY prompts.model_key, prompts.sampling, prompts.content
"""

_IMPORT_MODELS = """
INSERT INTO models BY NAME
SELECT DISTINCT ON (model_key) model_key AS key, model_name AS name, model_revision AS revision, active_params
FROM {batch}
WHERE active_params IS NOT NULL AND model_key NOT IN (SELECT key FROM models)
"""
_IMPORT_PROMPTS = """
INSERT INTO prompts BY NAME
SELECT prompt_key AS key, model_key, content, sampling, prompt_tokens
FROM {batch} WHERE prompt_key NOT IN (SELECT key FROM prompts)
"""
_IMPORT_TOKENS = """
UPDATE prompts SET prompt_tokens = counted.prompt_tokens
FROM {batch} AS counted
WHERE prompts.key = counted.prompt_key AND prompts.prompt_tokens IS NULL AND counted.prompt_tokens IS NOT NULL
"""
_IMPORT_SAMPLES = """
INSERT INTO samples BY NAME
SELECT prompt_key, sample.* FROM (SELECT prompt_key, unnest(samples) AS sample FROM {batch}) AS drawn
WHERE NOT EXISTS (
    FROM samples AS known WHERE known.prompt_key = drawn.prompt_key AND known."index" = drawn.sample."index"
)
"""


def export_rows(connection: duckdb.DuckDBPyConnection, run_id: str | None) -> Iterator[pa.RecordBatch]:
    """Yield the store's samples as batches with the columns of a bank.

    Args:
        connection: A connection to the store.
        run_id: Only the samples that this run paid for; None for all.
    """
    yield from connection.sql(_EXPORT, params={"run_id": run_id}).to_arrow_reader(_ROWS_PER_BATCH)


def import_table(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> int:
    """Add the models, prompts and samples of a bank that the store does not have.

    Args:
        connection: A connection to the store, inside a transaction.
        table: The bank, checked.

    Returns:
        The number of samples added.
    """
    for query in (_IMPORT_MODELS, _IMPORT_TOKENS, _IMPORT_PROMPTS):
        execute_on(connection, query, table)
    return execute_on(connection, _IMPORT_SAMPLES, table)


def read_bank(path: Path) -> pa.Table:
    """Read a bank and check it.

    Args:
        path: A Parquet bank, or the DuckDB file of a store, which is opened and closed again.

    Returns:
        The bank as a table with the columns of `bank.SCHEMA`.

    Raises:
        BankError: The file is not a valid bank.
        StoreLocked: The store is being written to.
        StoreError: The file cannot be read.
    """
    if opening.is_written_here(path):
        raise locked(path, "this process")
    if path.is_dir():
        raise BankError(f"{path}: a bank must be a file, this is a directory; name the file")
    if not opening.is_open_here(path) and not _is_store(path):
        return bank.read_parquet(path)
    connection = opening.open_for_reading(path)
    try:
        batches = [batch.cast(bank.SCHEMA) for batch in export_rows(connection, None)]
    except (duckdb.Error, pa.ArrowException, ValueError) as error:
        raise translate(error, path) from error
    finally:
        connection.close()
        opening.release(path, writing=False)
    table = pa.Table.from_batches(batches, bank.SCHEMA)
    bank.check(table, path)
    return table


def _is_store(path: Path) -> bool:
    try:
        return opening.is_database(path)
    except FileNotFoundError:
        raise StoreError(f"{path}: no such bank; check the path") from None
    except OSError as error:
        raise StoreError(f"{path}: the bank can't be read: {error.strerror}") from error
