"""What a search found, as a person reads it: `.best`, `.frontier`, `.to_df()`, `.report()`; and a stored run
again.

Figures are those that the run stored (`confirm`); nothing is computed anew but for a run that has not
finished.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttts.blocking import run_blocking
from agenttts.errors import UserError
from agenttts.goal import Goal
from agenttts.outcome import cost_of, frontier, latest, outcome
from agenttts.trial import TrialResult, load_trial
from datastore.records import Insight, Run
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.clients import ModelClients
from pipelines.dataset import examples_from_rows
from pipelines.examples import Example
from pipelines.runtime import Runtime
from pipelines.spec import PipelineSpec
from pipelines.specfile import restore_spec

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """An allocation with its scores. Intervals are (low, high), 95 %; None where nothing was measured."""

    allocation: Allocation
    budget_units: float
    search_score: float
    search_ci: tuple[float, float] | None
    test_score: float | None
    test_ci: tuple[float, float] | None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finalist:
        return cls(
            allocation=Allocation.from_dict(data["allocation"]),
            budget_units=data["budget_units"],
            search_score=data["search_score"],
            search_ci=_pair(data.get("search_ci")),
            test_score=data.get("test_score"),
            test_ci=_pair(data.get("test_ci")),
        )


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The result of one run. `trials` are those on the search split, in order.

    `confirmation`: what came after: finalists that the bank answers, trials again for missing examples, and
    the test trials. `examples`: those of the search split, as the search has read them; None where it was
    loaded, and they are read when they are needed.
    """

    run_id: str
    db: Path
    status: str
    spec: PipelineSpec
    trials: tuple[TrialResult, ...]
    insights: tuple[Insight, ...]
    outcome: Mapping[str, Any]
    confirmation: tuple[TrialResult, ...] = ()
    examples: Sequence[Example] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_store(
        cls, store: Store, run_id: str | None = None, spec: PipelineSpec | None = None
    ) -> SearchResult:
        """A run's result (None: the newest run); of an unfinished run what is known so far.

        spec: the run's own, as stored, where not given. StoreError when there is no such run.
        """
        run = store.run(run_id)
        spec = spec or restore_spec(run.spec)
        trials = [load_trial(store, t) for t in store.trials(run.run_id) if t.status != "running"]
        return cls(
            run_id=run.run_id,
            db=store.path,
            status=run.status,
            spec=spec,
            trials=tuple(t for t in trials if t.purpose in ("search", "baseline")),
            confirmation=tuple(t for t in trials if t.purpose in ("confirm", "test")),
            insights=tuple(store.insights(run.run_id)),
            outcome=json.loads(run.outcome) if run.outcome else _so_far(store, run, spec, trials),
        )

    @property
    def best(self) -> Finalist | None:
        """The winner; None when no trial has a score."""
        return _finalist(self.outcome["best"])

    def best_trial(self) -> TrialResult | None:
        """The winner's trial on the search split, with its scores by example; None when none has a score."""
        return (
            None
            if self.best is None
            else next(
                t for t in (*self.trials, *self.confirmation) if t.number == self.outcome["best"]["trial"]
            )
        )

    @property
    def baseline(self) -> Finalist | None:
        """The best single-model default; None when none has a score."""
        return _finalist(self.outcome["baseline"])

    @property
    def equivalent(self) -> tuple[Finalist, ...]:
        """The winner and all that can't be told apart from it, cheapest first."""
        return tuple(Finalist.from_dict(entry) for entry in self.outcome["equivalent"])

    def cheapest(self, within: float | None = None) -> Finalist | TrialResult | None:
        """The cheapest of `equivalent`; with `within`, the cheapest trial that scores that near to the best.

        within: a difference of scores, 0.01 for a hundredth. None when no trial has a score.
        """
        if within is None:
            return next(iter(self.equivalent), None)
        least = (self.best.search_score if self.best else 0.0) - within
        near = [t for t in latest(self.trials, self.confirmation) if (t.score or 0.0) >= least - 1e-12]
        return min(near, key=lambda t: (t.budget_units, -(t.score or 0.0)), default=None)

    @property
    def frontier(self) -> tuple[TrialResult, ...]:
        """Trials that no other beats in score for as few units (the Pareto front), cheapest first."""
        return tuple(frontier((*self.trials, *self.confirmation)))

    @property
    def hypervolume(self) -> float:
        """The area below the frontier from no units to the budget: 1 for a score of 1 at no cost."""
        return float(self.outcome["hypervolume"])

    @property
    def certificate(self) -> str:
        """What is claimed of the winner, in words."""
        return str(self.outcome["certificate"]["text"])

    @property
    def cost(self) -> Mapping[str, Any]:
        """What the search paid for: calls, samples, tokens, FLOPs."""
        found: Mapping[str, Any] = self.outcome["cost"]
        return found

    def to_json_dict(self) -> dict[str, Any]:
        """The result as `agenttts search --json` prints it."""
        return dict(self.outcome)

    def to_df(self) -> pd.DataFrame:
        """One row for each trial; a model and a number of samples for each stage."""
        import pandas as pd

        rows = []
        for trial in self.trials:
            choices: dict[str, str | int] = {}
            for stage, choice in trial.allocation.items():
                choices |= {f"{stage}.model": str(choice.option), f"{stage}.n_samples": choice.n_samples}
            stages = {
                f"{stage}.score": score for stage, score in trial.stage_scores.items() if score is not None
            }
            kept = (
                "number",
                "purpose",
                "proposer",
                "status",
                "score",
                "n_scored",
                "n_missing",
                "budget_units",
            )
            more = ("flops_per_query", "samples_drawn", "samples_reused", "reason", "error")
            rows.append(
                {name: getattr(trial, name) for name in kept}
                | choices
                | stages
                | {name: getattr(trial, name) for name in more}
            )
        return pd.DataFrame(rows)

    def report(self, path: Path | str | None = None) -> Path:
        """Write the HTML report, beside the database where no path is given; its path."""
        from agenttts.report import read_report
        from agenttts.report_html import save_html

        path = self.db.with_suffix(".html") if path is None else Path(path)
        with Store.read(self.db) as store:
            return save_html(read_report(store, self.run_id, examples=self.examples), path)


@dataclass(frozen=True, kw_only=True)
class LoadedRun(SearchResult):
    """A stored run: its result, and its best allocation at work."""

    def run(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        allocation: Allocation | None = None,
        db: Path | str | None = None,
    ) -> list[dict[str, Any]]:
        """Run an allocation (None: the best) on new inputs, each the fields of an example, in their order.

        Returns for each: `id`, `output`, `stages` (each stage's output), `status`, `reason` (why there is no
        output). What is drawn is kept in the run's database, or in `db`. UserError when the run has no best
        allocation.
        """
        return run_blocking(self.run_async(inputs, allocation=allocation, db=db))

    async def run_async(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        allocation: Allocation | None = None,
        db: Path | str | None = None,
    ) -> list[dict[str, Any]]:
        """`run` for code that is already asynchronous."""
        if allocation is None:
            if self.best is None:
                raise UserError(
                    f"run {self.run_id} has no scored allocation; pass allocation= or search again"
                )
            allocation = self.best.allocation
        with Store.open(db or self.db) as store:
            return await run_inputs(self.spec, allocation, inputs, store)


async def run_inputs(
    spec: PipelineSpec,
    allocation: Allocation,
    inputs: Iterable[Mapping[str, Any]],
    store: Store,
    *,
    replay: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> list[dict[str, Any]]:
    """Execute an allocation on new inputs; nothing is scored, and no run pays."""
    import asyncio

    examples = examples_from_rows(spec, inputs)
    bank = spec.bank_path
    if bank is not None and bank.is_file():
        store.attach_bank(bank)
    clients = None if replay else ModelClients(spec, rng=random.Random(0), environ=environ)
    runtime = Runtime(spec, store, clients, run_id=None, replay=replay)
    try:
        outcomes = await asyncio.gather(
            *(runtime.run_example(allocation, example, with_score=False) for example in examples)
        )
    finally:
        if clients is not None:
            await clients.aclose()
    return [
        {
            "id": found.example_id,
            "output": found.output,
            "stages": {stage.stage: stage.value for stage in found.stages},
            "status": found.status,
            "reason": found.reason,
        }
        for found in outcomes
    ]


def load_run(db: Path | str, run_id: str | None = None) -> LoadedRun:
    """A run of a database (None: the newest). StoreError when there is none; SpecError when a function of its
    spec can't be imported any more."""
    with Store.read(db) as store:
        found = LoadedRun.from_store(store, run_id)
    assert isinstance(found, LoadedRun)
    return found


def _so_far(store: Store, run: Run, spec: PipelineSpec, trials: Sequence[TrialResult]) -> dict[str, Any]:
    settings = json.loads(run.settings)
    seed = int(settings.get("seed", 0))
    cost = cost_of(store, run.run_id, spec, trials)
    budget_units = float(settings.get("budget_units", spec.budget.units))
    ended = f"the run is {run.status}"
    return outcome(
        run.run_id,
        trials,
        spec,
        budget_units=budget_units,
        cost=cost,
        seed=seed,
        ended=ended,
        goal=Goal(settings.get("objective", "quality"), settings.get("min_quality")),
    )


def _finalist(data: Mapping[str, Any] | None) -> Finalist | None:
    return None if data is None else Finalist.from_dict(data)


def _pair(values: Sequence[float] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])
