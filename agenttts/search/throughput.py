"""How fast a pipeline's servers are: as recorded with the trials of a run on them, or as probed (`probe`).

Recorded: what the trials of the latest live run with the same models at the same addresses drew, over the
seconds that they took. Probed: of each stage and model; a query then takes as long as its busiest server,
because examples run side by side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from agenttts.errors import UserError
from datastore.records import Run
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.spec.pipeline import PipelineSpec

_FEWEST_SAMPLES = 20  # below this a recorded speed says nothing


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Samples per second of a pipeline's servers.

    Attributes:
        source: Where the figures are from, for people.
        samples_per_second: Of all servers together; None where each stage and model has its own.
        rates: Samples per second by stage and what is drawn, a model or model:prompt; empty otherwise.
    """

    source: str
    samples_per_second: float | None = None
    rates: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def seconds(self, spec: PipelineSpec, allocation: Allocation, n_samples: float) -> float:
        """Return how long a query keeps the servers busy; requests that fuse or judge are not in a probe's.

        Args:
            spec: The pipeline.
            allocation: The query's allocation.
            n_samples: Its samples, those of aggregation included.
        """
        if self.samples_per_second is not None:
            return n_samples / self.samples_per_second
        busy: dict[str, float] = {}
        for stage in spec.stages:
            choice = allocation[stage.name]
            if stage.python is None:
                address = spec.models[choice.model].base_url
                spent = choice.n_samples / self.rates[stage.name, choice.option.drawn]
                busy[address] = busy.get(address, 0.0) + spent
        return max(busy.values(), default=0.0)


def stated_throughput(samples_per_second: float) -> Throughput:
    """Return what a person states.

    Args:
        samples_per_second: Of all servers together.

    Raises:
        UserError: It is not above 0.
    """
    if not samples_per_second > 0:
        raise UserError(f"samples_per_second is > 0, got {samples_per_second:g}")
    return Throughput(source="as stated", samples_per_second=samples_per_second)


def recorded_throughput(spec: PipelineSpec, store: Store) -> Throughput | None:
    """Return the speed of the latest live run whose models answer at this spec's addresses.

    Args:
        spec: The pipeline.
        store: The store of earlier runs.

    Returns:
        The speed; None when no such run drew enough samples.
    """
    models = {(spec.served_name(name), spec.models[name].base_url) for name in spec.used_models}
    for run in sorted(store.runs(), key=lambda run: -run.started_at):
        if not models <= _served_by(run):
            continue
        live = [trial for trial in store.trials(run.run_id) if trial.samples_drawn and trial.finished_at]
        seconds = sum((trial.finished_at or 0.0) - trial.started_at for trial in live)
        n_samples = sum(trial.samples_drawn for trial in live)
        if n_samples >= _FEWEST_SAMPLES and seconds > 0:
            return Throughput(
                source=f"by {n_samples:,} samples that run {run.run_id} drew in {seconds:,.1f} s",
                samples_per_second=n_samples / seconds,
            )
    return None


def _served_by(run: Run) -> set[tuple[str, str]]:
    """Names in requests and addresses of the models of a live run; nothing of a replay."""
    settings, spec = json.loads(run.settings), json.loads(run.spec)
    if settings.get("replay"):
        return set()
    return {(model["served_name"] or key, model["base_url"]) for key, model in spec["models"].items()}
