"""Runs and their trials as runs of MLflow: a parent for each search, a child for each trial.

A run of MLflow carries the names of what it stands for as tags, by which a second export finds it. Parameters
can't change there: settings that may when a run is resumed, such as limits, are tags. Metrics have the times
and steps of the trials, so that what is sent twice is there once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from agenttts.errors import UserError
from agenttts.results.loading import load_outcome, stored_spec
from agenttts.results.outcome import Finalist, Outcome
from agenttts.results.trials import TrialResult
from agenttts.settings import SearchSettings
from datastore.records import Run
from datastore.store import Store
from pipelines.extras import library

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG, TRIAL_TAG = "agenttts.run_id", "agenttts.trial"
_PARENT = "search"  # the trial of the run that stands for the whole search
_STATUS = {"complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "running": "RUNNING"}
_MOST_PARAMS = 100  # of one request
_LONGEST_VALUE = 6000
_NO_NAME = re.compile(r"[^\w\-./ :]")


@dataclass(frozen=True, kw_only=True)
class MlflowExport:
    """What an export did.

    Attributes:
        experiments: The names of the experiments.
        n_runs: Searches that are there now.
        n_trials: Trials that are there now.
        n_new: How many of both were not there before.
    """

    experiments: tuple[str, ...]
    n_runs: int
    n_trials: int
    n_new: int


def export_mlflow(
    store: Store, runs: list[Run], *, tracking_uri: str | None = None, experiment: str | None = None
) -> MlflowExport:
    """Send runs and their trials to MLflow; those that are there already are brought up to date.

    Args:
        store: The database, open for reading.
        runs: The runs, of one or several pipelines.
        tracking_uri: Of MLflow; None for what MLflow's environment variables say.
        experiment: The name of one experiment for all of them; None for one with the name of each run's
            pipeline.

    Raises:
        MissingDependency: MLflow is not installed.
        UserError: MLflow can't be reached, or refuses what is sent.
    """
    mlflow = library("mlflow", "agenttts export mlflow", extra="mlflow")
    exceptions = library("mlflow.exceptions", "agenttts export mlflow", extra="mlflow")
    try:
        client = mlflow.MlflowClient(tracking_uri)
        targets, n_trials = dict[str, _Target](), 0
        for run in runs:
            name = experiment or _pipeline(run)
            if name not in targets:
                targets[name] = _Target(client, name)
            n_trials += targets[name].put(run, load_outcome(store, run), store)
        return MlflowExport(
            experiments=tuple(targets),
            n_runs=len(runs),
            n_trials=n_trials,
            n_new=sum(target.n_new for target in targets.values()),
        )
    except (exceptions.MlflowException, ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"MLflow at {tracking_uri or 'its default place'}: {reason}; name its place with --tracking-uri"
        ) from error


class _Target:
    """An experiment of MLflow, which is made where there is none of this name."""

    def __init__(self, client: MlflowClient, name: str) -> None:
        known = client.get_experiment_by_name(name)
        self._client = client
        self._experiment_id = client.create_experiment(name) if known is None else known.experiment_id
        self.n_new = 0

    def put(self, run: Run, outcome: Outcome, store: Store) -> int:
        """Send a search and its trials; how many trials it has."""
        there = self._there(run.run_id)
        ends = {row.number: (row.started_at, row.finished_at) for row in store.trials(run.run_id)}
        tags = {RUN_TAG: run.run_id, TRIAL_TAG: _PARENT}
        parent = there.get(_PARENT) or self._begin(run.run_id, run.started_at, tags)
        trials = sorted((*outcome.trials, *outcome.confirmation), key=lambda trial: trial.number)
        for trial in trials:
            own = {RUN_TAG: run.run_id, TRIAL_TAG: str(trial.number), "mlflow.parentRunId": parent}
            own |= {"agenttts.proposer": trial.proposer}
            started, ended = ends.get(trial.number, (run.started_at, None))
            child = there.get(str(trial.number)) or self._begin(f"trial {trial.number}", started, own)
            at = ended or started
            self._log(child, _trial_params(trial), _trial_metrics(trial), at, trial.number)
            self._end(child, "FAILED" if trial.status == "failed" else "FINISHED", at)
        fixed, changeable = _settings(run)
        for key, text in changeable.items():
            self._client.set_tag(parent, f"agenttts.{_name(key)}", text[:_LONGEST_VALUE])
        self._log(
            parent,
            {"pipeline": _pipeline(run), **fixed},
            _run_metrics(outcome),
            run.finished_at or run.started_at,
            0,
        )
        for at, number, best in _best_so_far(outcome, {n: end for n, (_, end) in ends.items()}):
            self._log(parent, {}, {"best_so_far": best}, at, number)
        if run.status != "running":
            self._end(parent, _STATUS[run.status], run.finished_at or run.started_at)
        return len(trials)

    def _there(self, run_id: str) -> dict[str, str]:
        """Runs of an earlier export, by what they stand for."""
        run_ids, token = dict[str, str](), None
        quoted = run_id.replace("'", "")
        while True:
            page = self._client.search_runs(
                [self._experiment_id], f"tags.`{RUN_TAG}` = '{quoted}'", page_token=token
            )
            run_ids |= {run.data.tags[TRIAL_TAG]: run.info.run_id for run in page}
            token = page.token
            if not token:
                return run_ids

    def _begin(self, name: str, at: float, tags: Mapping[str, str]) -> str:
        self.n_new += 1
        run = self._client.create_run(self._experiment_id, _ms(at), dict(tags), run_name=name)
        return str(run.info.run_id)

    def _log(
        self,
        own_id: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float | None],
        at: float,
        step: int,
    ) -> None:
        from mlflow.entities import Metric, Param

        values = [
            Metric(_name(key), float(value), _ms(at), step)
            for key, value in metrics.items()
            if value is not None and math.isfinite(value)
        ]
        named = [
            Param(_name(key), str(value)[:_LONGEST_VALUE])
            for key, value in params.items()
            if value is not None
        ]
        self._client.log_batch(own_id, metrics=values)
        for first in range(0, len(named), _MOST_PARAMS):
            self._client.log_batch(own_id, params=named[first : first + _MOST_PARAMS])

    def _end(self, own_id: str, status: str, at: float) -> None:
        self._client.set_terminated(own_id, status, _ms(at))


def _trial_params(trial: TrialResult) -> dict[str, object]:
    params: dict[str, object] = {"purpose": trial.purpose, "split": trial.split}
    for stage, choice in trial.allocation.items():
        params |= {f"{stage}.model": str(choice.option), f"{stage}.n_samples": choice.n_samples}
    return params | {"policy": None if trial.policy is None else str(trial.policy)}


def _trial_metrics(trial: TrialResult) -> dict[str, float | None]:
    stages = {f"{stage}.score": score for stage, score in trial.stage_scores.items()}
    own: dict[str, float | None] = {
        name: getattr(trial, name)
        for name in (
            "score",
            "n_scored",
            "n_missing",
            "budget_units",
            "flops_per_query",
            "prompt_tokens",
            "generated_tokens",
            "cost_usd",
            "samples_drawn",
            "samples_reused",
            "calls",
        )
    }
    return own | stages


def _settings(run: Run) -> tuple[dict[str, str], dict[str, str]]:
    """The stored settings that a run keeps, and those that may change when it is resumed."""
    settings: Mapping[str, Any] = json.loads(run.settings or "{}")
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in settings.items() if v is not None}
    compared = {setting.name for setting in fields(SearchSettings) if setting.compare}
    fixed = {key: text for key, text in texts.items() if key in compared}
    return fixed, {key: text for key, text in texts.items() if key not in compared}


def _run_metrics(outcome: Outcome) -> dict[str, float | None]:
    cost = outcome.cost
    return {
        **_finalist("best", outcome.best),
        **_finalist("baseline", outcome.baseline),
        "search.calls": cost.calls,
        "search.samples_drawn": cost.samples_drawn,
        "search.prompt_tokens": cost.prompt_tokens,
        "search.generated_tokens": cost.generated_tokens,
        "search.flops": cost.flops,
        "search.usd": cost.usd,
    }


def _finalist(name: str, finalist: Finalist | None) -> dict[str, float | None]:
    if finalist is None:
        return {}
    return {
        f"{name}.search_score": finalist.search_score,
        f"{name}.test_score": finalist.test_score,
        f"{name}.budget_units": finalist.budget_units,
    }


def _best_so_far(outcome: Outcome, ends: Mapping[int, float | None]) -> Iterator[tuple[float, int, float]]:
    """(end, number, the best plain mean so far) of the complete trials, in the order in which they ended."""
    complete = [
        (ends.get(trial.number) or 0.0, trial.number, trial.score)
        for trial in outcome.trials
        if trial.status == "complete" and trial.score is not None
    ]
    best = -math.inf
    for at, number, score in sorted(complete):
        best = max(best, score)
        yield at, number, best


def _pipeline(run: Run) -> str:
    spec = stored_spec(run)
    return run.run_id if spec is None else spec.name


def _ms(at: float) -> int:
    return round(at * 1000)


def _name(key: str) -> str:
    return _NO_NAME.sub("_", key)[:250]
