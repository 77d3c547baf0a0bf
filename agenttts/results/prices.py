"""The prices that a search planned with in the end: lengths and costs that its trials had, kept as events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from pydantic import TypeAdapter

from agenttts.results.events import stored_events
from datastore.store import Store
from pipelines.jsonvalues import JSON
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage_parts import CallCost, Lengths

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
class PriceChange:
    """A price that is no longer the planned one.

    Attributes:
        stage: The name of the stage.
        option: The option, as text.
        what: What was planned, and what was measured, in words.
    """

    stage: str
    option: str
    what: str

    def __str__(self) -> str:
        return f"{self.stage} {self.option}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Repriced:
    """What an event of the kind `REPRICED` holds.

    Attributes:
        changes: The prices that changed.
        prices: The prices of all stages after it.
    """

    changes: tuple[PriceChange, ...]
    prices: tuple[StagePrices, ...]

    @classmethod
    def of(cls, changes: Iterable[PriceChange], spec: PipelineSpec) -> Self:
        """Return the content of an event.

        Args:
            changes: The prices that changed.
            spec: The pipeline with measured prices.
        """
        stages = (StagePrices(stage=s.name, lengths=s.lengths, costs=s.costs) for s in spec.stages)
        return cls(changes=tuple(changes), prices=tuple(stages))

    def to_json_dict(self) -> dict[str, JSON]:
        """Return it as JSON-able data."""
        data: dict[str, JSON] = REPRICED_EVENT.dump_python(self, mode="json")
        return data


REPRICED_EVENT = TypeAdapter(Repriced)


def with_measured_prices(spec: PipelineSpec, store: Store, run_id: str) -> PipelineSpec:
    """Return a run's pipeline with the prices that its search planned with last.

    Args:
        spec: The pipeline as the run stored it.
        store: The database, open for reading.
        run_id: The run.
    """
    events = list(stored_events(store, run_id, REPRICED, REPRICED_EVENT))
    if not events:
        return spec
    last = {prices.stage: prices for prices in events[-1].prices}
    stages = tuple(
        stage.model_copy(update={"lengths": last[stage.name].lengths, "costs": last[stage.name].costs})
        for stage in spec.stages
    )
    return spec.model_copy(update={"stages": stages})
