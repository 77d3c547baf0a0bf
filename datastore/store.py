"""The Store: everything that was measured, in one DuckDB file with one writer.

Rows are the frozen values of `records`; what they mean is for the packages above. The asynchronous methods
are for an event loop and share transactions; the others wait for theirs, in the same order. SQL never
contains a value.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import duckdb

from datastore import bank, keys, opening, rows, snapshot, transfer
from datastore.errors import ReadOnlyStore, StoreError, StoreLocked, translate
from datastore.records import (
    BankRow,
    Event,
    ExampleScore,
    Insight,
    ModelRecord,
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
from datastore.samples import SampleTable
from datastore.writer import Transaction, Writer

if TYPE_CHECKING:
    import pandas as pd

Record = TypeVar("Record")
_MOST_INDEX = 2**31 - 1


class Store:
    """An open database: `Store.open` to write (one at a time), `Store.read` to look. A context manager.

    `as_of` is None, or for a reader of a live snapshot the Unix time at which it was taken; such a reader
    finds no prompts and samples, except in attached banks.
    """

    def __init__(
        self,
        path: Path,
        connection: duckdb.DuckDBPyConnection,
        *,
        read_only: bool,
        as_of: float | None,
        clock: Callable[[], float],
    ) -> None:
        """Use `open` or `read`."""
        self.path = path
        self.read_only = read_only
        self.as_of = as_of
        self._samples = SampleTable(connection)
        self._live = None if read_only else snapshot.LiveSnapshot(path, clock)
        self._writer = Writer(connection, path, between=self._live.write_if_due if self._live else None)
        self._closed = False
        atexit.register(self.close)

    @classmethod
    def open(cls, path: Path | str, *, create: bool = True, clock: Callable[[], float] = time.time) -> Self:
        """Open for writing; a missing file is made when `create`. `clock` gives Unix seconds.

        Raises StoreLocked, ForeignFile, TruncatedFile, NewerSchema or another StoreError, the file left as it
        was.
        """
        path = _resolved(path)
        rows.to_arrow(Prompt, [])  # the first conversion imports pandas: not on an event loop's time
        connection = opening.open_for_writing(path, create=create, created_at=clock())
        try:
            return cls(path, connection, read_only=False, as_of=None, clock=clock)
        except BaseException:
            connection.close()
            opening.release(path, writing=True)
            raise

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Open for reading: the file, or while a writer has it, the live snapshot beside it.

        Raises StoreLocked when a writer has it and has not yet written a snapshot, else as `open`.
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
                return cls(path, connection, read_only=True, as_of=None, clock=time.time)
        raise AssertionError

    def close(self) -> None:
        """Finish what is queued and give the file back. Closing twice is harmless."""
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
        """For each key the samples that the store and the attached banks have, by index; [] when there are
        none.

        Where both have an index, the store's sample counts. What was asked or put before is answered from
        memory; callers that wait at the same time share one query.
        """
        found, unknown = self._samples.peek(prompt_keys)
        if unknown:
            found |= await self._writer.submit(self._samples.get, unknown)
        return {key: list(found[key]) for key in prompt_keys}

    async def get_prompt(self, key: str) -> Prompt | None:
        """The prompt of that key, from the store or an attached bank; None when neither has it."""
        (prompt,) = await self._writer.submit(self._prompts, key)
        return prompt if isinstance(prompt, Prompt) else None

    def _prompts(self, transaction: Transaction, asked: Sequence[str]) -> list[tuple[Prompt | None]]:
        return [(self._samples.prompt(transaction.connection, key),) for key in asked]

    async def put_samples(self, prompt: Prompt, samples: Sequence[Sample]) -> None:
        """Store the prompt and those of its samples that the store has not; returns when that is durable.

        Of two samples with one index the first stays. The prompt's `prompt_tokens` are filled in when they
        were not known. Lone surrogates in a text become U+FFFD. Raises StoreError when a key is not the hash
        of its parts, or a sample belongs to another prompt.
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
        await self._writer.submit(self._put_samples, (prompt, tuple(map(_well_formed, samples))))

    def _put_samples(self, transaction: Transaction, payloads: Sequence[Any]) -> Sequence[None]:
        self._touch(transaction)
        return self._samples.put(transaction, payloads)

    # Results

    async def put_stage_results(self, results: Sequence[StageResult]) -> None:
        """Store results, replacing those of one trial, example and stage; returns when that is durable."""
        self._must_write()
        await self._writer.submit(self._put_stage_results, results)

    def _put_stage_results(
        self, transaction: Transaction, payloads: Sequence[Sequence[StageResult]]
    ) -> list[None]:
        self._insert(transaction, StageResult, [result for results in payloads for result in results])
        return [None] * len(payloads)

    async def put_scores(self, scores: Sequence[ExampleScore]) -> None:
        """Store scores, replacing those of one trial and example; returns when that is durable."""
        self._must_write()
        await self._writer.submit(self._put_scores, scores)

    def _put_scores(self, transaction: Transaction, payloads: Sequence[Sequence[ExampleScore]]) -> list[None]:
        self._insert(transaction, ExampleScore, [score for scores in payloads for score in scores])
        return [None] * len(payloads)

    def scores(self, trial_id: str) -> dict[str, ExampleScore]:
        """A trial's scores by example id."""
        return {score.example_id: score for score in self._select(ExampleScore, "trial_id = ?", trial_id)}

    def stage_results(self, trial_id: str) -> list[StageResult]:
        """A trial's stage results, in the order in which they arrived."""
        return self._select(StageResult, "trial_id = ?", trial_id)

    # Runs, trials and what led to them

    def start_run(self, run: Run) -> None:
        """Store a run; one of the same id, to be resumed, is replaced."""
        self._put(Run, [run], hurry=True)

    def finish_run(self, run_id: str, status: RunStatus, outcome: str | None, finished_at: float) -> None:
        """Set a run's end. Raises StoreError for an unknown run."""
        run = replace(self.run(run_id), status=status, outcome=outcome, finished_at=finished_at)
        self._put(Run, [run], hurry=True)

    def runs(self) -> list[Run]:
        """All runs, the newest last."""
        return self._select(Run)

    def run(self, run_id: str | None = None) -> Run:
        """A run by id; None or "latest": the newest. Raises StoreError when there is none."""
        newest = run_id in (None, "latest")
        runs = self.runs() if newest else self._select(Run, "run_id = ?", run_id)
        if not runs:
            which = "a run, it has none" if newest else f"the run {run_id}, it does not"
            raise StoreError(f"{self.path}: the store must have {which}; check the path and the run's id")
        return runs[-1]

    def put_models(self, models: Sequence[ModelRecord]) -> None:
        """Store models, replacing those of the same key."""
        self._put(ModelRecord, models)

    def models(self) -> list[ModelRecord]:
        """All models, by name."""
        return self._select(ModelRecord)

    def put_tunings(self, tunings: Sequence[Tuning]) -> None:
        """Store how models were tuned, replacing those of the same model."""
        self._put(Tuning, tunings)

    def tunings(self) -> list[Tuning]:
        """All tuned models, the newest last."""
        return self._select(Tuning)

    def put_preferences(self, preferences: Sequence[Preference]) -> None:
        """Store preferences, replacing those of the same key."""
        self._put(Preference, preferences)

    def remove_preference(self, key: str) -> None:
        """Remove a preference; one that is not there is none."""
        self._must_write()
        self._writer.run(lambda t: t.connection.execute("DELETE FROM preferences WHERE key = ?", [key]))

    def preferences(self, collection: str) -> list[Preference]:
        """A collection's preferences, in the order in which they were given."""
        return self._select(Preference, "collection = ?", collection)

    def begin_trial(self, trial: Trial) -> None:
        """Store a trial; one of the same id is replaced."""
        self._put(Trial, [trial])

    def finish_trial(self, trial: Trial) -> None:
        """Store a trial as it ended; the live snapshot follows at once."""
        self._put(Trial, [trial], hurry=True)

    def trials(self, run_id: str) -> list[Trial]:
        """A run's trials, by number."""
        return self._select(Trial, "run_id = ?", run_id)

    def put_proposals(self, proposals: Sequence[Proposal]) -> None:
        """Store proposals, replacing those of the same run, step and position."""
        self._put(Proposal, proposals)

    def proposals(self, run_id: str) -> list[Proposal]:
        """A run's proposals, by step and position."""
        return self._select(Proposal, "run_id = ?", run_id)

    def put_insights(self, insights: Sequence[Insight]) -> None:
        """Store insights, replacing those of the same run, step and position."""
        self._put(Insight, insights)

    def insights(self, run_id: str) -> list[Insight]:
        """A run's insights, by step and position."""
        return self._select(Insight, "run_id = ?", run_id)

    def put_event(self, event: Event) -> None:
        """Add an event."""
        self._put(Event, [event])

    def events(self, run_id: str) -> list[Event]:
        """A run's events, in the order in which they were stored."""
        return self._select(Event, "run_id = ?", run_id)

    def run_cost(self, run_id: str, *, models: Iterable[str] | None = None) -> RunCost:
        """What a run paid for, counted from the samples that it drew: those with its `run_id`, none from a
        bank.

        `calls`: distinct requests; samples without a request id count as one request per prompt.
        `prompt_tokens`: each prompt that the run drew from once, as with prefix caching, however many
        requests drew from it. Requests that failed are in no sample and so not counted. `models`: only these
        model keys; None: all.
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
        """Let look-ups find the samples of a Parquet bank, or of another store, too; it is only read, into
        memory.

        Raises BankError naming the row when the file is not a sound bank, StoreLocked when a writer has the
        store.
        """
        path = _resolved(path)
        attached = bank.Bank(transfer.read_bank(path), str(path))
        self._writer.run(lambda _: self._samples.attach(attached))

    def bank_summary(self) -> list[BankRow]:
        """How many prompts, samples and tokens of each model the store and each attached bank hold."""
        query = (
            "SELECT model_key, prompts, samples, prompt_tokens, generated_tokens FROM bank_summary ORDER BY 1"
        )
        found = self._writer.run(lambda t: t.connection.execute(query).fetchall())
        names = ("model_key", "prompts", "samples", "prompt_tokens", "generated_tokens")
        own = [BankRow(source="store", **dict(zip(names, row, strict=True))) for row in found]
        return own + [row for attached in self._samples.banks for row in attached.summary()]

    def export_bank(self, path: Path | str, *, run_id: str | None = None) -> int:
        """Write the store's samples (None), or those that one run paid for, as a Parquet bank; how many they
        were.

        An existing file is replaced once the new one is whole. Attached banks are not exported.
        """
        to = _resolved(path)
        return self._writer.run(lambda t: bank.write_parquet(to, transfer.export_rows(t.connection, run_id)))

    def import_bank(self, path: Path | str) -> int:
        """Add the samples of a Parquet bank, or of another store, with no run; how many were new.

        Raises as `attach_bank`; then nothing is imported.
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
        """Write the live snapshot now. It is written without asking too, soon after anything changes."""
        self._must_write()
        live = self._live
        if live is not None:
            self._writer.run(lambda t: live.write(t.connection), outside=True)

    def sql(self, query: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> pd.DataFrame:
        """The rows of a SELECT as a pandas frame, for notebooks. Raises StoreError for anything else."""

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

    def _select(self, cls: type[Record], where: str = "true", *parameters: Any) -> list[Record]:
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
