"""The outcome of a stored run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields

from agenttts.results.adaptive import load_adaptive
from agenttts.results.conclusion import conclude
from agenttts.results.cost import cost_of
from agenttts.results.meter import load_health
from agenttts.results.negotiated import load_negotiated
from agenttts.results.outcome import Outcome
from agenttts.results.prices import with_measured_prices
from agenttts.results.trials import load_trial
from agenttts.settings import MARGIN
from agenttts.space.measure import Measure
from agenttts.space.objective import Goal
from datastore.records import Run
from datastore.store import Store
from pipelines.errors import PipelineError
from pipelines.examples import Example
from pipelines.spec.files import restore_spec
from pipelines.spec.pipeline import PipelineSpec


def load_outcome(
    store: Store,
    run: Run,
    spec: PipelineSpec | None = None,
    examples: Sequence[Example] | None = None,
) -> Outcome:
    """Load the outcome that a run stored, or compute the one that it would have if it ended now.

    A stored outcome of an older version that lacks a key is completed from the run's trials.

    Args:
        store: The database, open for reading.
        run: The run.
        spec: The run's pipeline; None to restore it from the store where it is needed.
        examples: The search examples; None to read the spec's dataset where they are needed.

    Raises:
        SpecError: No complete outcome is stored, and a function of the stored pipeline can't be imported any
            more.
    """
    trials = [load_trial(store, trial) for trial in store.trials(run.run_id) if trial.status != "running"]
    stored = {"measure": "units", **json.loads(run.outcome)} if run.outcome else {}
    if {f.name for f in fields(Outcome)} <= set(stored):
        return Outcome.from_json_dict(stored, trials)
    spec = with_measured_prices(spec or restore_spec(run.spec), store, run.run_id)
    settings = json.loads(run.settings)
    measure = Measure(spec, settings.get("measure", "units"))
    so_far = conclude(
        run.run_id,
        trials,
        measure,
        budget_units=float(settings.get("budget_units", spec.budget.amount)),
        cost=cost_of(store, run.run_id, spec, trials),
        seed=int(settings.get("seed", 0)),
        ended=f"the run is {run.status}",
        goal=Goal(settings.get("objective", "quality"), settings.get("min_quality")),
        margin=float(settings.get("margin", MARGIN)),
        adaptive=load_adaptive(stored.get("adaptive")),
        health=load_health(store, run.run_id, spec, examples),
        negotiated=load_negotiated(store, run.run_id),
    )
    return Outcome.from_json_dict({**so_far.to_json_dict(), **stored}, trials) if stored else so_far


def stored_spec(run: Run) -> PipelineSpec | None:
    """Return a run's pipeline; None when it can't be restored here, as when a function of it is gone.

    Args:
        run: The run.
    """
    try:
        return restore_spec(run.spec)
    except (PipelineError, ValueError, KeyError, TypeError):
        return None
