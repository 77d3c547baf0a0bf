"""Reading a database for pages: each state of it once, without holding it open between requests.

While a search writes, the live snapshot beside the database is read. A database that is open for reading
can't be opened for writing, so it is closed as soon as a page has its data.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agenttts.report.data import ReportData, read_report
from agenttts.report.pace import Pace, read_pace
from agenttts.report.policy import PolicyQuery
from agenttts.report.runs import RunComparison, RunSummary, compare_runs, read_runs
from agenttts.report.tuned import TunedRow, read_tuned_rows
from agenttts.results.cost import ModelCost, costs_by_model
from agenttts.results.examples import Show, TrialExample
from agenttts.results.loading import stored_spec
from agenttts.results.server_health import StoredHealth, load_health
from agenttts.results.trial_reader import TrialReader
from agenttts.results.trials import TrialResult
from agenttts.search.waiting import WaitingRoom
from agenttts.ui.approving import Approval
from datastore.errors import StoreError
from datastore.snapshot import live_path
from datastore.store import Store

PER_PAGE = 50
_MOST_KEPT = 8
_LEAST_REFRESH_S = 3


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """What the page of a run shows.

    Attributes:
        data: The run, as the report has it.
        costs: What each model was billed; empty where the pipeline can't be restored.
        pace: How far the search is and how long it may still take; None for a run that has ended.
        health: How the servers are doing; None for a run that has ended, or calls none.
        state: Names the state of the database that was read.
        refresh_s: Seconds after which the page asks for a newer state: so many that to read a large run takes
            no more than a tenth of the time.
    """

    data: ReportData
    costs: tuple[ModelCost, ...]
    pace: Pace | None
    health: StoredHealth | None
    state: str
    refresh_s: int


@dataclass(frozen=True, kw_only=True)
class TrialPage:
    """What the page of a trial shows: one page of its examples.

    Attributes:
        data: The run, as the report has it.
        trial: The trial.
        show: Which examples are shown.
        other: The trial that it is compared with; None without one.
        n_shown: The number of examples that are shown, over all pages.
        page: The number of this page, from 1.
        n_pages: The number of pages.
        examples: Those of this page.
        queries: How far each example went, by its id; empty unless a policy was run on the test split.
        is_live: Whether a live snapshot was read, which has no prompts and samples.
    """

    data: ReportData
    trial: TrialResult
    show: Show
    other: TrialResult | None
    n_shown: int
    page: int
    n_pages: int
    examples: tuple[TrialExample, ...]
    queries: Mapping[str, PolicyQuery]
    is_live: bool


@dataclass(frozen=True, kw_only=True)
class ExamplePage:
    """What the page of an example in a trial shows.

    Attributes:
        data: The run, as the report has it.
        trial: The trial.
        example: The example.
        elsewhere: The other trials that scored it, with their scores.
        is_live: Whether a live snapshot was read, which has no prompts and samples.
    """

    data: ReportData
    trial: TrialResult
    example: TrialExample
    elsewhere: tuple[tuple[TrialResult, float | None], ...]
    is_live: bool


@dataclass(frozen=True, kw_only=True)
class WaitingPage:
    """What the page of a run shows of proposals that wait for a decision.

    Attributes:
        run_id: The run.
        approval: The proposals; None where none wait.
    """

    run_id: str
    approval: Approval | None


class Reading:
    """Reads the pages of one database.

    Args:
        db: The DuckDB file.
    """

    def __init__(self, db: Path) -> None:
        self.db = db
        self._guard = threading.Lock()
        self._reports = dict[tuple[str, str], ReportData]()
        self._took_s = 0.0
        self._runs: tuple[str, tuple[RunSummary, ...]] = ("", ())

    @property
    def state(self) -> str:
        """Names the state of the files: another name, another state."""
        stats = []
        for path in (self.db, self.db.with_name(f"{self.db.name}.wal"), live_path(self.db)):
            try:
                stat = path.stat()
            except OSError:
                stats.append("-")
            else:
                stats.append(f"{stat.st_mtime_ns:x}.{stat.st_size:x}")
        return "_".join(stats)

    def runs(self) -> tuple[RunSummary, ...]:
        """Read all runs, the newest first."""
        state = self.state
        if self._runs[0] != state:
            with self._store() as store:
                self._runs = state, read_runs(store)
        return self._runs[1]

    def tuned(self) -> list[TunedRow]:
        """Read how the tuned models of the database were tuned, the newest first."""
        with self._store() as store:
            return read_tuned_rows(store)[::-1]

    def tuned_model(self, key: str) -> TunedRow:
        """Read how one model was tuned; StoreError when it is not there."""
        for row in self.tuned():
            if row.key == key:
                return row
        raise StoreError(f"the database must have the tuned model {key!r}, it does not")

    def comparison(self, first: str, second: str) -> RunComparison:
        """Compare two runs; StoreError when one of them is not there."""
        with self._store() as store:
            return compare_runs(store, first, second)

    def run(self, run_id: str) -> RunPage:
        """Read the page of a run; StoreError when it is not there."""
        state = self.state
        with self._store() as store:
            data = self._report(store, run_id, state)
            run = store.run(run_id)
            spec = stored_spec(run)
            return RunPage(
                data=data,
                costs=() if spec is None else costs_by_model(store, run.run_id, spec),
                pace=read_pace(store, run, data) if data.in_progress else None,
                health=load_health(store, run.run_id) if data.in_progress else None,
                state=state,
                refresh_s=max(_LEAST_REFRESH_S, math.ceil(10 * self._took_s)),
            )

    def waiting(self, run_id: str) -> WaitingPage:
        """Read the proposals of a run that wait for a decision; StoreError when the run is not there."""
        question = WaitingRoom(self.db).question()
        if question is None:
            return WaitingPage(run_id=run_id, approval=None)
        with self._store() as store:
            run = store.run(run_id)
            spec = stored_spec(run)
            asks = question.run_id == run.run_id and store.as_of is not None and run.status == "running"
            approval = Approval.of(question, spec) if asks and spec is not None else None
            return WaitingPage(run_id=run.run_id, approval=approval)

    def trial(self, run_id: str, number: int, show: Show, against: int | None, page: int) -> TrialPage:
        """Read a page of a trial's examples.

        Args:
            run_id: The run.
            number: The trial.
            show: Which examples.
            against: The number of another trial; None without one.
            page: The number of the page, from 1; one that is not there is taken for the nearest.

        Raises:
            StoreError: There is no such run or trial.
            UserError: `changed` lacks the other trial.
        """
        with self._store() as store:
            data = self._report(store, run_id, self.state)
            trial = _trial(data, number)
            other = None if against is None else _trial(data, against)
            reader = TrialReader(store, data.run_id, stored_spec(store.run(run_id)))
            ids = reader.ids(trial, show, other)
            n_pages = max(1, -(-len(ids) // PER_PAGE))
            page = min(max(page, 1), n_pages)
            examples = reader.read(trial, ids[(page - 1) * PER_PAGE : page * PER_PAGE])
            return TrialPage(
                data=data,
                trial=trial,
                show=show,
                other=other,
                n_shown=len(ids),
                page=page,
                n_pages=n_pages,
                examples=examples,
                queries={} if trial.policy is None else {q.example_id: q for q in data.policy_queries},
                is_live=store.as_of is not None,
            )

    def example(self, run_id: str, number: int, example_id: str) -> ExamplePage:
        """Read one example of a trial; StoreError when run, trial or example is not there."""
        with self._store() as store:
            data = self._report(store, run_id, self.state)
            trial = _trial(data, number)
            if example_id not in trial.scores:
                raise StoreError(f"trial {number} must have the example {example_id!r}, it does not")
            reader = TrialReader(store, data.run_id, stored_spec(store.run(run_id)))
            (example,) = reader.read(trial, [example_id])
            elsewhere = tuple(
                (t, t.scores[example_id])
                for t in data.trials
                if t.number != number and t.split == trial.split and example_id in t.scores
            )
            live = store.as_of is not None
            return ExamplePage(data=data, trial=trial, example=example, elsewhere=elsewhere, is_live=live)

    @contextmanager
    def _store(self) -> Iterator[Store]:
        with self._guard, Store.read(self.db) as store:
            yield store

    def _report(self, store: Store, run_id: str, state: str) -> ReportData:
        """The report of a run, read once for each state of the database."""
        key = (run_id, state)
        if key not in self._reports:
            while len(self._reports) >= _MOST_KEPT:
                del self._reports[next(iter(self._reports))]
            began = time.monotonic()
            self._reports[key] = read_report(store, run_id, solve=False, n_failing=0)
            self._took_s = time.monotonic() - began
        return self._reports[key]


def _trial(data: ReportData, number: int) -> TrialResult:
    for trial in data.trials:
        if trial.number == number:
            return trial
    raise StoreError(f"run {data.run_id} must have a trial {number}, it does not")
