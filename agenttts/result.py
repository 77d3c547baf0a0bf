"""The result of a search as a person reads it: `.best`, `.frontier`, `.to_df()`, `.report()`.

Figures are those that the run stored; they are computed anew only for a run that has not finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from agenttts.errors import UserError
from agenttts.report import show
from agenttts.results.adaptive import AdaptivePolicy
from agenttts.results.cost import SearchCost
from agenttts.results.data_frame import data_frame
from agenttts.results.examples import Show, TrialExample
from agenttts.results.loading import load_outcome
from agenttts.results.outcome import Equivalent, Finalist, Outcome, Recommended
from agenttts.results.ranking import latest
from agenttts.results.trial_reader import TrialReader
from agenttts.results.trials import TrialResult, merit
from datastore.records import Insight
from datastore.store import Store
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.spec.files import restore_spec
from pipelines.spec.pipeline import PipelineSpec

if TYPE_CHECKING:
    import pandas as pd


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
        return data_frame((*self.trials, *self.confirmation))

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
        subject = self.best_trial() if trial is None else self._trial(trial)
        if subject is None:
            raise UserError(f"run {self.run_id} has no scored allocation; name a trial")
        with Store.read(self.db) as store:
            reader = TrialReader(store, self.run_id, self.spec, self.search_examples)
            against = None if other is None else self._trial(other)
            return reader.read(subject, reader.ids(subject, show, against))

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
