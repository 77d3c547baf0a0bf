"""The Store: everything that was measured, in one DuckDB file with one writer.

Rows are the frozen dataclasses of `records`; what they mean is defined by the packages above. The
asynchronous methods are for an event loop, and calls that wait at the same time share a transaction. The
other methods block until their own transaction is committed. Both kinds are executed in the order of the
calls. No value is ever formatted into SQL.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import duckdb

from datastore import bank, keys, opening, rows, snapshot, transfer
from datastore.errors import ReadOnlyStore, StoreError, StoreLocked, translate
from datastore.openfile import OpenFile
from datastore.records import (
    BankRow,
    Event,
    ExampleScore,
    Insight,
    ModelRecord,
    Payment,
    PolicyResult,
    Preference,
    Prompt,
    Proposal,
    Run,
    RunCost,
    RunStatus,
    Sample,
    StageResult,
    Trial,
    Tuning,
)
from datastore.samples import CACHE_BYTES, Put, SampleTable
from datastore.writer import Transaction, Writer

if TYPE_CHECKING:
    import pandas as pd

Record = TypeVar("Record")
_MOST_INDEX = 2**31 - 1


class Store:
    """An open database, and a context manager that closes it.

    `Store.open` opens a database for writing, which one Store at a time can do. `Store.read` opens it for
    reading, also while another process writes to it.

    Attributes:
        path: The database file, absolute.
        read_only: Whether the store was opened with `Store.read`.
        as_of: None; for a reader of a live snapshot, the Unix time at which the snapshot was taken. Such a
            reader finds no prompts and no samples except those of attached banks.
    """

    def __init__(
        self,
        path: Path,
        connection: duckdb.DuckDBPyConnection,
        *,
        read_only: bool,
        as_of: float | None,
        clock: Callable[[], float],
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Wrap a connection; use `Store.open` or `Store.read` instead."""
        self.path = path
        self.read_only = read_only
        self.as_of = as_of
        try:
            self._samples = SampleTable(connection, cache_bytes=cache_bytes)
        except duckdb.Error as error:
            raise translate(error, path) from error
        if read_only:
            self._live = None
            self._writer = Writer(connection, path)
        else:
            self._live = snapshot.LiveSnapshot(path, clock)
            self._writer = Writer(connection, path, between=self._live.write_if_due, file=OpenFile(path))
        self._put_results = {  # made once: the writer batches what has the same handler
            cls: partial(self._insert_all, cls) for cls in (StageResult, ExampleScore, PolicyResult, Event)
        }
        self._closed = False
        atexit.register(self.close)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        create: bool = True,
        clock: Callable[[], float] = time.time,
        cache_bytes: int = CACHE_BYTES,
    ) -> Self:
        """Open a database for writing.

        Args:
            path: The DuckDB file; `~` is expanded.
            create: Whether a missing file is created.
            clock: Returns the time in Unix seconds.
            cache_bytes: Bytes, about, of samples that are kept in memory for further look-ups.

        Returns:
            The store. Its schema is up to date.

        Raises:
            StoreLocked: Another process, or another Store of this process, has the file open.
            ForeignFile: The file was not made by this package.
            TruncatedFile: The file is shorter than its header says.
            NewerSchema: A newer version of this package or of DuckDB wrote the file.
            StoreError: The file cannot be opened for another reason. In all cases it is left as it was.
        """
        path = _resolved(path)
        rows.to_arrow(Prompt, [])  # the first conversion imports pandas: not on an event loop's time
        connection = opening.open_for_writing(path, create=create, created_at=clock())
        try:
            return cls(path, connection, read_only=False, as_of=None, clock=clock, cache_bytes=cache_bytes)
        except BaseException:
            connection.close()
            opening.release(path, writing=True)
            raise

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Open a database for reading; while another process writes to it, the live snapshot beside it.

        Args:
            path: The DuckDB file; `~` is expanded.

        Returns:
            The store. `as_of` is set when it shows a live snapshot.

        Raises:
            StoreLocked: A writer has the file open and has not written a snapshot within a second.
            StoreError: The file cannot be opened; the subclasses are those of `open`.
        """
        path = _resolved(path)
        for attempt in range(20):
            try:
                connection = opening.open_for_reading(path)
            except StoreLocked:
                live = snapshot.read_live(path)
                if live is not None:
                    return cls(path, live[0], read_only=True, as_of=live[1], clock=time.time)
                if attempt == 19:
                    raise
                time.sleep(0.05)  # its writer has just started, or has just ended
            else:
                try:
                    return cls(path, connection, read_only=True, as_of=None, clock=time.time)
                except BaseException:
                    connection.close()
                    opening.release(path, writing=False)
                    raise
        raise AssertionError

    def close(self) -> None:
        """Finish all queued work and release the file. Closing a closed store does nothing."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._writer.close()
        if self._live is not None:
            self._live.discard()
        if self.as_of is None:
            opening.release(self.path, writing=not self.read_only)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Prompts and samples

    async def get_samples(self, prompt_keys: Sequence[str]) -> dict[str, list[Sample]]:
        """Look up the samples of prompts in the store and the attached banks.

        Samples that were read or written before come from memory, and calls that wait at the same time share
        one query.

        Args:
            prompt_keys: Keys as `datastore.prompt_key` computes them.

        Returns:
            For each key its samples, sorted by index; an empty list where there are none. Where both the
            store and a bank have a sample of an index, the store's is returned.
        """
        samples, missing = self._samples.peek(prompt_keys)
        if missing:
            samples |= await self._writer.submit(self._samples.get, missing)
        return {key: list(samples[key]) for key in prompt_keys}

    async def get_prompt(self, key: str) -> Prompt | None:
        """Look up a prompt by its key in the store and the attached banks; None when neither has it."""
        return await self._writer.submit(self._prompts, key)

    def _prompts(self, transaction: Transaction, prompt_keys: Sequence[str]) -> list[Prompt | None]:
        prompts = self._samples.prompts(transaction.connection, prompt_keys)
        return [prompts[key] for key in prompt_keys]

    async def put_samples(
        self, prompt: Prompt, samples: Sequence[Sample], payment: Payment | None = None
    ) -> None:
        """Store a prompt and its new samples; return when they are durable.

        A sample of an index that is already stored is ignored. The stored prompt's `prompt_tokens` are
        updated when they were unknown. Lone surrogates in a text are replaced by U+FFFD.

        Args:
            prompt: The prompt.
            samples: Samples of this prompt, in any order.
            payment: What they were billed, stored together with them; None: no run paid.

        Raises:
            StoreError: The prompt's key is not the hash of its parts, or a sample has another prompt's key or
                an index out of range.
            ReadOnlyStore: The store was opened for reading.
        """
        self._must_write()
        if prompt.key != keys.prompt_key(prompt.model_key, prompt.content, prompt.sampling):
            raise StoreError(
                f"prompt {prompt.key}: its key must be datastore.prompt_key of its parts; make it so"
            )
        for sample in samples:
            if sample.prompt_key != prompt.key or not 0 <= sample.index <= _MOST_INDEX:
                raise StoreError(
                    f"prompt {prompt.key}: a sample must have its key and an index >= 0, "
                    f"got {sample.prompt_key}, {sample.index}"
                )
        await self._writer.submit(self._put_samples, (prompt, tuple(map(_well_formed, samples)), payment))

    def _put_samples(self, transaction: Transaction, payloads: Sequence[Put]) -> Sequence[None]:
        self._touch(transaction)
        return self._samples.put(transaction, payloads)

    async def put_payment(self, payment: Payment) -> None:
        """Store what requests without a sample were billed; return when it is durable.

        Raises:
            ReadOnlyStore: The store was opened for reading.
        """
        self._must_write()
        await self._writer.submit(self._put_payments, payment)

    def _put_payments(self, transaction: Transaction, payloads: Sequence[Payment]) -> list[None]:
        self._insert(transaction, Payment, payloads)
        return [None] * len(payloads)

    # Results

    async def put_stage_results(self, results: Sequence[StageResult]) -> None:
        """Store stage results, each replacing one of the same trial, example and stage; return when durable.

        Raises:
            ReadOnlyStore: The store was opened for reading.
        """
        self._must_write()
        await self._writer.submit(self._put_results[StageResult], results)

    async def put_scores(self, scores: Sequence[ExampleScore]) -> None:
        """Store scores, each replacing one of the same trial and example; return when they are durable.

        Raises:
            ReadOnlyStore: The store was opened for reading.
        """
        self._must_write()
        await self._writer.submit(self._put_results[ExampleScore], scores)

    async def put_policy_results(self, results: Sequence[PolicyResult]) -> None:
        """Store how far examples went in a policy, each replacing the same trial and example's; return when
        they are durable.

        Raises:
            ReadOnlyStore: The store was opened for reading.
        """
        self._must_write()
        await self._writer.submit(self._put_results[PolicyResult], results)

    async def put_events(self, events: Sequence[Event]) -> None:
        """Store events; return when they are durable.

        Raises:
            ReadOnlyStore: The store was opened for reading.
        """
        self._must_write()
        await self._writer.submit(self._put_results[Event], events)

    def policy_results(self, trial_id: str) -> list[PolicyResult]:
        """Return how far the examples of a policy's trial went, in the order in which they were stored."""
        return self._select(PolicyResult, "trial_id = ?", trial_id)

    def scores(self, trial_id: str) -> dict[str, ExampleScore]:
        """Return a trial's scores by example id."""
        return {score.example_id: score for score in self._select(ExampleScore, "trial_id = ?", trial_id)}

    def stage_results(self, trial_id: str) -> list[StageResult]:
        """Return a trial's stage results in the order in which they were stored."""
        return self._select(StageResult, "trial_id = ?", trial_id)

    # Runs, trials and what led to them

    def start_run(self, run: Run) -> None:
        """Store a run. A run of the same id is replaced, which is how a run is resumed."""
        self._put(Run, [run], hurry=True)

    def finish_run(self, run_id: str, status: RunStatus, outcome: str | None, finished_at: float) -> None:
        """Store how a run ended.

        Args:
            run_id: The run.
            status: Its final status.
            outcome: Its result as JSON text; None when it has none.
            finished_at: Unix seconds.

        Raises:
            StoreError: There is no such run.
            ReadOnlyStore: The store was opened for reading.
        """
        run = replace(self.run(run_id), status=status, outcome=outcome, finished_at=finished_at)
        self._put(Run, [run], hurry=True)

    def runs(self) -> list[Run]:
        """Return all runs in the order in which they were begun, whatever the clock said."""
        return self._select(Run)

    def run(self, run_id: str | None = None) -> Run:
        """Return a run.

        Args:
            run_id: The run's id; None or "latest" for the run that was begun last.

        Raises:
            StoreError: There is no such run.
        """
        newest = run_id in (None, "latest")
        runs = self.runs() if newest else self._select(Run, "run_id = ?", run_id)
        if not runs:
            which = "a run, it has none" if newest else f"the run {run_id}, it does not"
            raise StoreError(f"{self.path}: the store must have {which}; check the path and the run's id")
        return runs[-1]

    def put_models(self, models: Sequence[ModelRecord]) -> None:
        """Store models, each replacing one of the same key."""
        self._put(ModelRecord, models)

    def models(self) -> list[ModelRecord]:
        """Return all models, sorted by name."""
        return self._select(ModelRecord)

    def put_tunings(self, tunings: Sequence[Tuning]) -> None:
        """Store records of tuned models, each replacing one of the same model key."""
        self._put(Tuning, tunings)

    def tunings(self) -> list[Tuning]:
        """Return the records of all tuned models, the newest last."""
        return self._select(Tuning)

    def put_preferences(self, preferences: Sequence[Preference]) -> None:
        """Store preferences, each replacing one of the same key."""
        self._put(Preference, preferences)

    def remove_preference(self, key: str) -> None:
        """Remove the preference of that key, if there is one."""
        self._must_write()
        self._writer.run(lambda t: t.connection.execute("DELETE FROM preferences WHERE key = ?", [key]))

    def preferences(self, collection: str) -> list[Preference]:
        """Return a collection's preferences, sorted by the time at which they were given."""
        return self._select(Preference, "collection = ?", collection)

    def begin_trial(self, trial: Trial) -> None:
        """Store a trial that starts. A trial of the same id is replaced."""
        self._put(Trial, [trial])

    def finish_trial(self, trial: Trial) -> None:
        """Store a trial that has ended. The live snapshot is updated soon afterwards."""
        self._put(Trial, [trial], hurry=True)

    def trials(self, run_id: str) -> list[Trial]:
        """Return a run's trials, sorted by number."""
        return self._select(Trial, "run_id = ?", run_id)

    def put_proposals(self, proposals: Sequence[Proposal]) -> None:
        """Store proposals, each replacing one of the same run, step and position."""
        self._put(Proposal, proposals)

    def proposals(self, run_id: str) -> list[Proposal]:
        """Return a run's proposals, sorted by step and position."""
        return self._select(Proposal, "run_id = ?", run_id)

    def put_insights(self, insights: Sequence[Insight]) -> None:
        """Store insights, each replacing one of the same run, step and position."""
        self._put(Insight, insights)

    def insights(self, run_id: str) -> list[Insight]:
        """Return a run's insights, sorted by step and position."""
        return self._select(Insight, "run_id = ?", run_id)

    def put_event(self, event: Event) -> None:
        """Append an event."""
        self._put(Event, [event])

    def events(self, run_id: str) -> list[Event]:
        """Return a run's events in the order in which they were stored."""
        return self._select(Event, "run_id = ?", run_id)

    def run_cost(self, run_id: str, *, models: Iterable[str] | None = None) -> RunCost:
        """Sum what a run was billed, from its payments. Samples from a bank cost nothing.

        Args:
            run_id: The run.
            models: Model keys to count; None counts all models.

        Returns:
            The cost as billed: a server that was asked several times for one prompt has read it each time.
            Of a run of before schema version 4 each prompt is counted once, and requests by their ids.
        """
        wanted = None if models is None else list(models)
        query = (
            "SELECT coalesce(sum(calls), 0), coalesce(sum(samples_drawn), 0), "
            "coalesce(sum(prompt_tokens), 0), coalesce(sum(generated_tokens), 0) FROM run_costs "
            "WHERE run_id = $run_id AND ($wanted IS NULL OR model_key IN (SELECT unnest($wanted::VARCHAR[])))"
        )
        parameters = {"run_id": run_id, "wanted": wanted}
        (row,) = self._writer.run(lambda t: t.connection.execute(query, parameters).fetchall())
        calls, samples_drawn, prompt_tokens, generated_tokens = map(int, row)
        return RunCost(
            calls=calls,
            samples_drawn=samples_drawn,
            prompt_tokens=prompt_tokens,
            generated_tokens=generated_tokens,
        )

    # Banks

    def attach_bank(self, path: Path | str) -> None:
        """Let look-ups find the samples of a bank too. The bank is read into memory and never written.

        Args:
            path: A Parquet bank, or the DuckDB file of another store.

        Raises:
            BankError: The file is not a valid bank; the message names the first bad row.
            StoreLocked: Another process writes to that store.
            StoreError: The file cannot be read.
        """
        path = _resolved(path)
        attached = bank.Bank(transfer.read_bank(path), str(path))
        self._writer.run(lambda _: self._samples.attach(attached))

    def bank_summary(self) -> list[BankRow]:
        """Return how many prompts, samples and tokens of each model the store and each attached bank hold."""
        query = (
            "SELECT model_key, prompts, samples, prompt_tokens, generated_tokens FROM bank_summary ORDER BY 1"
        )
        counts = self._writer.run(lambda t: t.connection.execute(query).fetchall())
        names = ("model_key", "prompts", "samples", "prompt_tokens", "generated_tokens")
        own = [BankRow(source="store", **dict(zip(names, row, strict=True))) for row in counts]
        return own + [row for attached in self._samples.banks for row in attached.summary()]

    def export_bank(self, path: Path | str, *, run_id: str | None = None) -> int:
        """Write the store's own samples as a Parquet bank. Attached banks are not exported.

        Args:
            path: The file to write. An existing file is replaced once the new one is complete.
            run_id: Export only the samples that this run paid for; None exports all.

        Returns:
            The number of samples written.

        Raises:
            StoreError: The file cannot be written.
        """
        to = _resolved(path)
        return self._writer.run(lambda t: bank.write_parquet(to, transfer.export_rows(t.connection, run_id)))

    def import_bank(self, path: Path | str) -> int:
        """Copy the samples of a bank into the store. They belong to no run.

        Args:
            path: A Parquet bank, or the DuckDB file of another store.

        Returns:
            The number of samples that the store did not have before.

        Raises:
            BankError: The file is not a valid bank; nothing is imported.
            StoreLocked: Another process writes to that store.
            StoreError: The file cannot be read.
            ReadOnlyStore: This store was opened for reading.
        """
        self._must_write()
        table = transfer.read_bank(_resolved(path))

        def act(transaction: Transaction) -> int:
            self._touch(transaction)
            transaction.after_commit.append(lambda: self._samples.reload(transaction.connection))
            return transfer.import_table(transaction.connection, table)

        return self._writer.run(act)

    # Looking

    def refresh_live_snapshot(self) -> None:
        """Write the live snapshot now. It is also written by itself, soon after each change.

        Raises:
            StoreError: The snapshot cannot be written, for example because the disk is full.
            ReadOnlyStore: The store was opened for reading.
        """
        self._must_write()
        live = self._live
        if live is not None:
            self._writer.run(lambda t: live.write(t.connection), outside=True)

    def sql(self, query: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> pd.DataFrame:
        """Run one SELECT, for notebooks.

        Args:
            query: The SELECT statement.
            parameters: Values for `?` placeholders, or by name for `$name` placeholders.

        Returns:
            The rows as a pandas frame.

        Raises:
            StoreError: The query is not a single SELECT statement.
        """

        def act(transaction: Transaction) -> pd.DataFrame:
            statements = transaction.connection.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise StoreError(
                    f"sql: one SELECT is taken, got {query[:80]!r}; use the put methods to write"
                )
            return transaction.connection.execute(query, parameters or None).df()

        return self._writer.run(act)

    # What the methods above share

    def _must_write(self) -> None:
        if self.read_only:
            raise ReadOnlyStore(f"{self.path}: opened for reading; open it with Store.open to write")

    def _touch(self, transaction: Transaction) -> None:
        if self._live is not None:
            transaction.after_commit.append(self._live.touch)

    def _insert_all(
        self, cls: type[Record], transaction: Transaction, payloads: Sequence[Sequence[Record]]
    ) -> list[None]:
        self._insert(transaction, cls, [record for records in payloads for record in records])
        return [None] * len(payloads)

    def _insert(self, transaction: Transaction, cls: type[Record], records: Sequence[Record]) -> None:
        self._touch(transaction)
        rows.insert(transaction.connection, cls, records)

    def _put(self, cls: type[Record], records: Sequence[Record], *, hurry: bool = False) -> None:
        self._must_write()
        live = self._live

        def act(transaction: Transaction) -> None:
            self._insert(transaction, cls, records)
            if hurry and live is not None:
                transaction.after_commit.append(live.hurry)

        self._writer.run(act)

    def _select(self, cls: type[Record], where: str = "true", *parameters: object) -> list[Record]:
        return self._writer.run(lambda t: rows.select(t.connection, cls, where, parameters))


def _resolved(path: Path | str) -> Path:
    path = Path(path)
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise (
            translate(error, path) if isinstance(error, OSError) else StoreError(f"{path}: {error}")
        ) from error


def _well_formed(sample: Sample) -> Sample:
    text = keys.well_formed(sample.text)
    return sample if text is sample.text else replace(sample, text=text)
