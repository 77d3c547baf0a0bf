"""Events of a run that hold a dataclass each, as the report and a resumed run read them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from agenttts.results import meter, negotiated
from agenttts.results.meter import TextlessAnswers, load_textless, warned
from agenttts.results.negotiated import load_negotiated
from datastore.records import Event
from datastore.store import Store
from pipelines.servers.wire import Negotiated
from tests.agenttts.results.test_health import SOUND
from tests.datastore import made


def test_events_of_another_version_are_passed_over(tmp_path: Path) -> None:
    """Of every kind: what another version stored otherwise neither ends a report nor hides the others."""
    textless = TextlessAnswers(stage="answer", model="small", n=2, cut=1, reason="nothing but reasoning")
    finding = Negotiated(
        model="small", field="n", action="split", consequence="more calls", words="n must be 1"
    )
    with Store.open(tmp_path / "run.duckdb") as store:
        store.start_run(made.run("r1", started_at=0.0))
        for at, (kind, value) in enumerate(
            (
                (meter.TEXTLESS, asdict(textless)),
                (meter.EVENT, asdict(SOUND)),
                (negotiated.EVENT, asdict(finding)),
            )
        ):
            details = [{"count": 2}, value, {**value, "model": ["small"]}]
            for detail in details:
                store.put_event(Event(run_id="r1", at=float(at), kind=kind, detail=json.dumps(detail)))
        assert load_textless(store, "r1") == [textless]
        assert warned(store, "r1") == (SOUND,)
        assert load_negotiated(store, "r1") == (finding,)
