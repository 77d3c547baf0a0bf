"""Every proposer that needs no LLM: within the space, seeded, and in a simulation as in a search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agenttts import search
from agenttts.compare.landscapes import FAMILIES, Landscape, best_score, draw, pipeline
from agenttts.compare.regret import CHECKPOINTS
from agenttts.compare.simulation import Moment, SimulatedSearch
from agenttts.errors import UserError
from agenttts.proposers import registry as choice
from agenttts.proposers.base import Lesson, SearchView
from agenttts.proposers.moves import grid
from agenttts.proposers.solver import SolverProposer
from agenttts.proposers.verdicts import verdicts
from agenttts.replay.bank import BankOutcomes
from agenttts.search.racing import is_losing, rungs
from agenttts.settings import SearchSettings
from agenttts.space.space import SearchSpace
from datastore import Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.dataset.splits import load_examples, seeded_order
from pipelines.errors import MissingDependency
from pipelines.spec.files import load_spec

EVERY = ("insights", "greedy", "halving", "random", "tpe", "nsga2", "brute", "QMCSampler")


@pytest.fixture(scope="module")
def voting() -> Landscape:
    return draw("voting", 2)


async def searched(
    landscape: Landscape, name: str, trials: int = 12, seed: int = 3
) -> tuple[SimulatedSearch, list[Moment]]:
    found = SimulatedSearch(landscape, choice.classical_proposer(name), seed, seeded=choice.is_seeded(name))
    return found, await found.run(trials=trials)


@pytest.mark.parametrize("name", [f"{n}{seeds}" for n in EVERY for seeds in ("", "+seeds")])
async def test_a_proposer_keeps_to_the_space(name: str, voting: Landscape) -> None:
    """It never repeats or leaves the space, does the same again, and starts from the defaults when told."""
    found, moments = await searched(voting, name)
    allocations = [moment.allocation for moment in moments]
    assert len(set(allocations)) == len(allocations) and all(a in voting.space for a in allocations)
    assert found.cells == 12 * found.n_examples or found.finished
    _, again = await searched(voting, name)
    assert [m.allocation for m in again] == allocations
    defaults = voting.space.defaults()
    if name.endswith("+seeds"):
        assert allocations[: len(defaults)] == defaults
    assert [m.flops for m in moments] == sorted(m.flops for m in moments)


def test_gp_needs_torch_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(
        MissingDependency, match=r"the proposer gp needs torch, .* run: pip install '.*\[tune\]"
    ):
        choice.classical_proposer("gp")


async def test_gp_searches(voting: Landscape) -> None:
    pytest.importorskip("torch")
    _, moments = await searched(voting, "gp+seeds", trials=12)
    assert len({m.allocation for m in moments}) == 12


@pytest.mark.parametrize("name", ["solve", "insights", "greedy", "tpe", "halving"])
async def test_a_search_decides_as_its_simulation(name: str, recorded: Path, tmp_path: Path) -> None:
    """The real search, on the bank, tries the same allocations with the same scores."""
    spec = load_spec(recorded)
    result = search(spec, proposer=name, trials=9, seed=5, db=tmp_path / "r.duckdb", replay=True)
    with Store.open(tmp_path / "known.duckdb") as store:
        store.attach_bank(recorded.parent / "bank.parquet")
        examples = seeded_order(load_examples(spec, "search"), lambda example: example.id, 5, "trials")
        known = BankOutcomes(spec, store, examples)
        await known.add_all()
    space = SearchSpace(spec, spec.budget.units)
    best, exact = best_score(known.outcomes, space)
    landscape = Landscape(
        name="recorded", space=space, outcomes=known.outcomes, truth=known.outcomes, best=best, exact=exact
    )
    found, moments = await searched(landscape, f"{name}+seeds", trials=9, seed=5)
    assert [t.allocation for t in result.trials] == [t.allocation for t in found.trials]
    assert [t.n_run for t in result.trials] == [t.n_run for t in found.trials]
    assert [t.score for t in result.trials] == pytest.approx([t.score for t in found.trials])
    assert [t.status for t in result.trials] == [t.status for t in found.trials]
    assert result.best is not None and result.best.allocation == moments[-1].choice


async def test_the_solver_is_quick_in_a_large_space() -> None:
    """Five stages of six models and up to 64 samples: it still proposes within the space."""
    landscape = _large()
    found = SimulatedSearch(landscape, SolverProposer(), 0, seeded=True)
    moments = await found.run(trials=3)
    assert grid(landscape.space, 1_000) is None
    assert all(m.allocation in landscape.space for m in moments)


def _large() -> Landscape:
    kind = replace(FAMILIES["deep"], stages=(5, 5), models=(6, 6), samples=(64,), examples=(50,))
    space, outcomes, truth = pipeline(kind, "large", np.random.default_rng(0), n_truth=1)
    return Landscape(name="large", space=space, outcomes=outcomes, truth=truth, best=1.0, exact=False)


async def test_finalists_are_answered_in_full_and_untried(voting: Landscape) -> None:
    found, _ = await searched(voting, "solve+seeds", trials=8)
    view = found.view(9, 0)
    finalists = SolverProposer().finalists(view)
    assert finalists and not set(finalists) & view.tried
    assert found.bank.answer(finalists).known.all()
    assert SolverProposer(bank=False).finalists(view) == ()


async def test_losing_trials_stop_early_and_cost_less(voting: Landscape) -> None:
    """They are scored on a part of the examples, all of them clearly below the best."""
    racing, _ = await searched(voting, "halving+seeds", trials=25)
    losing = [t for t in racing.trials if t.status == "partial"]
    n_examples = len(voting.outcomes.example_ids)
    assert losing and all(t.n_scored in rungs(n_examples)[:-1] for t in losing)
    whole = [t for t in racing.trials if t.status == "complete"]
    for trial in losing:
        best = max(np.mean([t.scores[e] or 0.0 for e in trial.scores]) for t in whole)
        assert (trial.score or 0.0) < best


def test_a_trial_stops_only_when_clearly_behind() -> None:
    even = {f"e{i}": float(i % 2) for i in range(40)}
    odd = {f"e{i}": float(i % 2 == 0) for i in range(40)}
    none = dict.fromkeys(even, 0.0)
    assert not is_losing(even, odd, 0) and not is_losing(even, even, 0) and is_losing(none, even, 0)
    assert rungs(200) == [25, 50, 100, 200] and rungs(20) == [20] and rungs(1) == [1]


def test_claims_are_supported_refuted_or_open(recorded: Path, tmp_path: Path) -> None:
    """A claim that the scores contradict is refuted, one that they bear out supported, the rest open."""
    result = search(recorded, proposer="insights", trials=9, db=tmp_path / "r.duckdb", replay=True)
    ranked = sorted(result.trials, key=lambda t: t.score or 0.0)
    low, high = ranked[0].number, ranked[-1].number
    lessons = [
        Lesson("so", (low, high), (high, low)),
        Lesson("not so", (low, high), (low, high)),
        Lesson("itself", (low,), (low, low)),
        Lesson("no claim", (low, high)),
        Lesson("unknown", (low,), (low, 99)),
    ]
    assert (ranked[-1].score or 0) - (ranked[0].score or 0) > 0.2
    assert verdicts(lessons, result.trials, 0) == ["supported", "refuted", "open", "open", "open"]


def test_unknown_names_are_refused() -> None:
    for name, said in {
        "tpee": "a proposer is one of default, solve, insights, (?!.*(-no-|-shuffled|-blank))",
        "NoSampler": "a proposer without an LLM is one of default, solve, insights, greedy, halving, ",
        "agent": "needs an endpoint",
    }.items():
        with pytest.raises(UserError, match=said):
            choice.require_proposer(name, None)
    with pytest.raises(UserError, match="asks an LLM; name one that does not"):
        choice.classical_proposer("agent")


def test_the_view_holds_no_bank_by_default(voting: Landscape) -> None:
    """Without a bank the solver goes by the trials alone."""
    view = SearchView(
        settings=SearchSettings(budget_units=voting.space.budget_units, proposer="solve"),
        space=voting.space,
        trials=(),
        insights=(),
        cells_left=50,
        n_examples=10,
        task="t",
    )
    turn = SolverProposer().decide(view, 2)
    assert len({s.allocation for s in turn.suggestions}) == 2
    assert all(isinstance(c, StageChoice) for s in turn.suggestions for c in s.allocation.values())
    assert isinstance(turn.suggestions[0].allocation, Allocation) and CHECKPOINTS[:3] == (1, 2, 5)
