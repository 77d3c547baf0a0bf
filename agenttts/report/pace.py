"""How far a search is, and how long it may still take at the pace so far."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from agenttts.report.data import ReportData
from agenttts.results.ranking import SEARCHING
from datastore.records import Run
from datastore.store import Store

_BEGUN = ("started", "resumed")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The progress of a search that goes on.

    Attributes:
        n_cells: Examples that its trials have run so far, each with one allocation.
        most_cells: How many they may run at most; None without a limit on trials.
        seconds: Seconds since the run was begun or resumed.
        seconds_left: Seconds until the limit on trials at the pace since then; None where that is not known.
            The search may end sooner, and confirms its choice afterwards.
    """

    n_cells: int
    most_cells: int | None
    seconds: float
    seconds_left: float | None


def read_pace(store: Store, run: Run, data: ReportData) -> Pace:
    """Read how far a search is.

    Args:
        store: The database, open for reading.
        run: The run.
        data: Its report.
    """
    begun = max((e.at for e in store.events(run.run_id) if e.kind in _BEGUN), default=run.started_at)
    ended = {row.number: row.finished_at for row in store.trials(run.run_id)}
    searched = [t for t in data.trials if t.purpose in SEARCHING and t.status != "failed"]
    n_cells = sum(len(trial.scores) for trial in searched)
    n_since = sum(len(trial.scores) for trial in searched if (ended[trial.number] or math.inf) >= begun)
    now = store.as_of if store.as_of is not None else max((at for at in ended.values() if at), default=begun)
    seconds = max(0.0, now - begun)
    trials = (json.loads(run.settings or "{}").get("limits") or {}).get("trials")
    most = None if trials is None else int(trials) * data.n_examples
    left = None if most is None or not n_since else seconds * max(0, most - n_cells) / n_since
    return Pace(n_cells=n_cells, most_cells=most, seconds=seconds, seconds_left=left)
