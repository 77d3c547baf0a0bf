"""Holding the mean cost of a policy's queries by its thresholds."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastore import Store
from pipelines import load_examples, load_spec, zoo
from pipelines.runtime import PolicyRunner, Runtime
from pipelines.runtime.pace import AT_ONCE, Pace, PacedQueries
from pipelines.runtime.streaming import in_order
from tests.pipelines.runtime.cascades import small_then_large


def test_a_pace_lowers_thresholds_and_raises_them_again() -> None:
    """Never above where they began; 0 and 1 stay as they are."""
    pace = Pace((0.8, 1.0), 100.0)
    pace.add(50.0)
    assert pace.thresholds == (0.8, 1.0)
    pace.add(600.0)
    lowered = pace.thresholds[0]
    assert lowered == pytest.approx(0.595, abs=1e-3) and pace.thresholds[1] == 1.0
    for _ in range(20):
        pace.add(50.0)
    assert pace.thresholds == (0.8, 1.0)


@settings(deadline=None)
@given(st.integers(0, 9), st.floats(0.3, 0.9), st.floats(1.5, 8.0))
def test_the_mean_cost_tends_to_the_target(seed: int, threshold: float, dear: float) -> None:
    """Whatever the further rung costs, 1,000 queries exceed it by little."""
    rng, pace, spent = random.Random(seed), Pace((threshold,), 1.0), 0.0
    for _ in range(1000):
        cost = 0.5 + (dear if rng.random() < pace.thresholds[0] else 0.0)
        spent += cost
        pace.add(cost)
    assert spent <= 1060


def test_the_zoo_holds_its_mean_by_replay(tmp_path: object) -> None:
    """A policy that would escalate every query keeps to a mean between its rungs, and repeats exactly."""
    spec = load_spec(zoo.SPEC)
    examples = load_examples(spec, "search")[:160]
    policy = small_then_large(spec, 0.98, 8)
    with Store.open(f"{tmp_path}/zoo.duckdb") as store:
        store.attach_bank(spec.root / str(spec.bank))
        runner = PolicyRunner(Runtime(spec, store, None, run_id=None, replay=True), policy)

        async def flops(share: float | None) -> list[float]:
            if share is None:
                return [(await runner.run_example(example)).flops or 0.0 for example in examples]
            paced = PacedQueries(Pace(policy.thresholds, share * free))
            taken = []
            begun = in_order(
                examples, lambda e: runner.run_example(e, thresholds=paced.begin()), window=AT_ONCE
            )
            async for outcome in begun:
                taken.append(outcome.flops or 0.0)
                paced.end(outcome.flops)
            return taken

        free = 1.0
        costs = asyncio.run(flops(None))
        free = sum(costs) / len(costs)
        paced = asyncio.run(flops(0.5))
        assert min(paced) < 0.4 * free and sum(paced) / len(paced) < 0.65 * free
        assert asyncio.run(flops(0.5)) == paced
