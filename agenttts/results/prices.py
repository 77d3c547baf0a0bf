"""The prices that a search planned with in the end: lengths and costs that its trials had, kept as events."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from agenttts.results.events import stored_events
from datastore.store import Store
from pipelines.jsonvalues import JSON
from pipelines.spec.fields import CallCost, Lengths
from pipelines.spec.pipeline import PipelineSpec

REPRICED = "repriced"


@dataclass(frozen=True, kw_only=True)
class StagePrices:
    """What the options of a stage are planned to take.

    Attributes:
        stage: The name of the stage.
        lengths: Expected lengths by option, where they are not the stage's.
        costs: Costs of a call by option, where they are not the stage's.
    """

    stage: str
    lengths: dict[str, Lengths]
    costs: dict[str, CallCost]


@dataclass(frozen=True, kw_only=True)
class _Repriced:
    prices: tuple[StagePrices, ...]


_PRICES, _EVENT = TypeAdapter(tuple[StagePrices, ...]), TypeAdapter(_Repriced)


def prices_json(spec: PipelineSpec) -> JSON:
    """Return the prices of a pipeline's stages as JSON-able data, for an event.

    Args:
        spec: The pipeline with measured prices.
    """
    stages = tuple(
        StagePrices(stage=stage.name, lengths=stage.lengths, costs=stage.costs) for stage in spec.stages
    )
    return _PRICES.dump_python(stages, mode="json")  # type: ignore[no-any-return]


def with_measured_prices(spec: PipelineSpec, store: Store, run_id: str) -> PipelineSpec:
    """Return a run's pipeline with the prices that its search planned with last.

    Args:
        spec: The pipeline as the run stored it.
        store: The database, open for reading.
        run_id: The run.
    """
    events = list(stored_events(store, run_id, REPRICED, _EVENT))
    if not events:
        return spec
    last = {prices.stage: prices for prices in events[-1].prices}
    stages = tuple(
        stage.model_copy(update={"lengths": last[stage.name].lengths, "costs": last[stage.name].costs})
        for stage in spec.stages
    )
    return spec.model_copy(update={"stages": stages})
