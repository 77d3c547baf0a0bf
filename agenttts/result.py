"""The result of a search as a person reads it: `.best`, `.frontier`, `.to_df()`, `.report()`.

Figures are those that the run stored; they are computed anew only for a run that has not finished.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from agenttts.answering import STREAM_CACHE_BYTES, Answer, MeanCost, answers
from agenttts.blocking import iterate_blocking, run_blocking
from agenttts.errors import UserError
from agenttts.report import show
from agenttts.results.adaptive import AdaptivePolicy
from agenttts.results.cost import SearchCost
from agenttts.results.examples import Show, TrialExample
from agenttts.results.loading import load_outcome
from agenttts.results.outcome import Equivalent, Finalist, Outcome, Recommended
from agenttts.results.ranking import latest
from agenttts.results.trial_reader import TrialReader
from agenttts.results.trials import TrialResult, merit
from datastore.records import Insight
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.dataset.inputs import NewInput, read_inputs
from pipelines.errors import DatasetError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.policy import Policy
from pipelines.runtime.streaming import WINDOW
from pipelines.servers.patience import Patience
from pipelines.spec.files import restore_spec
from pipelines.spec.pipeline import PipelineSpec

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Finalist", "LoadedRun", "SearchResult", "load_run"]

_FIRST_COLUMNS = (
    "number",
    "purpose",
    "split",
    "proposer",
    "status",
    "score",
    "n_scored",
    "n_missing",
    "budget_units",
)
_LAST_COLUMNS = ("flops_per_query", "samples_drawn", "samples_reused", "reason", "error")


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The result of one run.

    Attributes:
        run_id: The run.
        db: The DuckDB file that holds it.
        status: How the run stands: running, complete, stopped or failed.
        spec: The pipeline that was searched.
        insights: What the search has learnt, in words.
        outcome: What the run comes to, so far or in the end.
        search_examples: The examples of the search split, as the search has read them; None where the run was
            loaded, and they are read when they are needed.
    """

    run_id: str
    db: Path
    status: str
    spec: PipelineSpec
    insights: tuple[Insight, ...]
    outcome: Outcome
    search_examples: Sequence[Example] | None = field(default=None, repr=False, compare=False)

    __repr__ = show.text
    _repr_html_ = show.html

    @classmethod
    def from_store(cls, store: Store, run_id: str | None = None, spec: PipelineSpec | None = None) -> Self:
        """Load the result of a run; of an unfinished run, what is known so far.

        Args:
            store: The database, open for reading.
            run_id: The run; None for the newest.
            spec: The run's own pipeline; None to restore it from the store.

        Raises:
            StoreError: There is no such run.
            SpecError: A function of the stored pipeline can't be imported any more.
        """
        run = store.run(run_id)
        spec = spec or restore_spec(run.spec)
        return cls(
            run_id=run.run_id,
            db=store.path,
            status=run.status,
            spec=spec,
            insights=tuple(store.insights(run.run_id)),
            outcome=load_outcome(store, run, spec),
        )

    @property
    def trials(self) -> tuple[TrialResult, ...]:
        """The trials of the search, in the order in which they were decided."""
        return self.outcome.trials

    @property
    def confirmation(self) -> tuple[TrialResult, ...]:
        """The trials after the search: finalists again, allocations that the bank answers, test trials."""
        return self.outcome.confirmation

    @property
    def best(self) -> Finalist | None:
        """The winner; None when no trial has a score."""
        return self.outcome.best

    @property
    def adaptive(self) -> AdaptivePolicy | None:
        """The policy that was chosen, with what it is expected to score and what it did; None without one."""
        return self.outcome.adaptive

    def best_trial(self) -> TrialResult | None:
        """Return the winner's trial on the search split, with its scores by example.

        Returns:
            The trial; None when no trial has a score.
        """
        return None if self.best is None else self.best.trial_in((*self.trials, *self.confirmation))

    @property
    def baseline(self) -> Finalist | None:
        """The best single-model default; None when none has a score."""
        return self.outcome.baseline

    @property
    def equivalent(self) -> tuple[Equivalent, ...]:
        """The winner and all allocations that differ from it by no more than noise, cheapest first."""
        return self.outcome.equivalent

    @property
    def recommended(self) -> Recommended | None:
        """The cheapest allocation shown to be worse than the winner by no more than the margin; or None."""
        return self.outcome.recommended

    def cheapest(self, within: float | None = None) -> Equivalent | TrialResult | None:
        """Return the cheapest allocation that is as good as the winner.

        Args:
            within: A difference of scores, such as 0.01: the cheapest trial whose mean is at most that far
                below the winner's (`recommended` is tested for it). None: the cheapest of `equivalent`.

        Returns:
            The allocation with its scores; None when no trial has a score.
        """
        if within is None:
            return next(iter(self.equivalent), None)
        best = self.best_trial()
        least = (0.0 if best is None else best.score or 0.0) - within
        near = [t for t in latest(self.trials, self.confirmation) if (t.score or 0.0) >= least - 1e-12]
        return min(near, key=lambda t: (t.budget_units, -(t.score or 0.0)), default=None)

    def best_within(self, budget: float) -> TrialResult | None:
        """Return the trial with the best score among those whose planned cost is within a budget.

        Args:
            budget: The most that the allocation may cost per query, in the measure of the run's budget.

        Returns:
            The trial on the search split, with its plain mean; of equals the cheaper, then the earlier. None
            when none is within the budget.
        """
        within = [t for t in latest(self.trials, self.confirmation) if t.budget_units <= budget]
        return max(within, key=merit, default=None)

    @property
    def frontier(self) -> tuple[TrialResult, ...]:
        """Trials that no other beats in score for as few units (the Pareto front), cheapest first."""
        return self.outcome.frontier

    @property
    def hypervolume(self) -> float:
        """The area below the frontier from no units to the budget: 1 for a score of 1 at no cost."""
        return self.outcome.hypervolume

    @property
    def certificate(self) -> str:
        """The claim about the winner and its evidence, in sentences."""
        return self.outcome.certificate.text

    @property
    def cost(self) -> SearchCost:
        """What the search paid: calls, samples, tokens, FLOPs."""
        return self.outcome.cost

    def to_json_dict(self) -> dict[str, JSON]:
        """Return the result as `agenttts search --json` prints it."""
        return self.outcome.to_json_dict()

    def to_df(self) -> pd.DataFrame:
        """Return the trials as a data frame, those of the confirmation and of the test split included.

        Returns:
            A row for each trial, in the order of their numbers; `purpose` and `split` tell them apart. The
            columns `<stage>.model` and `<stage>.n_samples` hold its choice at each stage, of a policy that of
            its first rung, `<stage>.score` the stage's own score where it has one, and `policy` the text of a
            policy.
        """
        import pandas as pd

        rows = []
        for trial in sorted((*self.trials, *self.confirmation), key=lambda trial: trial.number):
            choices: dict[str, str | int] = {}
            for stage, choice in trial.allocation.items():
                choices |= {f"{stage}.model": str(choice.option), f"{stage}.n_samples": choice.n_samples}
            stages = {
                f"{stage}.score": score for stage, score in trial.stage_scores.items() if score is not None
            }
            first, last = (
                {name: getattr(trial, name) for name in names} for names in (_FIRST_COLUMNS, _LAST_COLUMNS)
            )
            policy = {"policy": None if trial.policy is None else str(trial.policy)}
            rows.append(first | choices | stages | policy | last)
        return pd.DataFrame(rows)

    def examples(
        self,
        trial: TrialResult | int | None = None,
        *,
        show: Show = "all",
        other: TrialResult | int | None = None,
    ) -> tuple[TrialExample, ...]:
        """Read the examples of a trial: prompts, samples with their values, votes, gold, scores and costs.

        Args:
            trial: The trial or its number; None for the winner's on the search split.
            show: Which examples: "all"; "wrong", those that score below 1, the lowest first; "missing";
                "cut", those with a sample that ended at the token limit; or "changed", those that score
                otherwise in the `other` trial.
            other: The other trial or its number, for "changed".

        Returns:
            The examples. Prompts and samples are empty while another process searches, and where a bank that
            answered is gone.

        Raises:
            UserError: The run has no such trial or no winner, or "changed" lacks the other trial.
        """
        wanted = self.best_trial() if trial is None else self._trial(trial)
        if wanted is None:
            raise UserError(f"run {self.run_id} has no scored allocation; name a trial")
        with Store.read(self.db) as store:
            reader = TrialReader(store, self.run_id, self.spec, self.search_examples)
            against = None if other is None else self._trial(other)
            return reader.read(wanted, reader.ids(wanted, show, against))

    def _trial(self, trial: TrialResult | int) -> TrialResult:
        number = trial if isinstance(trial, int) else trial.number
        for known in (*self.trials, *self.confirmation):
            if known.number == number:
                return known
        raise UserError(f"run {self.run_id} has no trial {number}; `trials` and `confirmation` list them")

    def report(self, path: Path | str | None = None) -> Path:
        """Write the HTML report.

        Args:
            path: The file to write. None: beside the database, with the ending `.html`.

        Returns:
            The path of the file.

        Raises:
            UserError: The file can't be written.
        """
        from agenttts.report.data import read_report
        from agenttts.report.html import save_html

        path = self.db.with_suffix(".html") if path is None else Path(path)
        with Store.read(self.db) as store:
            return save_html(read_report(store, self.run_id, examples=self.search_examples), path)


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
