"""What changes the space during a search: prices that follow measured lengths, and prompts of proposers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agenttts import load_run, search
from agenttts.proposers.base import NewPrompt, SearchView, Suggestion, Turn
from agenttts.report import read_report
from agenttts.report.changes import ADDED
from agenttts.results.prices import REPRICED
from agenttts.results.ranking import hypervolume, within_budget
from agenttts.search.events import Note, SearchEvent, TrialFinished
from agenttts.search.growth import with_prompt
from agenttts.space.measure import Measure
from datastore import Store
from pipelines import load_spec
from pipelines.allocation import Allocation
from pipelines.errors import SpecError
from tests.agenttts.commands import agenttts
from tests.agenttts.small_specs import write_pipeline
from tests.servers import Request, ScriptedServer

LONG = "blue " * 12


def wordy(request: Request, i: int) -> str:
    """The large model is right and long; with the prompt `careful` the small one is right too."""
    right = request.body["model"] == "large" or "carefully" in request.prompt
    gold = re.findall(r"question \d+", request.prompt)
    return (f"answer of {gold[0]}" if gold and right else "none") if "answer" in request.prompt else LONG


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Path]:
    """A pipeline whose stages are longer than its spec expects."""
    with ScriptedServer(answer=lambda request, i: LONG) as server:
        yield write_pipeline(tmp_path, server.base_url)


def decisions(db: Path) -> list[tuple[str, float]]:
    """Allocations and planned costs of the trials of a run."""
    with Store.read(db) as store:
        return [(trial.allocation, trial.budget_units) for trial in store.trials(store.run().run_id)]


def test_prices_follow_what_the_first_trials_took(pipeline: Path, tmp_path: Path) -> None:
    """Announced once, stored, planned with from then on, and stated beside what the winner took."""
    events: list[SearchEvent] = []
    db = tmp_path / "run.duckdb"
    result = search(pipeline, budget=400, trials=6, db=db, on_event=events.append, policy="fixed")
    notes = [e.message for e in events if isinstance(e, Note) and e.message.startswith("Prices follow")]
    assert len(notes) >= 1 and "retrieve small: " in notes[0] and "(2 planned)" in notes[0]
    with Store.read(db) as store:
        stored = [event for event in store.events(result.run_id) if event.kind == REPRICED]
    assert len(stored) == len(notes)
    measure = Measure.of(load_spec(pipeline))
    for trial in result.trials[2:]:
        cost = trial.realised(measure)
        assert cost is not None and trial.budget_units == pytest.approx(cost.mean, rel=0.15)
        assert trial.budget_units <= 400
    assert result.best is not None and result.best.search_cost is not None
    assert "Planned at" in result.certificate and "it took" in result.certificate


def test_in_a_budget_of_dollars_tokens_are_weighed_by_their_prices(tmp_path: Path) -> None:
    """As many tokens as planned, but more of the dear ones: the price follows, and in FLOPs it need not."""
    priced = "price: {prompt_usd_per_million: 1, generated_usd_per_million: 100}"
    with ScriptedServer(answer=lambda request, i: LONG) as server:
        path = write_pipeline(tmp_path, server.base_url)
        text = re.sub(r"active_params: (\S+e\+6)\}", rf"active_params: \1, {priced}}}", path.read_text())
        # a prompt of 3 tokens and two samples of 8 are read and written; 15 and two of 2 are planned
        text = text.replace("prompt_tokens: 8\n    generated", "prompt_tokens: 15\n    generated")
        path.write_text(text.replace("max_samples: 8", "max_samples: 2"))
        notes = dict[str, list[str]]()
        for budget in ({"budget": 4000}, {"budget_usd": 1.0}):
            events = list[SearchEvent]()
            db = tmp_path / f"{next(iter(budget))}.duckdb"
            search(path, trials=2, db=db, on_event=events.append, policy="fixed", **budget)
            notes[next(iter(budget))] = [e.message for e in events if isinstance(e, Note)]
    assert not any("retrieve small" in note for note in notes["budget"] if note.startswith("Prices"))
    assert any("retrieve small: " in note for note in notes["budget_usd"] if note.startswith("Prices"))


def test_a_report_plans_what_it_replays_by_the_prices_of_the_search(pipeline: Path, tmp_path: Path) -> None:
    """What a dearer choice adds is a difference of two amounts by the same, measured lengths."""
    db = tmp_path / "run.duckdb"
    search(pipeline, budget=400, trials=6, db=db, policy="fixed")
    with Store.read(db) as store:
        data = read_report(store)
    assert any(point.trial is None for curve in data.curves for point in curve.points)
    further = [step for step in data.marginals if step.before.option == step.after.option]
    for step in further:  # a sample is cut at 8 tokens; a unit is two tokens of the small model
        tokens = (step.after.n_samples - step.before.n_samples) * 8
        units = tokens / 2 * {"small": 1, "large": 4}[step.after.model]
        assert step.extra_units == pytest.approx(units, rel=0.15)
    assert further


def test_a_stopped_search_goes_on_with_the_same_prices(pipeline: Path, tmp_path: Path) -> None:
    """Stopped after its first priced trial, a search takes the decisions of an undisturbed one."""
    whole, broken = tmp_path / "whole.duckdb", tmp_path / "broken.duckdb"
    settings = {"budget": 400, "trials": 6, "policy": "fixed"}
    search(pipeline, db=whole, **settings)

    def stop(event: SearchEvent) -> None:
        if isinstance(event, TrialFinished) and event.trial.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(pipeline, db=broken, on_event=stop, **settings)
    search(pipeline, db=broken, resume=True, **settings)
    assert decisions(broken) == decisions(whole)
    with Store.read(whole) as first, Store.read(broken) as second:
        stores = (first, second)
        counts = {[e.kind for e in store.events(store.run().run_id)].count(REPRICED) for store in stores}
    assert len(counts) == 1


def test_what_a_stopped_search_comes_to_is_planned_by_measured_prices(pipeline: Path, tmp_path: Path) -> None:
    """The seconds of the fastest allocation so far are those of the lengths that trials had."""
    speed = "speed: {prompt_tokens_per_second: 1000, generated_tokens_per_second: 10}"
    text = pipeline.read_text()
    pipeline.write_text(re.sub(r"active_params: (\S+e\+6)\}", rf"active_params: \1, {speed}}}", text))
    db = tmp_path / "run.duckdb"

    def stop(event: SearchEvent) -> None:
        if isinstance(event, TrialFinished) and event.trial.status == "complete":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(pipeline, budget=400, db=db, on_event=stop, objective="latency", min_quality=0.5)
    planned = load_run(db).outcome.planned_seconds
    assert planned == pytest.approx(2 * 8 / 10, rel=0.1)  # of two stages, cut at 8 tokens; 2 are expected


def test_a_search_ends_where_nothing_is_within_the_budget_by_what_trials_took(
    pipeline: Path, tmp_path: Path
) -> None:
    """Planned lengths leave room for a few samples, measured ones for none: it says so and ends."""
    result = search(pipeline, budget=4, trials=6, db=tmp_path / "run.duckdb", policy="fixed")
    assert result.outcome.stopped_because is not None
    assert (
        "by the lengths that trials had, a budget covers at least the cheapest"
        in result.outcome.stopped_because
    )
    assert "which is over the budget of 4 on search and test" in result.certificate


def test_defaults_that_turn_out_over_the_budget_are_told_and_count_for_no_area(tmp_path: Path) -> None:
    """A default planned within the budget takes far more: the certificate says so; no area is negative."""
    with ScriptedServer(answer=lambda request, i: "none" + " blue" * 7) as server:
        path = write_pipeline(tmp_path, server.base_url)
        result = search(path, budget=24, trials=6, db=tmp_path / "run.duckdb", policy="fixed")
    assert result.best is not None and result.baseline is not None
    assert any(trial.budget_units > 24 for trial in result.trials)
    cheap = replace(result.trials[0], budget_units=-1.0, score=0.7)
    dear = replace(result.trials[0], budget_units=109.0, score=1.0)
    assert hypervolume([cheap, dear], 24) == pytest.approx(0.7)
    assert result.best.allocation != result.baseline.allocation
    assert "over the budget of 24: no default tried is within it." in result.certificate


def test_what_costs_more_than_the_budget_does_not_win(pipeline: Path, tmp_path: Path) -> None:
    """A trial is out once the whole interval of its mean cost is above the budget, unless all are."""
    result = search(pipeline, budget=400, trials=4, db=tmp_path / "run.duckdb", policy="fixed")
    measure = Measure.of(load_spec(pipeline))
    costs = {trial.number: trial.realised(measure) for trial in result.trials}
    by_low = sorted(result.trials, key=lambda trial: costs[trial.number].low)  # type: ignore[union-attr]
    between = costs[by_low[0].number].low + 1e-6  # type: ignore[union-attr]
    assert within_budget(result.trials, measure, between) == [by_low[0]]
    assert within_budget(result.trials, measure, -100.0) == list(result.trials)


def test_prices_stay_where_nothing_is_off(recorded: Path, tmp_path: Path) -> None:
    """Lengths within a tenth of the expected ones change nothing."""
    result = search(recorded, trials=4, db=tmp_path / "run.duckdb", replay=True)
    with Store.read(tmp_path / "run.duckdb") as store:
        assert not [event for event in store.events(result.run_id) if event.kind == REPRICED]


class Author:
    """Adds prompts in its first turn, and tries one of them."""

    name, batch = "author", 2

    def __init__(self, *prompts: NewPrompt) -> None:
        self.prompts = prompts

    async def propose(self, view: SearchView, count: int) -> Turn:
        if view.step > 1:
            return Turn(finished="enough")
        first = view.trials[0].allocation
        choice = replace(first["answer"], prompt=self.prompts[0].name)
        tried = Suggestion(Allocation({**first, "answer": choice}), "Its own prompt.")
        return Turn(prompts=self.prompts, suggestions=(tried,))


CAREFUL = NewPrompt(
    "answer", "careful", "carefully answer {{ question }} with {{ retrieve }}", "It may help."
)


@pytest.fixture
def readable(tmp_path: Path) -> Iterator[Path]:
    """A pipeline that only the large model, or the prompt of the author, gets right."""
    with ScriptedServer(answer=wordy) as server:
        yield write_pipeline(tmp_path, server.base_url)


def test_a_proposer_adds_a_prompt_to_a_stage(readable: Path, tmp_path: Path) -> None:
    """It is stored with who wrote it, is a choice like the others, and the run is loaded and run with it."""
    db, events = tmp_path / "run.duckdb", list[SearchEvent]()
    result = search(
        readable,
        budget=400,
        trials=6,
        db=db,
        proposer=Author(CAREFUL),
        on_event=events.append,
        policy="fixed",
    )
    assert any(str(trial.allocation).find("small:careful") > 0 for trial in result.trials)
    with Store.read(db) as store:
        (stored,) = [json.loads(e.detail) for e in store.events(result.run_id) if e.kind == ADDED]
    assert stored["proposer"] == "author" and stored["text"] == CAREFUL.text and stored["step"] == 1
    assert "careful" in load_run(db).spec.stage("answer").prompts
    page = tmp_path / "report.html"
    reported = agenttts("report", db, "--html", page)
    for text in (reported.out, page.read_text()):
        assert "In step 1 author added the prompt careful to answer: It may help." in text
        assert "Priced anew, retrieve small: " in text
    again = search(
        readable, budget=400, trials=6, db=db, proposer=Author(CAREFUL), resume=True, policy="fixed"
    )
    assert [t.allocation for t in again.trials] == [t.allocation for t in result.trials]


@pytest.mark.parametrize(
    ("new", "law"),
    [
        (replace(CAREFUL, name="other", text="{{ nothing }}"), "uses nothing, which example"),
        (
            replace(CAREFUL, name="other", text="{{ answer }}"),
            "uses answer, which the pipeline as given does",
        ),
        (replace(CAREFUL, name="other", text="{% if %}"), "template error"),
        (replace(CAREFUL, name="other", text="{{ question.missing.part }}"), "has no attribute 'missing'"),
        (replace(CAREFUL, name="no name"), "a prompt's name is letters"),
        (replace(CAREFUL, stage="nowhere"), "unknown stage 'nowhere'"),
    ],
)
def test_a_prompt_that_can_not_be_used_is_told_and_left_out(
    new: NewPrompt, law: str, readable: Path, tmp_path: Path
) -> None:
    """The search goes on without it."""
    events = list[SearchEvent]()
    search(
        readable,
        budget=400,
        trials=4,
        db=tmp_path / "run.duckdb",
        proposer=Author(CAREFUL, new),
        on_event=events.append,
        policy="fixed",
    )
    notes = [e.message for e in events if isinstance(e, Note) and "is left out" in e.message]
    assert len(notes) == 1 and law in notes[0]


def test_prompts_have_different_names(readable: Path) -> None:
    """A second one of a name is refused, since allocations go by names."""
    once = with_prompt(load_spec(readable), CAREFUL)
    with pytest.raises(SpecError, match="prompts have different names, got 'careful' again"):
        with_prompt(once, CAREFUL)
    assert [str(option) for option in once.stage("answer").options] == [
        "small",
        "large",
        "small:careful",
        "large:careful",
    ]
