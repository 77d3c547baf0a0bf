"""Runs, trials, results, proposals, insights, events, and what a run cost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from datastore import Event, PolicyResult, RunCost, Store, StoreError
from tests.datastore import made


def test_runs_are_listed_in_the_order_of_their_start(store: Store) -> None:
    """No id means the run that was begun last; an unknown one is an error."""
    with pytest.raises(StoreError, match="has none"):
        store.run()
    store.start_run(made.run("early", started_at=100.0))
    store.start_run(made.run("late", started_at=200.0))
    assert [run.run_id for run in store.runs()] == ["early", "late"]
    assert store.run().run_id == "late"
    assert store.run("early") == made.run("early")
    with pytest.raises(StoreError, match="gone"):
        store.run("gone")


def test_a_run_ends_and_starts_again(store: Store) -> None:
    """Finishing sets status, outcome and time; starting the same run again replaces it."""
    store.start_run(made.run())
    store.finish_run("run-1", "stopped", '{"best":null}', 150.0)
    ended = replace(made.run(), status="stopped", outcome='{"best":null}', finished_at=150.0)
    assert store.runs() == [ended]
    store.start_run(replace(ended, status="running"))
    assert store.run("run-1").status == "running"
    with pytest.raises(StoreError, match="gone"):
        store.finish_run("gone", "complete", None, 1.0)


def test_trials_are_ordered_and_replaced(store: Store, path: Path) -> None:
    """Trials come by number; the end of a trial replaces its beginning; other runs' trials are not seen."""
    for number in (1, 0, 2):
        store.begin_trial(made.trial(number))
    store.begin_trial(made.trial(0, run_id="run-2"))
    ended = made.trial(1, score=0.5)
    store.finish_trial(ended)
    assert store.trials("run-1") == [made.trial(0), ended, made.trial(2)]
    store.close()
    with Store.read(path) as again:
        assert again.trials("run-1") == [made.trial(0), ended, made.trial(2)]


async def test_policy_results_are_replaced(store: Store) -> None:
    """A result of the same trial and example replaces the one before; another trial's stay out."""
    first = PolicyResult(
        trial_id="run-1-0000",
        example_id="a",
        n_rungs=2,
        rung=1,
        confidence=0.75,
        n_samples=12,
        flops=8e9,
        cost_usd=0.5,
        seconds=0.25,
    )
    await store.put_policy_results([first, replace(first, example_id="b", confidence=None, flops=None)])
    await store.put_policy_results([replace(first, rung=0), replace(first, trial_id="run-1-0001")])
    stored = {result.example_id: result for result in store.policy_results("run-1-0000")}
    assert stored == {
        "a": replace(first, rung=0),
        "b": replace(first, example_id="b", confidence=None, flops=None),
    }


async def test_stage_results_are_replaced(store: Store) -> None:
    """A result of the same trial, example and stage takes the place of the former, in one call too."""
    await store.put_stage_results([made.stage_result("a", output='"no"'), made.stage_result("a")])
    await store.put_stage_results([made.stage_result("b"), made.stage_result("a", stage="retrieve")])
    await asyncio.gather(
        *(store.put_stage_results([made.stage_result("b", output=f'"{i}"')]) for i in range(20))
    )
    found = {(r.example_id, r.stage): r for r in store.stage_results("run-1-0000")}
    assert len(found) == len(store.stage_results("run-1-0000")) == 3
    assert found["a", "answer"] == made.stage_result("a")
    assert found["b", "answer"].output == '"19"'


async def test_missing_scores_are_null(store: Store) -> None:
    """A missing score is NULL with a status and a reason, replaced when the example is scored after all."""
    await store.put_scores([made.score("a", None), made.score("b", 0.25)])
    assert store.scores("run-1-0000") == {"a": made.score("a", None), "b": made.score("b", 0.25)}
    assert store.sql("SELECT avg(score) AS mean FROM example_scores")["mean"][0] == 0.25
    await store.put_scores([made.score("a", 1.0)])
    assert store.scores("run-1-0000")["a"] == made.score("a", 1.0)


def test_proposals_and_insights(store: Store) -> None:
    """They come by step and position, and the same place is written anew."""
    store.put_proposals([made.proposal(1), made.proposal(0, 1), made.proposal(0, 0)])
    store.put_proposals([made.proposal(0, 1, reason="changed")])
    assert [(p.step, p.position) for p in store.proposals("run-1")] == [(0, 0), (0, 1), (1, 0)]
    assert store.proposals("run-1")[1].reason == "changed"
    store.put_insights([made.insight(1, trials=()), made.insight(0)])
    store.put_insights([made.insight(0, trials=(5,))])
    assert store.insights("run-1") == [made.insight(0, trials=(5,)), made.insight(1, trials=())]
    assert not store.proposals("other") and not store.insights("other")


def test_events_keep_their_order(store: Store) -> None:
    """Events are only added, in the order of the calls, whatever their clocks say."""
    events = [Event(run_id="run-1", at=float(-i), kind="trial", detail=f'{{"i":{i}}}') for i in range(5)]
    for event in events:
        store.put_event(event)
    assert store.events("run-1") == events


def test_models_are_replaced(store: Store) -> None:
    """A model of the same key takes the place of the former."""
    store.put_models([made.model("small"), made.model("large")])
    store.put_models([replace(made.model("small"), context_length=None)])
    assert store.models() == [made.model("large"), replace(made.model("small"), context_length=None)]


async def test_a_put_is_seen_by_the_next_call(store: Store) -> None:
    """Calls of both kinds take effect in the order in which they were made."""
    waiting = [asyncio.ensure_future(store.put_scores([made.score(f"{i}", 1.0)])) for i in range(30)]
    await asyncio.sleep(0)
    assert len(store.scores("run-1-0000")) == 30
    await asyncio.gather(*waiting)


async def test_what_a_run_cost(store: Store) -> None:
    """A run's cost is the sum of its payments: with samples, without, and of checks; another run's is not."""
    small, large = made.prompt(0), made.prompt(1, model_key="large")
    samples = [made.sample(small, i) for i in range(4)]
    await store.put_samples(small, samples, made.payment(small, samples_drawn=4))
    await store.put_samples(small, [made.sample(small, 4)], made.payment(small, calls=2))
    await store.put_samples(small, [made.sample(small, 5)], made.payment(small, run_id="run-2"))
    await store.put_samples(small, [made.sample(small, 6, run_id=None)])
    await store.put_payment(made.payment(large, samples_drawn=0))
    await store.put_payment(made.payment(calls=3, samples_drawn=0))
    both = RunCost(calls=7, samples_drawn=5, prompt_tokens=70, generated_tokens=15)
    assert store.run_cost("run-1") == both
    assert store.run_cost("run-1", models=["small"]) == replace(both, calls=6, prompt_tokens=60)
    assert store.run_cost("run-2").samples_drawn == 1
    nothing = RunCost(calls=0, samples_drawn=0, prompt_tokens=0, generated_tokens=0)
    assert store.run_cost("run-3") == store.run_cost("run-1", models=[]) == nothing


def test_units_are_in_the_column_comments(store: Store) -> None:
    """Every count, time and price has its unit, or its meaning, in a comment of its column."""
    bare = store.sql(
        "SELECT table_name || '.' || column_name AS name FROM duckdb_columns() "
        "WHERE NOT internal AND comment IS NULL AND data_type IN ('DOUBLE', 'BIGINT') "
        "AND table_name NOT IN ('bank_summary', 'run_costs')"
    )
    assert list(bare.name) == []
