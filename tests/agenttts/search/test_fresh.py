"""Fresh examples: no trial of the search sees them; they are bought at its end for the choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agenttts import SearchLimits, load_run, search
from agenttts.errors import UserError
from agenttts.results.choosing import Rule, choose
from agenttts.results.fresh import kept_out
from agenttts.results.trials import TrialResult
from agenttts.search.fresh import next_purchase
from agenttts.space.measure import Measure
from agenttts.space.objective import Goal
from pipelines.allocation import Allocation
from pipelines.examples import Example
from tests.agenttts.made_trials import made_trial
from tests.agenttts.small_specs import small_spec, write_examples
from tests.servers import ScriptedServer

SPEC = small_spec()
MEASURE = Measure(SPEC, "units")
FRESH = [Example(id=f"f{i}", fields={}) for i in range(40)]


def trial(
    number: int, n_samples: int, n_right: int, *, start: int = 0, first: int = 0, split: str = "search"
) -> TrialResult:
    """A trial that is right on `n_right` of 100 questions, the `start`-th and those that follow.

    On fresh examples it is right on as many of ten, from the `first` one on.
    """
    stages = {s.name: s.options[0].with_samples(n_samples) for s in SPEC.stages}
    allocation = Allocation(stages)
    ids = [f"e{i}" for i in range(100)] if split == "search" else [e.id for e in FRESH[first : first + 10]]
    scores = {e: float((i - start) % len(ids) < n_right) for i, e in enumerate(ids)}
    return made_trial(
        number,
        allocation,
        scores,
        purpose="search" if split == "search" else "confirm",
        split=split,
        budget_units=MEASURE.planned(allocation),
    )


def rule(**changes: Any) -> Rule:
    return Rule(measure=MEASURE, budget_units=1e9, **changes)


def bought(trials: list[TrialResult], goal: Goal | None = None) -> list[tuple[int, str]]:
    """The numbers of the trials that batches are bought for, all as good on them as one another, and why."""
    extra: list[TrialResult] = []
    purchases = []
    the_rule = rule() if goal is None else rule(goal=goal)
    while (purchase := next_purchase(choose(trials, extra, the_rule), FRESH, extra)) is not None:
        purchases.append((purchase.trial.number, purchase.reason))
        n_samples = next(iter(purchase.trial.allocation.values())).n_samples
        first = FRESH.index(purchase.examples[0])
        extra.append(trial(100 + len(extra), n_samples, 7, first=first, split="fresh"))
    return purchases


def test_only_trials_that_may_win_are_bought_for() -> None:
    """Rivals get batches in turn, a trial that is clearly worse none; the rest of the winner's follows."""
    purchases = bought([trial(0, 1, 70), trial(1, 2, 68, start=30), trial(2, 3, 20)])
    numbers = [number for number, _ in purchases]
    assert set(numbers) == {0, 1} and numbers[:2] in ([0, 1], [1, 0])
    assert numbers.count(0) == 4
    assert "Trials 0 and 1 can't be told apart" in purchases[0][1]
    alone = bought([trial(0, 1, 90), trial(2, 3, 20)])
    assert [number for number, _ in alone] == [0, 0, 0, 0] and "The winner" in alone[0][1]


def test_for_a_required_score_the_cheapest_in_question_comes_first() -> None:
    """The cheapest that may reach it is bought for until that is shown; dearer ones are left alone then."""
    trials = [trial(0, 1, 40), trial(1, 2, 90), trial(2, 3, 95)]
    purchases = bought(trials, Goal("cost", 0.7))
    assert {number for number, _ in purchases} == {1}
    assert "Trial 1 seems to reach 0.7" in purchases[0][1]


def test_a_required_score_is_shown_by_its_lower_bound() -> None:
    """The cheapest whose mean reaches the score does not win where luck may be the reason."""
    trials = [trial(0, 1, 72), trial(1, 2, 90)]
    choice = choose(trials, [], rule(goal=Goal("cost", 0.7)))
    assert choice.best is not None and choice.best.number == 1 and (choice.bound or 0.0) >= 0.7
    short = choose(trials, [], rule(goal=Goal("cost", 0.95)))
    assert short.best is not None and short.best.number == 1 and (short.bound or 1.0) < 0.95


def test_the_cheapest_that_is_about_as_good_is_recommended() -> None:
    """Within the margin, tested, the cheaper one is recommended; a wider gap is not, nor is a dearer one."""
    trials = [trial(0, 1, 40), trial(1, 2, 89), trial(2, 3, 90)]
    wide = choose(trials, [], rule(margin=0.05)).recommended
    assert wide is not None and wide.trial.number == 1 and wide.difference == pytest.approx(-0.01)
    assert wide.bound > -0.05
    assert choose(trials, [], rule(margin=0.01)).recommended is None
    assert choose(trials[:1], [], rule(margin=0.05)).recommended is None


def test_a_share_of_the_examples_is_kept_out() -> None:
    """A quarter of a hundred or more, none of fewer unless it is asked for, the same for the same seed."""
    examples = [Example(id=str(i), fields={}) for i in range(100)]
    searched, fresh = kept_out(examples, None, 0)
    assert (len(searched), len(fresh)) == (75, 25) and {*searched, *fresh} == set(examples)
    assert kept_out(examples, None, 0)[1] == fresh != kept_out(examples, None, 1)[1]
    assert not kept_out(examples[:99], None, 0)[1] and len(kept_out(examples[:40], 0.25, 0)[1]) == 10
    with pytest.raises(UserError, match=r"0 to 0\.5, got 0\.6"):
        kept_out(examples, 0.6, 0)
    with pytest.raises(UserError, match="is none; raise it"):
        kept_out(examples, 0.001, 0)


def test_a_search_buys_fresh_examples_for_its_choice(recorded: Path, tmp_path: Path) -> None:
    """No trial of the search sees them; the winner has all of them, and what it claims rests on both parts. A
    resumed run goes on with the same share only."""
    db = tmp_path / "fresh.duckdb"
    result = search(recorded, trials=6, fresh=0.25, db=db, replay=True)
    assert {t.n_scored for t in result.trials if t.status == "complete"} == {45}
    assert all(t.n_scored < 45 for t in result.trials if t.status == "partial")
    again = [t for t in result.confirmation if t.split == "fresh"]
    seen = {i for t in result.trials for i in t.scores}
    on_fresh = {i for t in again for i in t.scores}
    assert seen.isdisjoint(on_fresh) and len(on_fresh) == 15
    best = result.best
    assert best is not None and best.n_search == 60
    assert {i for t in again if t.allocation == best.allocation for i in t.scores} == on_fresh
    assert "fresh examples before the choice" in result.certificate
    fresh = result.outcome.fresh
    assert fresh is not None and fresh.n == 15 and fresh.n_scores == sum(t.n_scored for t in again)
    assert load_run(db).outcome == result.outcome
    with pytest.raises(UserError, match=r"fresh was 0\.25, now None"):
        search(recorded, trials=6, db=db, replay=True, resume=True)


def test_what_a_limit_leaves_of_the_test_is_reported(tmp_path: Path, server: ScriptedServer) -> None:
    """A test phase that a limit cuts keeps the score on the part scored, and says of how many examples."""
    write_examples(tmp_path, n_test=40)
    spec = small_spec(base_url=server.base_url).model_copy(update={"root": tmp_path})
    common: dict[str, Any] = {"proposer": "insights", "preflight": False, "policy": "fixed"}
    whole = search(spec, trials=1, db=tmp_path / "whole.duckdb", **common)
    (tested,) = [t for t in whole.confirmation if t.purpose == "test"]
    spent = whole.cost.prompt_tokens + whole.cost.generated_tokens
    limits = SearchLimits(trials=1, tokens=spent - (tested.prompt_tokens + tested.generated_tokens) // 2)
    cut = search(spec, limits=limits, db=tmp_path / "cut.duckdb", **common)
    (part,) = [t for t in cut.confirmation if t.purpose == "test"]
    assert cut.status == "complete" and part.status == "partial" and 0 < part.n_scored < 40
    assert cut.best is not None and cut.best.test_score == part.score and cut.best.test_ci is not None
    assert f"({part.n_scored} of 40 examples; a limit cut the rest)" in cut.certificate
    assert "limit on tokens" in (cut.outcome.stopped_because or "")
    assert load_run(tmp_path / "cut.duckdb").outcome == cut.outcome


def test_what_the_test_may_cost_is_not_spent_on_fresh_examples(
    tmp_path: Path, server: ScriptedServer
) -> None:
    """Where a limit leaves no room for both, the fresh examples are left out and the test is whole."""
    write_examples(tmp_path, n_search=24, n_test=12)
    spec = small_spec(base_url=server.base_url).model_copy(update={"root": tmp_path})
    common: dict[str, Any] = {"proposer": "insights", "preflight": False, "policy": "fixed", "fresh": 0.5}
    whole = search(spec, trials=2, db=tmp_path / "whole.duckdb", **common)
    assert whole.outcome.fresh is not None and whole.outcome.fresh.n == 12
    tokens = whole.cost.prompt_tokens + whole.cost.generated_tokens
    on_fresh = sum(t.prompt_tokens + t.generated_tokens for t in whole.confirmation if t.split == "fresh")
    limits = SearchLimits(trials=2, tokens=tokens - on_fresh)
    cut = search(spec, limits=limits, db=tmp_path / "cut.duckdb", **common)
    tests = [t for t in cut.confirmation if t.purpose == "test"]
    assert tests and all(t.status == "complete" and t.n_scored == 12 for t in tests)
    assert sum(t.n_scored for t in cut.confirmation if t.split == "fresh") < whole.outcome.fresh.n_scores
    assert cut.cost.prompt_tokens + cut.cost.generated_tokens <= tokens - on_fresh


def test_a_test_split_that_a_limit_can_not_pay_leaves_the_search_its_half(
    tmp_path: Path, server: ScriptedServer
) -> None:
    """Where the test would cost ten times the limit there is a winner all the same, tested on a part."""
    common: dict[str, Any] = {"proposer": "insights", "preflight": False, "policy": "fixed"}
    write_examples(tmp_path, n_search=24, n_test=1)
    spec = small_spec(base_url=server.base_url).model_copy(update={"root": tmp_path})
    short = search(spec, trials=2, db=tmp_path / "short.duckdb", **common)
    write_examples(tmp_path, n_search=24, n_test=600)
    tokens = 3 * (short.cost.prompt_tokens + short.cost.generated_tokens)
    limits = SearchLimits(trials=2, tokens=tokens)
    cut = search(spec, limits=limits, db=tmp_path / "cut.duckdb", **common)
    assert cut.best is not None and [t.status for t in cut.trials] == ["complete"] * 2
    assert cut.best.test_score is not None and "of 600 examples; a limit cut the rest" in cut.certificate
