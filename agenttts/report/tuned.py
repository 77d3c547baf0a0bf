"""How the tuned models of a store were tuned, as reports and pages show it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from datastore.store import Store


@dataclass(frozen=True, kw_only=True)
class TunedRow:
    """How a model was tuned.

    Attributes:
        key: The model's key in the store.
        model: The name of the model.
        base: The directory or name of the model that it was tuned from.
        path: The directory of its weights.
        tasks: The names of the sub-tasks that it was tuned for.
        before: Mean score on the dataset's evaluation split before tuning, with greedy decoding; None where
            it was not scored.
        after: The same score after tuning.
        seconds: How long the tuning took.
        curve: What was measured during training: mappings of step, epoch, loss, eval_loss and score. A
            figure that was not measured at a step is absent or None.
        created_at: When the model was registered, in Unix seconds.
    """

    key: str
    model: str
    base: str
    path: str
    tasks: tuple[str, ...]
    before: float | None
    after: float | None
    seconds: float
    curve: tuple[Mapping[str, float | None], ...]
    created_at: float

    @property
    def revision(self) -> str:
        """The beginning of the digest of its weights."""
        return self.key.rpartition("@")[2]

    def points(self, figure: str) -> list[tuple[float, float]]:
        """(step, value) of what was measured of a figure: `loss`, `eval_loss` or `score`."""
        pairs = ((point.get("step"), point.get(figure)) for point in self.curve)
        return [(step, value) for step, value in pairs if step is not None and value is not None]


def read_tuned_rows(store: Store) -> list[TunedRow]:
    """Read how each tuned model of a store was tuned, the newest last.

    Args:
        store: The store.
    """
    rows = []
    for tuning in store.tunings():
        scores = json.loads(tuning.metrics)
        rows.append(
            TunedRow(
                key=tuning.model_key,
                model=tuning.model_key.rpartition("@")[0],
                base=tuning.base,
                path=tuning.path,
                tasks=tuple(json.loads(tuning.tasks)),
                before=_mean(scores.get("before")),
                after=_mean(scores.get("after")),
                seconds=tuning.seconds,
                curve=tuple(json.loads(tuning.curve)),
                created_at=tuning.created_at,
            )
        )
    return rows


def read_tuned(store: Store, spec: Mapping[str, Any]) -> tuple[TunedRow, ...]:
    """Read how those models of a pipeline were tuned that the store knows of, by the pipeline's names.

    Args:
        store: The store.
        spec: The pipeline, as the run stores it.
    """
    names = {
        model.get("revision"): name
        for name, model in (spec.get("models") or {}).items()
        if model.get("revision")
    }
    rows = ((names.get(row.revision), row) for row in read_tuned_rows(store))
    return tuple(replace(row, model=name) for name, row in rows if name is not None)


def _mean(scores: Mapping[str, float | None] | None) -> float | None:
    present = [score for score in (scores or {}).values() if score is not None]
    return math.fsum(present) / len(present) if present else None
