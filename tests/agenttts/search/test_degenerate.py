"""Degenerate samples and servers that take less than the spec says: told in time, and kept with the run."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agenttts import load_run, search
from agenttts.proposers.base import SearchView, Turn
from agenttts.proposers.solver import SolverProposer
from agenttts.report.data import ReportData, read_report
from agenttts.report.html import to_html
from agenttts.report.terminal import print_report
from agenttts.results.health import SampleHealth
from agenttts.results.meter import load_health
from agenttts.search.events import (
    SamplesWarned,
    SearchEvent,
    TermsFound,
    TrialFinished,
    TrialProgress,
    TrialStarted,
)
from datastore import Store
from pipelines.dataset import load_examples
from pipelines.spec.files import restore_spec
from tests.agenttts.commands import agenttts
from tests.agenttts.small_specs import write_pipeline
from tests.servers import Request, ScriptedServer


class Breaks(SolverProposer):
    """The solver until the run has more trials than its defaults."""

    broken = True

    async def propose(self, view: SearchView, count: int) -> Turn:
        if self.broken and len(view.trials) > 2:
            raise RuntimeError("the proposer broke")
        return await super().propose(view, count)


def cut_at_answers(request: Request, text: str) -> Mapping[str, Any]:
    """The small model's answers end at the token limit; all else is sound."""
    bad = request.model == "small" and request.prompt.startswith("answer")
    return {"finish_reason": "length"} if bad else {}


def told(data: ReportData) -> tuple[str, str]:
    """The report as terminal and HTML page."""
    console = Console(width=1000, file=io.StringIO(), record=True)
    print_report(data, console)
    return console.export_text(), to_html(data)


def of(health: tuple[SampleHealth, ...]) -> dict[str, SampleHealth]:
    return {f"{one.stage} × {one.model}": one for one in health}


def test_cut_samples_are_told_after_the_first_trial_and_in_every_report(
    tmp_path: Path, server: ScriptedServer
) -> None:
    """One warning for the stage and model, right after the trial that shows it, with the remedy."""
    server.message = cut_at_answers
    spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "run.duckdb"
    events: list[SearchEvent] = []
    result = search(spec, trials=4, db=db, on_event=events.append)
    warnings = [event for event in events if isinstance(event, SamplesWarned)]
    warning = "answer × small: 100 % of the samples were cut at max_tokens 8; raise sampling.max_tokens"
    assert [event.message for event in warnings] == [warning]
    assert isinstance(events[events.index(warnings[0]) - 1], TrialFinished)
    first = next(event for event in events if isinstance(event, TrialFinished))
    assert events.index(warnings[0]) == events.index(first) + 1
    progress = [event for event in events if isinstance(event, TrialProgress)]
    assert of(progress[-1].health) or any(event.health for event in progress)

    assert of(result.outcome.health)["answer × small"].cut == 1.0
    assert of(result.outcome.health)["answer × large"].cut == 0.0
    assert "answer × small: 100 % of the samples were cut at max_tokens 8" in result.certificate
    with Store.read(db) as store:
        data = read_report(store)
        assert [e.kind for e in store.events(result.run_id)].count("sample_health") == 1
    assert all(warning in text for text in told(data))
    whole: Any = result.to_json_dict()
    stored = {f"{h['stage']} × {h['model']}": h for h in whole["health"]}
    assert stored["answer × small"]["warning"] == warning and stored["answer × large"]["warning"] is None
    assert data.to_json_dict()["health"] == whole["health"]


def test_the_shares_are_those_of_the_store_whoever_counts_them(
    tmp_path: Path, server: ScriptedServer
) -> None:
    """Counted as results came, from the store afterwards, and by a resumed run: the same; told once."""
    server.message = cut_at_answers
    spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "run.duckdb"
    proposer = Breaks()
    with pytest.raises(RuntimeError, match="broke"):
        search(spec, trials=6, db=db, proposer=proposer)
    unfinished = load_run(db)
    assert of(unfinished.outcome.health)["answer × small"].cut == 1.0
    with Store.read(db) as store:
        assert read_report(store, solve=False).outcome == unfinished.outcome
    proposer.broken = False
    result = search(spec, trials=6, db=db, proposer=proposer, resume=True)
    assert result.run_id == unfinished.run_id
    with Store.read(db) as store:
        run = store.run()
        restored = restore_spec(run.spec)
        assert load_health(store, run.run_id, restored) == result.outcome.health
        assert (
            load_health(store, run.run_id, restored, load_examples(restored, "search"))
            == result.outcome.health
        )
        assert [e.kind for e in store.events(run.run_id)].count("sample_health") == 1
    n_samples = {place: one.n_samples for place, one in of(result.outcome.health).items()}
    before = {place: one.n_samples for place, one in of(unfinished.outcome.health).items()}
    assert all(n_samples[place] >= count for place, count in before.items())


def test_a_report_of_a_run_that_goes_on_has_the_warnings(tmp_path: Path, server: ScriptedServer) -> None:
    """A live snapshot has no samples: the shares are those of the time when the run warned of them."""
    server.message = cut_at_answers
    spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "run.duckdb"
    live: list[ReportData] = []

    def look(event: SearchEvent) -> None:
        if isinstance(event, TrialStarted) and event.number == 1:
            until = time.monotonic() + 20
            while not (live and live[-1].outcome.health) and time.monotonic() < until:
                time.sleep(0.1)
                with Store.read(db) as store:
                    live.append(read_report(store))

    search(spec, trials=2, db=db, on_event=look)
    assert live[-1].as_of is not None
    assert [(h.stage, h.model, h.cut) for h in live[-1].outcome.health] == [("answer", "small", 1.0)]
    assert "raise sampling.max_tokens" in told(live[-1])[0]


def test_equal_texts_are_told(tmp_path: Path, server: ScriptedServer) -> None:
    """A server that ignores the temperature is noticed by samples that are all one text."""
    server.answer = lambda request, index: "red"
    events: list[SearchEvent] = []
    spec = write_pipeline(tmp_path, server.base_url)
    result = search(spec, trials=3, db=tmp_path / "run.duckdb", on_event=events.append)
    messages = [event.message for event in events if isinstance(event, SamplesWarned)]
    assert messages and all("all samples are one text for 100 % of" in message for message in messages)
    assert "all samples are one text" in result.certificate


def test_sound_samples_are_no_news(recorded: Path, searched: Path) -> None:
    """Nothing is warned of, the certificate is silent, and the table of shares is there all the same."""
    run = load_run(searched)
    assert run.outcome.health and not any(one.problems for one in run.outcome.health)
    assert "doubtful" not in run.certificate and not run.outcome.negotiated
    with Store.read(searched) as store:
        assert not [event for event in store.events(run.run_id) if event.kind == "sample_health"]
        terminal, page = told(read_report(store, solve=False))
    assert "all one text" in terminal and "all one text" in page


def test_what_a_server_does_not_take_is_kept_with_the_run(
    tmp_path: Path, make_server: Callable[..., ScriptedServer]
) -> None:
    """Told as it is found, stored once though a resumed run finds it again, and in every report."""
    server = make_server(most_n=1, refuses=["temperature", "max_tokens"])
    spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "run.duckdb"
    events: list[SearchEvent] = []
    proposer = Breaks()
    with pytest.raises(RuntimeError, match="broke"):
        search(spec, trials=5, db=db, proposer=proposer, on_event=events.append)
    found = {(e.negotiated.model, e.negotiated.field) for e in events if isinstance(e, TermsFound)}
    fields = {"n", "temperature", "max_tokens"}
    assert found == {(model, field) for model in ("small", "large") for field in fields}
    kept = load_run(db).outcome.negotiated
    assert {(one.model, one.field) for one in kept} == found

    proposer.broken = False
    result = search(spec, trials=5, db=db, proposer=proposer, resume=True)
    assert result.outcome.negotiated == kept and result.status == "complete"
    assert "take no temperature: it is not sent" in result.certificate
    assert "max_completion_tokens" not in result.certificate, "results mean the same under another name"
    with Store.read(db) as store:
        terminal, page = told(read_report(store))
    for text in (terminal, page):
        assert "take no temperature: it is not sent" in text and "sent as max_completion_tokens" in text
    shown = agenttts("report", db, "--json").json
    assert {(one["model"], one["field"]) for one in shown["negotiated"]} == found
    assert json.loads(json.dumps(result.to_json_dict()))["negotiated"] == shown["negotiated"]


def test_progress_says_what_is_wrong(tmp_path: Path, make_server: Callable[..., ScriptedServer]) -> None:
    """The lines of a search on the command line have shares, warnings and terms."""
    server = make_server(refuses=["temperature"], message=cut_at_answers)
    spec = write_pipeline(tmp_path, server.base_url)
    done = agenttts("search", spec, "--trials", 3, "--db", tmp_path / "run.duckdb")
    assert done.code == 0
    assert "answer × small 100 % cut" in done.err and "raise sampling.max_tokens" in done.err
    assert "small: temperature dropped: it is not sent" in done.err


def test_answers_without_a_text_are_in_the_shares(tmp_path: Path, server: ScriptedServer) -> None:
    """Nothing but reasoning is no sample, but it is told, stored, and counted once by a resumed run."""

    def message(request: Request, text: str) -> Mapping[str, Any]:
        cut = request.model == "small" and request.prompt.startswith("answer") and text != "red"
        return {"content": None, "reasoning": "hm", "finish_reason": "length"} if cut else {}

    server.message = message
    spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "run.duckdb"
    events: list[SearchEvent] = []
    proposer = Breaks()
    with pytest.raises(RuntimeError, match="broke"):
        search(spec, trials=5, db=db, proposer=proposer, on_event=events.append)
    (warning,) = [event.message for event in events if isinstance(event, SamplesWarned)]
    assert "of the samples were cut at max_tokens 8" in warning and "have no value" in warning
    unfinished = of(load_run(db).outcome.health)["answer × small"]
    assert unfinished.empty == unfinished.cut > 0.3
    assert unfinished.empty_because == "cut at the token limit while it reasoned; raise sampling.max_tokens"
    proposer.broken = False
    result = search(spec, trials=5, db=db, proposer=proposer, resume=True)
    with Store.read(db) as store:
        assert load_health(store, result.run_id, restore_spec(store.run().spec)) == result.outcome.health
