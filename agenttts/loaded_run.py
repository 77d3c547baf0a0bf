"""A stored run that is put to work on new inputs: `load_run(...).run(...)`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from agenttts.answering import STREAM_CACHE_BYTES, Answer, MeanCost, answers
from agenttts.blocking import iterate_blocking, run_blocking
from agenttts.errors import UserError
from agenttts.result import SearchResult
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.dataset.inputs import NewInput, read_inputs
from pipelines.errors import DatasetError
from pipelines.policy import Policy
from pipelines.runtime.streaming import WINDOW
from pipelines.servers.patience import Patience


@dataclass(frozen=True, kw_only=True, repr=False)
class LoadedRun(SearchResult):
    """A stored run: its result, which can also be put to work on new inputs."""

    @overload
    def run(
        self,
        inputs: Iterator[Mapping[str, Any]],
        *,
        allocation: Allocation | None = None,
        policy: Policy | None = None,
        mean_units: float | None = None,
        db: Path | str | None = None,
        window: int = WINDOW,
        patience: Patience | None = None,
    ) -> Iterator[Answer]: ...
    @overload
    def run(
        self,
        inputs: Sequence[Mapping[str, Any]],
        *,
        allocation: Allocation | None = None,
        policy: Policy | None = None,
        mean_units: float | None = None,
        db: Path | str | None = None,
        window: int = WINDOW,
        patience: Patience | None = None,
    ) -> list[Answer]: ...
    def run(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        allocation: Allocation | None = None,
        policy: Policy | None = None,
        mean_units: float | None = None,
        db: Path | str | None = None,
        window: int = WINDOW,
        patience: Patience | None = None,
    ) -> Iterator[Answer] | list[Answer]:
        """Run an allocation or a policy on new inputs; nothing is scored.

        Args:
            inputs: The fields of an example, one mapping for each input. An iterator (a generator, say) is
                read as there is room in the window, in a thread of its own, and answered by an iterator.
            allocation: The allocation to run.
            policy: The policy to run. Without either, the run's own policy is run, and its best allocation
                where it has none.
            mean_units: Units that a query of the policy may cost on average: while they cost more, the
                thresholds of its further rungs are lowered. None holds the run's own policy to the budget
                that it was chosen for, in units or US dollars, and leaves the thresholds of another as they
                are.
            db: The database that keeps the samples; None for the run's own.
            window: Inputs that are read and not yet answered, at most.
            patience: How long an answer, a fault and an outage of a server are waited for; None: the
                defaults.

        Returns:
            A mapping for each input, in the order of the inputs: `id` (the input's own, of the dataset's id
            field or the field `id`, else its number as text), `output`, `stages` (each stage's output),
            `status`, and `reason` (why there is no output). Of a policy also `confidence`, `n_rungs` (how
            many were run), `n_samples`, `units`, `seconds`, `thresholds` (which decided on further rungs),
            and `stepped_back` (the stages whose weighted vote was counted as a plain one). An iterator yields
            each as soon as it and those before it are there; an input that can't be run has the status
            `error`. Close it, or exhaust it, before the database is opened again.

        Raises:
            UserError: The run has no best allocation, both an allocation and a policy are given, or
                `mean_units` is not a finite number above 0 or is given for an allocation.
            SpecError: The policy does not fit the pipeline.
            DatasetError: An input of a list can't be run.
            ServerDown: A server was down for too long; what was paid for is kept.
        """
        is_stream = isinstance(inputs, Iterator)
        coming = self._answers(
            inputs, allocation, policy, mean_units, db, window, patience, strict=not is_stream
        )
        return iterate_blocking(coming) if is_stream else run_blocking(_all(coming))

    async def run_async(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        allocation: Allocation | None = None,
        policy: Policy | None = None,
        mean_units: float | None = None,
        db: Path | str | None = None,
        window: int = WINDOW,
        patience: Patience | None = None,
    ) -> list[Answer]:
        """Run an allocation or a policy on new inputs, from code that is already asynchronous.

        Args:
            inputs: As in `run`; an iterator is read to its end.
            allocation: As in `run`.
            policy: As in `run`.
            mean_units: As in `run`.
            db: As in `run`.
            window: As in `run`.
            patience: As in `run`.

        Returns:
            As `run` does for a list.

        Raises:
            UserError, SpecError, DatasetError: As `run` does.
        """
        return await _all(
            self._answers(inputs, allocation, policy, mean_units, db, window, patience, strict=True)
        )

    def stream(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        allocation: Allocation | None = None,
        policy: Policy | None = None,
        mean_units: float | None = None,
        db: Path | str | None = None,
        window: int = WINDOW,
        patience: Patience | None = None,
    ) -> AsyncGenerator[Answer]:
        """Run an allocation or a policy on inputs as they come, from code that is already asynchronous.

        Args:
            inputs: As in `run`; read in a thread of its own, as there is room in the window.
            allocation: As in `run`.
            policy: As in `run`.
            mean_units: As in `run`.
            db: As in `run`.
            window: As in `run`.
            patience: As in `run`.

        Returns:
            An asynchronous generator of what `run` returns for each input. Close it (`contextlib.aclosing`)
            to end before the inputs do.

        Raises:
            UserError, SpecError, ServerDown: As `run` does.
        """
        return self._answers(inputs, allocation, policy, mean_units, db, window, patience, strict=False)

    async def _answers(
        self,
        inputs: Iterable[Mapping[str, Any]],
        allocation: Allocation | None,
        policy: Policy | None,
        mean_units: float | None,
        db: Path | str | None,
        window: int,
        patience: Patience | None,
        *,
        strict: bool,
    ) -> AsyncGenerator[Answer]:
        if allocation is not None and policy is not None:
            raise UserError("one of allocation and policy says what to run; give one")
        if window < 1:
            raise UserError(f"window, the inputs under way at most, must be at least 1, got {window}")
        chosen = policy or allocation
        mean = None
        if chosen is None:
            chosen, mean = self.chosen()
        if mean_units is not None:
            mean = MeanCost(mean_units)
        rows: Iterable[NewInput] = read_inputs(self.spec, inputs)
        if strict:
            rows = list(rows)
            refused = next((row.problem for row in rows if row.problem is not None), None)
            if refused is not None:
                raise DatasetError(refused)
        with Store.open(db or self.db, cache_bytes=STREAM_CACHE_BYTES) as store:
            coming = answers(
                self.spec, chosen, rows, store, mean=mean, strict=strict, window=window, patience=patience
            )
            async with aclosing(coming):
                async for answer in coming:
                    yield answer

    def chosen(self, *, fixed: bool = False) -> tuple[Allocation | Policy, MeanCost | None]:
        """Return what the run chose, and what a query of it may cost on average.

        Args:
            fixed: Whether to return the best allocation also where the run has a policy.

        Returns:
            The policy if it was scored on the test split, else the best allocation; and the budget of the
            policy, None without one.

        Raises:
            UserError: The run has no best allocation.
        """
        adaptive = self.adaptive
        if adaptive is not None and adaptive.tested is not None and not fixed:
            return adaptive.policy, MeanCost(adaptive.budget, self.outcome.measure)
        if self.best is None:
            raise UserError(f"run {self.run_id} has no scored allocation; search again")
        return self.best.allocation, None


async def _all(coming: AsyncGenerator[Answer]) -> list[Answer]:
    async with aclosing(coming):
        return [answer async for answer in coming]


def load_run(db: Path | str, run_id: str | None = None) -> LoadedRun:
    """Load a run from a database.

    Args:
        db: The DuckDB file.
        run_id: The run; None for the newest.

    Raises:
        StoreError: There is no such run.
        SpecError: A function of the run's pipeline can't be imported any more.
    """
    with Store.read(db) as store:
        return LoadedRun.from_store(store, run_id)
