"""Trials on a part of the examples: how they grow, what they count, what is claimed of them, and resuming."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agenttts import Decision, Pending, SearchLimits, load_run, search
from agenttts.cli.approve import at_terminal
from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.replay.bank import BankOutcomes
from agenttts.report.data import read_report
from agenttts.report.html import to_html
from agenttts.report.terminal import print_report
from agenttts.results.ranking import leader, unfinished
from agenttts.results.trials import TrialResult
from agenttts.search.events import SearchEvent, TrialFinished, TrialStarted
from agenttts.search.progress import SearchProgress
from benchmarks.kill_resume import answer, stored
from datastore import Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.dataset.splits import load_examples, seeded_order
from pipelines.servers.patience import Patience
from pipelines.spec.files import load_spec
from tests.agenttts.growing import grown
from tests.agenttts.made_trials import made_trial
from tests.agenttts.small_specs import write_pipeline
from tests.faults import ROOT
from tests.servers import Request, ScriptedServer

N_EXAMPLES = 60  # of the recorded pipeline


def pair(retrieve: str, n_retrieve: int, answer: str, n_answer: int) -> Allocation:
    return Allocation(
        {"retrieve": StageChoice(retrieve, n_retrieve), "answer": StageChoice(answer, n_answer)}
    )


GOOD, FAIR, POOR = pair("medium", 3, "medium", 3), pair("medium", 3, "small", 3), pair("small", 1, "small", 1)
LARGE = pair("large", 1, "large", 1)


class Parts:
    """A proposer that suggests what it is told to: an allocation, and on how many examples."""

    name = "parts"
    batch = 4

    def __init__(
        self, *turns: Sequence[tuple[Allocation, int | None]], seeds: Sequence[tuple[Allocation, int]] = ()
    ) -> None:
        self.turns = list(turns)
        self.views: list[SearchView] = []
        self._seeds = seeds

    def seeds(self, view: SearchView) -> Sequence[Suggestion]:
        return [Suggestion(a, "a seed", "default", n) for a, n in self._seeds]

    async def propose(self, view: SearchView, count: int) -> Turn:
        self.views.append(view)
        if view.step > len(self.turns):
            return Turn(finished="nothing more to say")
        return Turn(tuple(Suggestion(a, "to see", None, n) for a, n in self.turns[view.step - 1]))


def played(recorded: Path, db: Path, proposer: Parts, trials: int = 10, **options: Any) -> Any:
    """A search on the recorded pipeline's bank."""
    options = {"policy": "fixed", "replay": True, **options}
    return search(recorded, trials=trials, proposer=proposer, db=db, **options)


def of(trials: Sequence[TrialResult], allocation: Allocation) -> TrialResult:
    (trial,) = (trial for trial in trials if trial.allocation == allocation)
    return trial


def test_a_trial_that_grows_is_the_trial_in_one_go(recorded: Path, tmp_path: Path) -> None:
    """It keeps its number and its row; scores, tokens and FLOPs are those of a whole trial, and each part is
    counted once."""
    proposer = Parts([(FAIR, 10)], [(POOR, 10), (FAIR, 25)], [(FAIR, None)], seeds=[(GOOD, N_EXAMPLES)])
    parts = played(recorded, tmp_path / "parts.duckdb", proposer)
    whole = played(recorded, tmp_path / "whole.duckdb", Parts([(FAIR, None)], seeds=[(GOOD, N_EXAMPLES)]))
    assert [trial.allocation for trial in parts.trials] == [GOOD, FAIR, POOR]
    assert [trial.status for trial in parts.trials] == ["complete", "complete", "partial"]
    grown_trial, in_one_go = of(parts.trials, FAIR), of(whole.trials, FAIR)
    assert grown_trial.number == in_one_go.number == 1
    timeless = dict(calls=0, costs={}, scores={})
    assert replace(grown_trial, **timeless) == replace(in_one_go, **timeless)  # type: ignore[arg-type]
    assert dict(grown_trial.scores) == dict(in_one_go.scores)
    assert dict(grown_trial.costs) == dict(in_one_go.costs)
    ids = [example.id for example in load_examples(load_spec(recorded), "search")]
    order = seeded_order(ids, str, 0, "trials")
    seen = [of(view.trials, FAIR) for view in proposer.views[1:]]
    assert [set(trial.scores) for trial in seen] == [set(order[:n]) for n in (10, 25, 60)]
    assert [trial.status for trial in seen] == ["partial", "partial", "complete"]
    assert seen[0].score == pytest.approx(sum(in_one_go.scores[i] or 0.0 for i in order[:10]) / 10)
    assert [view.partial for view in proposer.views[1:3]] == [
        tuple(t for t in v.trials[1:] if t.status == "partial") for v in proposer.views[1:3]
    ]
    assert FAIR not in proposer.views[1].tried and FAIR in proposer.views[3].tried
    with Store.read(tmp_path / "parts.duckdb") as store:
        rows = {row.number: row for row in store.trials(parts.run_id) if row.split == "search"}
        assert sorted(rows) == [0, 1, 2] and rows[1].finished_at is not None
        results = store.sql(
            "SELECT count(*) AS n FROM stage_results JOIN trials USING (trial_id) WHERE split = 'search'"
        )
        assert int(results["n"][0]) == 2 * (60 + 60 + 10), "two stages for each example, once"
        asked = [(p.step, p.n_examples) for p in store.proposals(parts.run_id)]
    assert asked == [(0, None), (1, 10), (2, 10), (2, 25), (3, None)]


async def test_on_the_zoo_a_part_is_a_part_of_the_whole(tmp_path: Path) -> None:
    """Scores of partial trials are those that the bank gives the whole trial; seven allocations cost less
    than two trials."""
    zoo = ROOT / "pipelines/zoo/pipeline.yaml"
    result = await asyncio.to_thread(grown, zoo, tmp_path / "r.duckdb", replay=True)
    spec = load_spec(zoo)
    with Store.open(tmp_path / "known.duckdb") as store:
        store.attach_bank(spec.bank_path or "")
        bank = BankOutcomes(spec, store, load_examples(spec, "search"))
        for trial in result.trials:
            replayed = await bank.replay(trial.allocation)
            assert replayed is not None and trial.scores.items() <= replayed.scores.items()
    assert {trial.n_run for trial in result.trials} <= {6, 14, 180} and len(result.trials) >= 6
    assert sum(trial.n_run for trial in result.trials if trial.status == "partial") < 240
    assert result.best is not None and result.best.test_score is not None


def test_the_limit_on_trials_counts_examples(recorded: Path, tmp_path: Path) -> None:
    """Three trials are 180 examples: many allocations on parts of them, and never one example more."""
    others = [pair("small", n, "medium", m) for n in (1, 2, 3) for m in (1, 2)]
    proposer = Parts([(a, 15) for a in others], [(a, None) for a in others], seeds=[(GOOD, N_EXAMPLES)])
    events: list[SearchEvent] = []
    result = played(recorded, tmp_path / "r.duckdb", proposer, trials=3, on_event=events.append)
    assert [view.cells_left for view in proposer.views] == [120, 30]
    assert [view.trials_left for view in proposer.views] == [2, 1]
    began = [e for e in events if isinstance(e, TrialStarted) and e.proposer in ("default", "parts")]
    assert [(e.n_before, e.n_examples) for e in began] == [(0, 60), *[(0, 15)] * 6, (15, 45)]
    assert sum(e.n_examples - e.n_before for e in began) == 180
    assert {trial.allocation for trial in result.trials} == {GOOD, *others}
    with Store.read(result.db) as store:
        asked = [p.n_examples for p in store.proposals(result.run_id) if p.step == 2]
    assert asked == [45], "the one that there is room for, on as many examples as there is room for"
    assert result.outcome.stopped_because == "limit on trials reached: 3 of 3"


def test_only_complete_trials_win_and_the_best_looking_are_completed(recorded: Path, tmp_path: Path) -> None:
    """A partial trial is in no ranking, whatever its score; the confirmation completes the best default and
    the trial that looks best, in their rows, and leaves the others as they are."""
    spec = load_spec(recorded)
    proposer = Parts([(FAIR, 12), (pair("small", 2, "small", 2), 12)], seeds=[])
    proposer._seeds = [(a, 12) for a in _defaults(spec)]
    events: list[SearchEvent] = []
    result = played(recorded, tmp_path / "r.duckdb", proposer, on_event=events.append)
    last = proposer.views[-1].trials
    assert {trial.status for trial in last} == {"partial"}
    first = leader([t for t in last if t.purpose == "baseline"])
    assert first is not None and unfinished(last)[0] == first
    assert of(result.trials, first.allocation).status == "complete"
    grew = [e for e in events if isinstance(e, TrialStarted) and e.n_before]
    assert (grew[0].number, grew[0].n_before, grew[0].n_examples) == (first.number, 12, 60)
    assert len(grew) <= 2 and all(e.proposer == "confirmation" for e in grew)
    complete = [trial for trial in result.trials if trial.status == "complete"]
    assert len(complete) == len(grew)
    assert result.best is not None and result.baseline is not None
    assert result.best.trial in [trial.number for trial in complete]
    assert {trial.number for trial in result.frontier} <= {trial.number for trial in complete}
    assert f"{len(last) - len(grew)} of them on a part of the examples" in result.certificate


def _defaults(spec: Any) -> list[Allocation]:
    from agenttts.space.space import SearchSpace

    return SearchSpace(spec, spec.budget.units).defaults()


def test_a_leader_is_told_by_paired_differences() -> None:
    """An easy first part makes no trial look better than a complete one that is as good on it."""
    ids = [f"e{i}" for i in range(20)]
    best = _trial(0, "complete", {i: float(n < 12) for n, i in enumerate(ids)})
    even = _trial(1, "partial", dict.fromkeys(ids[:8], 1.0))
    worse = _trial(2, "partial", {i: float(n < 7) for n, i in enumerate(ids[:8])})
    better = _trial(3, "partial", dict.fromkeys(ids[:14], 1.0))
    assert leader([best, even, worse]) == best and unfinished([best, even, worse]) == []
    assert leader([best, even, worse, better]) == better
    assert leader([even, worse]) == even and leader([]) is None
    default = replace(worse, purpose="baseline")
    assert unfinished([even, default]) == [default, even]


def _trial(number: int, status: Any, scores: dict[str, float]) -> TrialResult:
    return made_trial(number, pair("small", number + 1, "small", 1), scores, status=status)


def test_a_trial_grows_to_more_or_not_at_all(recorded: Path, tmp_path: Path) -> None:
    """As many examples as before, none at all, and the same allocation twice in a turn are invalid."""
    proposer = Parts(
        [(FAIR, 20)], [(FAIR, 20), (POOR, 0), (GOOD, 9)], [(POOR, 5), (POOR, 9)], seeds=[(GOOD, 60)]
    )
    result = played(recorded, tmp_path / "r.duckdb", proposer)
    with Store.read(tmp_path / "r.duckdb") as store:
        problems = [p.problem or "" for p in store.proposals(result.run_id) if p.status == "invalid"]
    assert "n_examples is above the 20 that its trial has, of 60, got 20" in problems[0]
    assert "n_examples is above the 0 that its trial has, of 60, got 0" in problems[1]
    assert problems[2:] == ["tried before, or refused"] * 2


def test_a_person_sees_on_how_many_examples(recorded: Path, tmp_path: Path) -> None:
    """Each proposal says how many it is to be scored on, and how many of them are known."""
    pendings: list[Pending] = []

    def approve(proposals: list[Pending]) -> list[Decision]:
        pendings.extend(proposals)
        return [Decision(action="approve") for _ in proposals]

    proposer = Parts([(FAIR, 20)], [(FAIR, None)], seeds=[(GOOD, 60)])
    played(recorded, tmp_path / "r.duckdb", proposer, approve=approve)
    texts = [pending.examples_text for pending in pendings]
    assert texts == ["on 60 of 60 examples", "on 20 of 60 examples", "on 60 of 60 examples, 20 of them known"]
    page = io.StringIO()
    console = Console(file=page, width=200)
    at_terminal(console, SearchProgress(console), read=lambda prompt: "a")(pendings[1:])
    assert "on 20 of 60 examples" in page.getvalue() and "20 of them known" in page.getvalue()


def test_a_partial_trial_is_shown_as_one(recorded: Path, tmp_path: Path) -> None:
    """Terminal, page, notebook and progress give its score with its number of examples, and no interval."""
    page, console = io.StringIO(), Console(file=io.StringIO(), width=200)
    progress = SearchProgress(Console(file=page, width=200))
    proposer = Parts(
        [(FAIR, 20), (POOR, 20), (pair("small", 1, "small", 2), 20)], [(FAIR, 40)], seeds=[(GOOD, 60)]
    )
    result = played(recorded, tmp_path / "r.duckdb", proposer, on_event=progress)
    partial = [trial for trial in result.trials if trial.status == "partial"]
    assert partial and all(trial.interval is None for trial in partial)
    texts = [f"{trial.score:.3f} on {trial.n_run} of 60" for trial in partial]
    with Store.read(tmp_path / "r.duckdb") as store:
        data = read_report(store, solve=False)
    print_report(data, console)
    shown = (console.file.getvalue(), to_html(data), page.getvalue())  # type: ignore[attr-defined]
    assert all(text in one for text in texts for one in shown)
    assert "grows from 20 to 40 examples" in page.getvalue() and "on 20 of 60 examples" in page.getvalue()
    assert (
        f"{len(partial)} of them on a part of the examples" in repr(result)
        and "on a part" in result._repr_html_()
    )
    assert data.n_examples == 60 and not {t.number for t in partial} & data.frontier
    assert progress._bars.tasks[0].total == 600
    assert progress._bars.tasks[0].completed == sum(
        view_trial.n_run for view_trial in proposer.views[-1].trials
    )


def test_a_limit_that_stops_a_growth_leaves_the_trial_as_it_was(tmp_path: Path) -> None:
    """Its scores stay those of the first part; what was drawn since is in the bank."""
    spent: list[int] = []

    def note(event: SearchEvent) -> None:
        if isinstance(event, TrialFinished):
            spent.append(event.spent.tokens)

    with ScriptedServer(
        answer=lambda request, index: "red" if request.model == "small" else "none"
    ) as server:
        spec = write_pipeline(tmp_path, server.base_url)
        proposer = Parts([(LARGE, 4)], [(LARGE, None)], seeds=[(POOR, 24)])
        options: Any = {"policy": "fixed", "proposer": proposer}
        search(spec, trials=5, db=tmp_path / "once.duckdb", on_event=note, **options)
        for_an_example = (spent[1] - spent[0]) / 4
        for_the_test = int(1.1 * 3 * 12 * for_an_example)
        cap = spent[1] + for_the_test + int(16 * for_an_example)  # of 20 examples that it is to grow by
        limits = SearchLimits(trials=5, tokens=cap)
        result = search(spec, limits=limits, db=tmp_path / "r.duckdb", **options)
    assert "limit on tokens" in (result.outcome.stopped_because or "")
    (whole, trial) = result.trials
    assert (trial.status, trial.n_run, len(trial.scores)) == ("partial", 4, 4) and trial.error is None
    counted = sum(trial.samples_drawn for trial in (*result.trials, *result.confirmation))
    assert result.cost.samples_drawn > counted, "those of the growth are paid for and in the bank"
    assert of(load_run(result.db).trials, LARGE) == trial and whole.status == "complete"


def test_a_growth_that_fails_is_run_again_and_counts_once(tmp_path: Path) -> None:
    """Too many examples are missing: the trial has no score and uses up nothing; the same command goes on."""
    with ScriptedServer(answer=answer) as server:
        spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "r.duckdb"
        server.fault = lambda request: (
            "empty" if _number(request) >= 10 and request.model != "small" else None
        )
        turns = [[(LARGE, 6)], [(LARGE, None)]]

        def run(**options: Any) -> Any:
            proposer = Parts(*turns, seeds=[(POOR, 24)])
            return search(
                spec,
                trials=3,
                proposer=proposer,
                db=db,
                policy="fixed",
                patience=Patience(retry_s=0),
                **options,
            )

        def stop(event: SearchEvent) -> None:
            if isinstance(event, TrialFinished) and event.trial.status == "failed":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(on_event=stop)
        assert [t.status for t in load_run(db).trials] == ["complete", "failed"]
        server.fault = None
        sent = server.samples.copy()
        result = run(resume=True)
        assert not set(server.samples - sent) & set(_of_first_part(sent)), "what was drawn is not drawn again"
    assert [(t.status, t.n_run) for t in result.trials] == [("complete", 24), ("complete", 24)]


def _number(request: Request) -> int:
    return int(request.prompt.partition("search-")[2].split()[0] or 0) if "search-" in request.prompt else 0


def _of_first_part(sent: Any) -> list[Any]:
    return [key for key in sent if any(f"search-{i} " in f"{key} " for i in range(6))]


def _left(db: Path) -> Any:
    """All that was decided and counted, without what depends on time or on who paid."""
    with Store.read(db) as store:
        run = store.run()
        trials = [
            (
                t.number,
                t.allocation,
                t.purpose,
                t.status,
                t.score,
                t.n_scored,
                t.generated_tokens,
                t.flops_per_query,
                t.samples_drawn + t.samples_reused,
            )
            for t in store.trials(run.run_id)
        ]
        scores = {
            t.number: {i: s.score for i, s in store.scores(t.trial_id).items()}
            for t in store.trials(run.run_id)
        }
        proposals = [(p.step, p.allocation, p.status, p.n_examples) for p in store.proposals(run.run_id)]
        repriced = [e.detail for e in store.events(run.run_id) if e.kind == "repriced"]
        return run.status, trials, scores, proposals, repriced, len(store.sql("SELECT * FROM stage_results"))


def test_killed_while_a_trial_grows_a_search_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """In a growth of the search or of the confirmation: no stored sample is drawn again, and the run is that
    of an undisturbed one."""
    began: list[tuple[TrialStarted, int]] = []
    with ScriptedServer(answer=answer) as server:

        def note(event: SearchEvent) -> None:
            if isinstance(event, TrialStarted) and event.n_before:
                began.append((event, len(server.arrived)))

        grown(write_pipeline(tmp_path / "whole", server.base_url), tmp_path / "whole/r.duckdb", note)
    wanted = _left(tmp_path / "whole/r.duckdb")
    assert wanted[0] == "complete" and {t[3] for t in wanted[1]} == {"partial", "complete"}
    in_search = [at for event, at in began if event.proposer == "growing"]
    in_confirmation = [at for event, at in began if event.proposer == "confirmation"]
    assert len(in_search) == 4 and in_confirmation
    for at in (in_search[0] + 3, in_search[2] + 6, in_confirmation[0] + 4):
        folder = tmp_path / str(at)
        with ScriptedServer(answer=answer, latency_s=0.02) as server:
            spec, db = write_pipeline(folder, server.base_url), folder / "r.duckdb"
            command = [sys.executable, "-m", "tests.agenttts.growing", str(spec), str(db)]
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while len(server.arrived) < at and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.wait()
            time.sleep(0.2)  # what the server was answering
            before, sent = stored(db), server.samples.copy()
            subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
            again = (server.samples - sent) - (stored(db) - before)
        assert not again, at
        assert _left(db) == wanted, at
