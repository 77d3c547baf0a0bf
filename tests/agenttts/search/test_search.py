"""The search from seed to certificate: what it decides, what it keeps, where it stops."""

from __future__ import annotations

import inspect
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agenttts import Decision, Patience, Pending, SearchLimits, UserError, async_search, load_run, search
from agenttts.errors import SpaceError
from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.report import sentences as words
from agenttts.report.data import read_report
from agenttts.report.terminal import print_report
from agenttts.results.ranking import SEARCHING
from agenttts.results.trials import TrialResult
from agenttts.search.events import PhaseStarted, SearchEvent, TrialFinished, TrialStarted
from agenttts.settings import SearchSettings
from agenttts.space.space import SearchSpace
from agenttts.space.units import planned_seconds
from datastore import Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.spec.files import load_spec
from pipelines.spec.models import Speed
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.variants import BuiltinMetric, PythonMetric
from tests.agenttts.small_specs import small_spec, write_examples
from tests.servers import ScriptedServer


def pair(retrieve: str, n_retrieve: int, answer: str, n_answer: int) -> Allocation:
    return Allocation(
        {"retrieve": StageChoice(retrieve, n_retrieve), "answer": StageChoice(answer, n_answer)}
    )


def live(tmp_path: Path, server: ScriptedServer, **changes: Any) -> PipelineSpec:
    """Two stages on the scripted server, with six search and four test examples."""
    write_examples(tmp_path)
    return small_spec(base_url=server.base_url, **changes).model_copy(update={"root": tmp_path})


class Scripted:
    """A proposer that says what it is told to, and keeps what it was shown."""

    name = "scripted"
    batch = 2

    def __init__(self, *turns: list[Allocation]) -> None:
        self.turns = list(turns)
        self.views: list[SearchView] = []

    async def propose(self, view: SearchView, count: int) -> Turn:
        self.views.append(view)
        if not self.turns:
            return Turn(finished="nothing more to say")
        return Turn(tuple(Suggestion(a, f"as told, step {view.step}") for a in self.turns.pop(0)[:count]))


def test_a_search_ends_with_a_confirmed_winner(recorded: Path, tmp_path: Path) -> None:
    """The best of the trials is scored once on the test split, beside the best default; equals are listed."""
    events: list[SearchEvent] = []
    result = search(recorded, trials=12, db=tmp_path / "r.duckdb", replay=True, on_event=events.append)
    spec = load_spec(recorded)
    space = SearchSpace(spec, spec.budget.units)
    assert result.status == "complete" and len(result.trials) > 5
    began = [event for event in events if isinstance(event, TrialStarted) and event.purpose in SEARCHING]
    counted = [event.n_examples - event.n_before for event in began if event.proposer != "confirmation"]
    assert sum(counted) <= 12 * 60 and len(began) - len(counted) <= 2
    assert len({trial.allocation for trial in result.trials}) == len(result.trials)
    assert all(trial.allocation in space for trial in result.trials)
    seeds = sorted(dict.fromkeys([*space.defaults(), *space.mixed()]), key=space.units)
    assert [t.allocation for t in result.trials[: len(seeds)]] == seeds
    best, baseline = result.best, result.baseline
    assert best is not None and baseline is not None
    highest = max(
        trial.score or 0.0
        for trial in (*result.trials, *result.confirmation)
        if trial.split == "search" and trial.status == "complete"
    )
    winner = result.best_trial()
    assert winner is not None and winner.score == highest > best.search_score
    assert best.search_ci is not None and best.search_ci[0] <= best.search_score <= best.search_ci[1]
    assert baseline.allocation in space.defaults()
    assert best.test_ci is not None and best.test_ci[0] <= (best.test_score or 0.0) <= best.test_ci[1]
    outcome = result.outcome
    assert outcome.difference is not None and outcome.difference_ci is not None
    assert outcome.difference_ci[0] <= outcome.difference <= outcome.difference_ci[1]
    units = [finalist.budget_units for finalist in result.equivalent]
    assert units == sorted(units) and best.allocation in [f.allocation for f in result.equivalent]
    assert result.cheapest() == result.equivalent[0]
    near = result.cheapest(within=0.02)
    assert isinstance(near, TrialResult) and (near.score or 0.0) >= highest - 0.02 - 1e-9
    assert near.budget_units <= best.budget_units
    assert 0 < result.hypervolume <= highest
    front = [(trial.budget_units, trial.score) for trial in outcome.frontier]
    assert front == sorted(front) and front[-1][1] == highest
    unrun = sum((t.flops_per_query or 0.0) * (60 - t.n_run) for t in result.trials if t.status == "partial")
    assert (result.cost.flops_without_bank or 0) > 0
    assert result.cost.flops_spared_by_stops == pytest.approx(unrun) and unrun > 0
    assert (result.cost.flops_spared_by_shared_prompts or 0) > 0
    assert str(best.allocation) in result.certificate
    assert result.cost.calls == 0 and result.cost.samples_reused > 0
    phases = [event.phase for event in events if isinstance(event, PhaseStarted)]
    assert phases[0] == "seed" and phases[-3:] == ["confirm", "adapt", "finish"]
    assert {"reflect", "propose", "validate", "evaluate"} <= set(phases)
    with Store.read(tmp_path / "r.duckdb") as store:
        tests = [trial for trial in store.trials(result.run_id) if trial.split == "test"]
        fixed = {Allocation.from_json(trial.allocation) for trial in tests if trial.policy is None}
        adaptive = result.adaptive
        rivals = {best.allocation, baseline.allocation} | ({adaptive.choice.fixed} if adaptive else set())
        assert fixed == rivals - {None}
        assert len(tests) == len(fixed) + (adaptive is not None)
        assert all(proposal.reason for proposal in store.proposals(result.run_id))
        numbers = {trial.number for trial in result.trials}
        insights = store.insights(result.run_id)
        assert insights and all(set(i.trials) <= numbers and i.trials for i in insights)


def test_defaults_leave_trials_to_the_proposer(tmp_path: Path, server: ScriptedServer) -> None:
    """Of many configurations of each model only some are defaults, so that half of the trials are left."""
    variants = {f"v{n}": {"sampling": {"max_tokens": 8 + n}} for n in range(1, 8)}
    spec = live(tmp_path, server, model={"variants": variants})
    for trials, first in ((12, ["v1", "v4", "v7"]), (3, ["v1"]), (None, list(variants))):
        db = tmp_path / f"{trials}.duckdb"
        run = search(spec, trials=trials, proposer=Scripted(), db=db, preflight=False)
        names = [f"{model}/{variant}" for model in ("small", "large") for variant in first]
        assert [trial.allocation["answer"].model for trial in run.trials] == names


def test_no_proposer_sees_the_test_split(recorded: Path, tmp_path: Path) -> None:
    """Views hold trials on search examples alone, with the budget and the trials that are left."""
    proposer = Scripted([pair("small", 3, "medium", 2), pair("medium", 2, "small", 3)])
    result = search(recorded, trials=6, proposer=proposer, db=tmp_path / "r.duckdb", replay=True)
    assert result.outcome.stopped_because == "nothing more to say"
    for view in proposer.views:
        assert all(trial.split == "search" for trial in view.trials)
        assert all(name.startswith("search-") for trial in view.trials for name in trial.scores)
    assert len(proposer.views) == 2


def test_proposals_that_break_a_rule_are_replaced_and_recorded(recorded: Path, tmp_path: Path) -> None:
    """Over budget, off the space, tried before: each is kept as invalid, and the rules stand in for it."""
    default = SearchSpace(load_spec(recorded), 60.0).defaults()[0]
    bad = [pair("large", 8, "large", 8), default]
    result = search(recorded, trials=8, proposer=Scripted(bad), db=tmp_path / "r.duckdb", replay=True)
    with Store.read(tmp_path / "r.duckdb") as store:
        proposals = [p for p in store.proposals(result.run_id) if p.step == 1]
    invalid = [p for p in proposals if p.status == "invalid"]
    assert [p.proposer for p in invalid] == ["scripted", "scripted"]
    assert "over budget" in (invalid[0].problem or "") and "tried" in (invalid[1].problem or "")
    stand_ins = [p for p in proposals if p.status == "accepted"]
    assert len(stand_ins) == 2 and all(p.proposer == "insights" for p in stand_ins)
    assert {t.allocation for t in result.trials} >= {Allocation.from_json(p.allocation) for p in stand_ins}


def test_a_small_space_is_searched_to_its_end(recorded: Path, tmp_path: Path) -> None:
    """When every allocation was tried the search says so and confirms."""
    space = SearchSpace(load_spec(recorded), 5.0)
    assert space.size < 12
    result = search(recorded, budget=5.0, trials=50, db=tmp_path / "r.duckdb", replay=True)
    assert len(result.trials) <= space.size and result.status == "complete"
    assert result.outcome.stopped_because and result.best is not None


def test_a_person_approves_edits_and_refuses(recorded: Path, tmp_path: Path) -> None:
    """Nothing runs before it is approved; an edit that can't run is asked again; a refusal is kept."""
    wanted = pair("small", 5, "medium", 3)
    asked: list[list[Pending]] = []

    def approve(proposals: list[Pending]) -> list[Decision]:
        asked.append(proposals)
        if len(asked) == 1:
            return [Decision(action="approve") for _ in proposals]
        if len(asked) == 2:
            return [Decision(action="edit", allocation=pair("large", 8, "large", 8))]
        if len(asked) == 3:
            assert proposals[0].problem is not None and "over budget" in proposals[0].problem
            return [Decision(action="edit", allocation=wanted, note="try this")]
        return [Decision(action="refuse", note="not that one") for _ in proposals]

    db = tmp_path / "r.duckdb"
    limits = SearchLimits(trials=6)
    result = search(recorded, limits=limits, db=db, replay=True, approve=approve, proposer=_Ends(3))
    tried = [trial.allocation for trial in result.trials]
    assert wanted in tried
    with Store.read(db) as store:
        by_status = {p.status: p for p in store.proposals(result.run_id)}
    assert "try this" in (by_status["edited"].problem or "")
    assert by_status["refused"].problem == "not that one"
    assert Allocation.from_json(by_status["refused"].allocation) not in tried


class _Ends(Scripted):
    """The rules for some steps, then the end."""

    name = "insights"
    batch = 1

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    async def propose(self, view: SearchView, count: int) -> Turn:
        from agenttts.proposers import InsightsProposer

        if view.step >= self.steps:
            return Turn(finished="enough")
        return InsightsProposer().decide(view, 1)


def test_a_resumed_search_keeps_what_a_person_decided_on_the_defaults(recorded: Path, tmp_path: Path) -> None:
    """Refused and edited defaults stay so after a stop, and nobody is asked again about them."""
    wanted = pair("small", 5, "medium", 3)
    questions: list[list[Pending]] = []

    def approve(proposals: list[Pending]) -> list[Decision]:
        questions.append(proposals)
        first = [Decision(action="refuse"), Decision(action="edit", allocation=wanted)]
        return first + [Decision(action="approve")] * (len(proposals) - 2)

    def stop(event: SearchEvent) -> None:
        if isinstance(event, TrialFinished):
            raise KeyboardInterrupt

    settings: Any = {"db": tmp_path / "r.duckdb", "replay": True, "approve": approve, "proposer": _Ends(1)}
    with pytest.raises(KeyboardInterrupt):
        search(recorded, **settings, on_event=stop)
    result = search(recorded, **settings, resume=True)
    assert len(questions) == 1
    tried = [trial.allocation for trial in result.trials]
    assert tried == [wanted, *(pending.allocation for pending in questions[0][2:])]


def test_a_person_who_leaves_stops_the_search(recorded: Path, tmp_path: Path) -> None:
    """Ctrl-C at a question marks the run as stopped, and it can be resumed."""

    def leave(proposals: list[Pending]) -> list[Decision]:
        raise KeyboardInterrupt

    db = tmp_path / "r.duckdb"
    with pytest.raises(KeyboardInterrupt):
        search(recorded, trials=4, db=db, replay=True, approve=leave)
    with Store.read(db) as store:
        assert store.run().status == "stopped" and store.trials(store.run().run_id) == []
    assert search(recorded, trials=4, db=db, replay=True, resume=True).status == "complete"


def test_the_signature_of_search_names_every_parameter() -> None:
    """Both functions take the same parameters with types and defaults, and `Args:` explains each of them."""
    signature = inspect.signature(search)
    assert signature == inspect.signature(async_search) and len(signature.parameters) > 20
    assert signature.parameters["trials"].default == 20
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    arguments = (search.__doc__ or "").partition("Args:")[2].partition("Returns:")[0]
    assert re.findall(r"^        (\w+): ", arguments, re.MULTILINE) == list(signature.parameters)
    with pytest.raises(TypeError, match="unexpected keyword argument 'budgets'"):
        search("pipeline.yaml", budgets=1)  # type: ignore[call-arg]


def test_settings_are_stored_without_loss() -> None:
    """What a run keeps gives the settings back; what decides otherwise is named, what may change is not."""
    limits = SearchLimits(trials=5, minutes=2.0)
    settings = SearchSettings(budget_units=60.0, proposer="solve", fresh=0.2, limits=limits)
    assert SearchSettings.from_json_dict(json.loads(json.dumps(settings.to_json_dict()))) == settings
    assert settings == replace(settings, limits=SearchLimits(), approve=True, max_in_flight=1)
    assert replace(settings, seed=3).differences(settings) == ["seed was 0, now 3"]
    with pytest.raises(UserError, match="together with the frontier"):
        replace(settings, objective="cost", min_quality=0.5, frontier=True)


def test_a_limit_on_a_query_is_refused_where_nothing_enforces_it() -> None:
    """It needs a policy to limit and a finite amount; an objective other than quality alone needs nothing."""
    settings = SearchSettings(budget_units=60.0, proposer="solve")
    without: list[dict[str, Any]] = [{"policy": "fixed"}, {"objective": "cost", "min_quality": 0.5}]
    for changes in without:
        assert not replace(settings, **changes).seeks_policy
        with pytest.raises(UserError, match="max_units_per_query limits a policy's dearest query"):
            replace(settings, max_units_per_query=5.0, **changes)
    for amount in (math.inf, math.nan, 0.0):
        with pytest.raises(UserError, match="max_units_per_query is a finite number above 0, got"):
            replace(settings, max_units_per_query=amount)


def test_a_cap_on_tokens_holds_whatever_is_in_flight(tmp_path: Path, server: ScriptedServer) -> None:
    """Spending is reserved before dispatch: the server never gives more tokens than the cap."""
    spec = live(tmp_path, server)
    limits = SearchLimits(trials=20, tokens=1200)
    result = search(spec, limits=limits, proposer="insights", db=tmp_path / "r.duckdb", preflight=False)
    paid = result.cost.prompt_tokens + result.cost.generated_tokens
    assert 0 < paid <= 1200
    assert "tokens" in (result.outcome.stopped_because or "")


def test_a_limit_without_prices_is_refused_before_a_run_begins(
    tmp_path: Path, server: ScriptedServer
) -> None:
    """A cap in dollars needs prices; an unknown proposer has no name to run under: no run is left behind."""
    spec = live(tmp_path, server)
    for changes in ({"limits": SearchLimits(usd=1.0)}, {"proposer": "oracle"}):
        with pytest.raises(UserError):
            search(spec, db=tmp_path / "r.duckdb", **changes)
    assert not server.samples
    if (tmp_path / "r.duckdb").exists():
        with Store.read(tmp_path / "r.duckdb") as store:
            assert store.runs() == []


FAULTS = ["429", "500", "503", "close", "garbage", "empty", "short", "truncated", "cut_json"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_changes_nothing(fault: str, tmp_path: Path, server: ScriptedServer) -> None:
    """Each tenth request fails once: it is tried again, and no example is missing."""
    spec = live(tmp_path, server)
    server.fault = _each(10, fault, lambda: len(server.arrived))
    result = search(spec, trials=3, db=tmp_path / "r.duckdb", preflight=False)
    assert result.status == "complete"
    assert all(trial.n_missing == 0 and trial.score is not None for trial in result.trials)


def _each(nth: int, fault: str, count: Callable[[], int]) -> Callable[[object], str | None]:
    return lambda request: fault if count() % nth == 0 else None


def test_a_lasting_fault_is_a_missing_value_and_never_a_zero(tmp_path: Path, server: ScriptedServer) -> None:
    """One example can't be answered: it is missing from every mean, with a reason, and in the report."""
    spec = live(tmp_path, server)
    server.answer = lambda request, index: "red"
    server.fault = lambda request: "empty" if "search 3" in request.prompt else None
    patience = Patience(retry_s=0.5)
    result = search(spec, trials=3, db=tmp_path / "r.duckdb", preflight=False, patience=patience)
    assert all(trial.score == 1.0 and trial.n_missing == 1 and trial.n_scored == 5 for trial in result.trials)
    with Store.read(tmp_path / "r.duckdb") as store:
        (missing,) = [
            score
            for score in store.scores(store.trials(result.run_id)[0].trial_id).values()
            if score.score is None
        ]
    assert missing.status == "error" and missing.reason
    assert "missing" in result.certificate


def test_a_loaded_run_is_the_result_and_runs(recorded: Path, tmp_path: Path) -> None:
    """load_run gives the same figures, a frame of the trials, a frontier, and answers for new inputs."""
    db = tmp_path / "r.duckdb"
    result = search(recorded, trials=6, db=db, replay=True)
    loaded = load_run(db)
    assert loaded.best == result.best and loaded.to_json_dict() == result.to_json_dict()
    frame = loaded.to_df()
    n_trials = len(result.trials) + len(result.confirmation)
    assert list(frame["number"]) == list(range(n_trials)) and "retrieve.model" in frame
    assert set(frame[frame["purpose"] == "test"]["split"]) == {"test"}
    scores = [trial.score for trial in loaded.frontier]
    assert scores == sorted(scores, key=lambda score: score or 0.0) and scores
    json.dumps(loaded.to_json_dict(), allow_nan=False)
    assert result.report(tmp_path / "r.html").stat().st_size > 100_000


def test_the_frontier_is_sought_where_asked_for(recorded: Path, tmp_path: Path) -> None:
    """With `frontier` the area below the front is larger than without, and a resumed run agrees on it."""
    plain = search(recorded, trials=10, db=tmp_path / "plain.duckdb", replay=True)
    front = search(recorded, trials=10, frontier=True, db=tmp_path / "front.duckdb", replay=True)
    assert front.hypervolume > plain.hypervolume
    scores = [trial.score or 0.0 for trial in front.frontier]
    units = [trial.budget_units for trial in front.frontier]
    assert scores == sorted(scores) and units == sorted(units) and len(front.frontier) > 3
    again = search(recorded, trials=10, frontier=True, db=tmp_path / "front.duckdb", replay=True, resume=True)
    assert again.run_id == front.run_id
    with pytest.raises(UserError, match="frontier was True, now False"):
        search(recorded, trials=10, db=tmp_path / "front.duckdb", replay=True, resume=True)
    with pytest.raises(UserError, match="the frontier is sought by solve and agent only, got 'tpe'"):
        search(recorded, frontier=True, proposer="tpe", db=tmp_path / "other.duckdb", replay=True)
    assert not (tmp_path / "other.duckdb").exists()


def test_the_least_cost_is_sought_where_a_quality_is_named(recorded: Path, tmp_path: Path) -> None:
    """The winner is shown to reach it, and cheaper than what seeking quality finds; certificate and JSON say
    what was sought and whether the test split meets it, also when nothing reaches it."""
    plain = search(recorded, trials=12, db=tmp_path / "plain.duckdb", replay=True)
    assert plain.best is not None
    least = 0.65
    cheap = search(
        recorded, trials=12, objective="cost", min_quality=least, db=tmp_path / "cheap.duckdb", replay=True
    )
    required = cheap.outcome.requirement
    assert cheap.best is not None and required is not None and required.shown and required.bound >= least
    assert cheap.best.budget_units < plain.best.budget_units
    assert required.met == ((cheap.best.test_score or 0.0) >= least)
    assert "the cheapest that is shown to reach 0.65" in cheap.certificate
    assert cheap.outcome.objective == "cost" and cheap.to_json_dict()["requirement"] is not None
    short = search(
        recorded, trials=6, objective="cost", min_quality=1.0, db=tmp_path / "short.duckdb", replay=True
    )
    assert "the most promising, though not shown to reach 1," in short.certificate
    assert "The required 1 is not met there." in short.certificate
    with Store.read(tmp_path / "short.duckdb") as store:
        assert words.headline(read_report(store, solve=False)).startswith(
            "A score of 1 is NOT met on the test"
        )
    for wrong, said in {0.0: "above 0 and at most 1, got 0", 1.5: "got 1.5"}.items():
        with pytest.raises(UserError, match=said):
            search(recorded, objective="cost", min_quality=wrong, db=tmp_path / "no.duckdb", replay=True)


def test_the_least_latency_is_sought_at_a_quality(recorded: Path, tmp_path: Path) -> None:
    """With the models' speeds the winner is the fastest that reaches the score, slow as it may be to cost."""
    spec = load_spec(recorded)
    with pytest.raises(SpaceError, match=r"models\.small\.speed"):
        search(spec, objective="latency", min_quality=0.5, db=tmp_path / "no.duckdb", replay=True)
    # the largest model is on the fastest server
    rates = {"small": 100.0, "medium": 200.0, "large": 400.0}
    models = {
        name: model.model_copy(
            update={"speed": Speed(prompt_tokens_per_second=1e6, generated_tokens_per_second=rates[name])}
        )
        for name, model in spec.models.items()
    }
    timed = spec.model_copy(update={"models": models})
    found = search(
        timed, trials=12, objective="latency", min_quality=0.3, db=tmp_path / "fast.duckdb", replay=True
    )
    required = found.outcome.requirement
    assert found.best is not None and required is not None and required.shown
    sure = [t for t in (*found.trials, *found.confirmation) if (t.score or 0.0) >= 0.7]
    assert planned_seconds(timed, found.best.allocation) <= min(
        planned_seconds(timed, t.allocation) for t in sure
    )
    assert found.outcome.planned_seconds == planned_seconds(timed, found.best.allocation)
    assert "the fastest that is shown to reach 0.3" in found.certificate
    assert "large" in {choice.model for choice in found.best.allocation.values()}


def test_insights_of_an_earlier_run_are_inherited_and_tested_again(recorded: Path, tmp_path: Path) -> None:
    """The second run is told what the first found supported, as open; where it tries the same two
    allocations, it is tested again. A run of another spec inherits nothing."""
    db = tmp_path / "two.duckdb"
    settings: Any = {"trials": 16, "proposer": "insights", "db": db, "replay": True}
    first = search(recorded, clock=iter(range(10**6)).__next__, **settings)
    supported = {i.text for i in first.insights if i.verdict == "supported"}
    assert supported and not any(i.proposer.startswith("inherited") for i in first.insights)
    second = search(recorded, clock=iter(range(10**7, 10**8)).__next__, **settings)
    told = [i for i in second.insights if i.step == 0]
    assert {i.text.partition(": ")[2] for i in told} == supported
    assert all(i.verdict == "open" and i.proposer == f"inherited from {first.run_id}" for i in told)
    again = [i for i in second.insights if i.step > 0 and i.proposer.startswith("inherited")]
    assert {i.text for i in again} == supported  # the same decisions, so that all are met again
    assert len(again) == len(supported) and all(i.verdict == "supported" and i.trials for i in again)
    with Store.read(db) as store:
        reported = read_report(store, second.run_id)
    texts = [i.text for i in reported.insights if i.proposer == f"inherited from {first.run_id}"]
    assert texts and set(texts) <= supported, "with what became of it"
    assert len({i.text for i in reported.insights}) == len(reported.insights) <= 8, "each once"
    page = io.StringIO()
    print_report(reported, Console(file=page, width=200))
    assert f"inherited from {first.run_id}" in page.getvalue()
    spec = load_spec(recorded)
    other = spec.model_copy(update={"name": "other"})
    third = search(other, clock=iter(range(10**8, 10**9)).__next__, **settings)
    assert not any(i.proposer.startswith("inherited") for i in third.insights)


def test_further_metrics_are_told_and_steer_nothing(recorded: Path, tmp_path: Path) -> None:
    """They are means over the test outputs of winner and best default, with intervals; decisions are the same
    with and without them."""
    spec = load_spec(recorded)
    metrics: dict[str, Any] = {
        "f1": BuiltinMetric(kind="token_f1", label="gold"),
        "length": PythonMetric(python=said_little),
        "absent": BuiltinMetric(kind="exact_match", label="nowhere"),
        "broken": PythonMetric(python=raises),
    }
    more = spec.model_copy(update={"metrics": {k: v for k, v in metrics.items() if k != "absent"}})
    plain = search(spec, trials=3, db=tmp_path / "plain.duckdb", replay=True)
    found = search(more, trials=3, db=tmp_path / "more.duckdb", replay=True)
    assert [t.allocation for t in found.trials] == [t.allocation for t in plain.trials]
    assert found.best is not None and plain.best is not None
    told = found.best.test_metrics
    assert set(told) == {"f1", "length"} and plain.best.test_metrics == {}
    assert told["f1"].mean == pytest.approx(found.best.test_score)  # one word each
    assert told["f1"].ci[0] < told["f1"].mean < told["f1"].ci[1] and told["f1"].n == 80
    assert "Further metrics there: f1 0." in found.certificate
    with pytest.raises(UserError, match="'absent' names 'nowhere', which no row has"):
        search(spec.model_copy(update={"metrics": metrics}), db=tmp_path / "no.duckdb", replay=True)


def said_little(output: Any, example: Any) -> float:
    return float(len(str(output)) < 5)


def raises(output: Any, example: Any) -> float:
    raise RuntimeError("never")
