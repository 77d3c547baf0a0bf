"""Outcomes as arrays agree with the runtime; landscapes are seeded; what a simulated search pays adds up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agenttts.compare.landscapes import FAMILIES, N_TRUTH, Landscape, best_score, draw, true_means
from agenttts.replay.arrays import UNKNOWN, Bank
from agenttts.replay.bank import BankOutcomes
from agenttts.results.trials import REPLAYED
from agenttts.space.space import SearchSpace
from datastore import Store
from pipelines import PythonAggregator
from pipelines.allocation import Allocation, StageChoice
from pipelines.dataset.splits import load_examples
from pipelines.examples import Example
from pipelines.runtime.runtime import Runtime
from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec

Known = tuple[BankOutcomes, list[Example], Store]


@pytest.fixture(scope="module")
def voting() -> Landscape:
    return draw("voting", 2)


@pytest.fixture
def known(recorded: Path, tmp_path: Path) -> Iterator[Known]:
    spec = load_spec(recorded)
    with Store.open(tmp_path / "known.duckdb") as store:
        store.attach_bank(recorded.parent / "bank.parquet")
        examples = list(load_examples(spec, "search"))
        yield BankOutcomes(spec, store, examples), examples, store


async def run(
    spec: PipelineSpec, store: Store, examples: list[Example], allocation: Allocation
) -> tuple[dict[str, float | None], float]:
    """Scores by example and the mean of the first stage's metric, as the runtime has them."""
    runtime = Runtime(spec, store, None, run_id=None, replay=True)
    outcomes = [await runtime.run_example(allocation, example) for example in examples]
    stage_scores = [outcome.stages[0].score for outcome in outcomes if outcome.stages[0].score is not None]
    return {o.example_id: o.score for o in outcomes}, float(np.mean(stage_scores))


async def test_a_whole_bank_scores_as_the_runtime_does(known: Known) -> None:
    """Every example of every allocation has the score that running it on the bank gives."""
    outcomes, examples, store = known
    spec = outcomes.spec
    await outcomes.add_all()
    allocations = list(SearchSpace(spec, spec.budget.units).enumerate())[::37]
    walk = outcomes.answer(allocations)
    assert walk.known.all() and len(allocations) > 5
    for allocation, scores in zip(allocations, walk.scores, strict=True):
        by_example, _ = await run(spec, store, examples, allocation)
        np.testing.assert_allclose(scores, np.array(list(by_example.values()), float))


async def test_a_replayed_trial_is_what_the_runtime_gives(known: Known) -> None:
    """Scores and stage scores of one allocation; None when a sample that it needs was never drawn."""
    outcomes, examples, store = known
    allocation = Allocation({"retrieve": StageChoice("small", 5), "answer": StageChoice("medium", 3)})
    trial = await outcomes.replay(allocation)
    scores, stage_score = await run(outcomes.spec, store, examples, allocation)
    assert trial is not None and trial.scores == scores and trial.number == REPLAYED
    assert trial.score == pytest.approx(np.mean(list(scores.values())))
    assert trial.stage_scores == {"retrieve": pytest.approx(stage_score), "answer": None}
    assert trial.interval is not None and trial.interval.mean == trial.score
    with Store.open(store.path.with_name("empty.duckdb")) as empty:
        assert await BankOutcomes(outcomes.spec, empty, examples).replay(allocation) is None


async def test_fewer_samples_are_known_after_more_whatever_the_aggregator(known: Known) -> None:
    """A user's function is called for one number of samples at a time, the larger one first or last."""
    outcomes, examples, store = known
    spec = outcomes.spec
    stages = (
        spec.stages[0].model_copy(update={"aggregator": PythonAggregator(python=first_of)}),
        *spec.stages[1:],
    )
    bank = BankOutcomes(spec.model_copy(update={"stages": stages}), store, examples)
    allocation = Allocation({"retrieve": StageChoice("small", 8), "answer": StageChoice("small", 1)})
    assert await bank.replay(allocation) is not None
    assert await bank.replay(allocation.replace("retrieve", StageChoice("small", 3))) is not None


def first_of(candidates: Any, example: Any) -> Any:
    return candidates[0].value


async def test_a_bank_answers_no_more_than_its_trials_took(known: Known) -> None:
    """After one trial fewer samples at the last stage are known in full; more, or another model, are not."""
    outcomes, examples, _ = known
    trial = Allocation({"retrieve": StageChoice("small", 4), "answer": StageChoice("medium", 4)})
    await outcomes.add(trial, {example.id for example in examples})
    fewer = trial.replace("answer", StageChoice("medium", 2))
    more = trial.replace("answer", StageChoice("medium", 5))
    other = trial.replace("answer", StageChoice("small", 1))
    upstream = trial.replace("retrieve", StageChoice("small", 3))
    known_share = outcomes.answer([trial, fewer, more, other, upstream]).known.mean(axis=1)
    assert known_share[0] == known_share[1] == 1.0 and known_share[2] == known_share[3] == 0.0
    assert 0.0 < known_share[4] < 1.0  # where three samples vote as four do, the answer is there


async def test_a_part_of_the_examples_is_known_in_part(known: Known) -> None:
    outcomes, examples, _ = known
    trial = Allocation({"retrieve": StageChoice("small", 4), "answer": StageChoice("medium", 4)})
    await outcomes.add(trial, {example.id for example in examples[:20]})
    walk = outcomes.answer([trial])
    assert walk.known[0].tolist() == [True] * 20 + [False] * (len(examples) - 20)
    assert np.isnan(walk.scores[0][20:]).all()


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"deep"}))  # its optimum takes half a minute
def test_a_family_keeps_its_bounds(family: str) -> None:
    """The same seed gives the same landscape; stages, models and counts are those of the class."""
    landscape, kind = draw(family, 1), FAMILIES[family]
    again = draw(family, 1)
    assert landscape.best == again.best
    np.testing.assert_array_equal(landscape.outcomes.scores, again.outcomes.scores)
    stages = landscape.space.stages
    assert kind.stages[0] <= len(stages) <= kind.stages[1]
    assert kind.models[0] <= len(stages[0].models) <= kind.models[1]
    assert (
        len(landscape.outcomes.example_ids) in kind.examples and len(landscape.truth.example_ids) == N_TRUTH
    )
    defaults = landscape.true_scores(landscape.space.defaults())
    assert (defaults <= landscape.best + 1e-9).all() and (
        landscape.outcomes.stages[0].leads_to != UNKNOWN
    ).all()


@pytest.mark.parametrize(("family", "least"), [("turning", 0.02), ("verified", 0.03)])
def test_more_samples_can_hurt(family: str, least: float) -> None:
    """Some curve over n, of a model at a stage, falls from its top by more than the truth's noise."""
    falls = []
    for seed in range(6):
        landscape = draw(family, seed)
        stages = landscape.space.stages
        top = Allocation({s.name: StageChoice(s.models[-1], s.max_samples) for s in stages})
        for stage in stages:
            choices = [StageChoice(m, n) for m in stage.models for n in range(1, stage.max_samples + 1)]
            curves = true_means(landscape.truth, [top.replace(stage.name, choice) for choice in choices])
            for curve in curves.reshape(len(stage.models), -1):
                falls.append(curve.max() - curve[-1])
    assert max(falls) > least


def test_samples_are_nested_and_paid_for_once(voting: Landscape) -> None:
    """From n to more samples only the rest is paid for, the prompt never twice; fewer samples are free."""
    bank = Bank(voting.outcomes)
    base = voting.space.cheapest
    stage = voting.space.stages[-1].name
    model = base[stage].model
    _, first = bank.buy(base.replace(stage, StageChoice(model, 4)))
    _, again = bank.buy(base.replace(stage, StageChoice(model, 2)))
    _, more = bank.buy(base.replace(stage, StageChoice(model, 6)))
    fresh = Bank(voting.outcomes)
    _, at_once = fresh.buy(base.replace(stage, StageChoice(model, 6)))
    assert again == 0.0 and first + more == pytest.approx(at_once, rel=1e-5) == pytest.approx(bank.flops)


def test_the_best_by_enumeration_is_the_best(voting: Landscape) -> None:
    scores = true_means(voting.truth, list(voting.space.enumerate()))
    assert best_score(voting.truth, voting.space) == (scores.max(), True) == (voting.best, voting.exact)


def test_the_budget_has_room_for_the_cheapest() -> None:
    """Also where a seed draws a long prompt and a tight budget, which once left no allocation."""
    landscape = draw("difficulty", 4)
    assert landscape.space.size >= 1 and landscape.space.defaults()
