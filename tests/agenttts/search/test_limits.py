"""Caps on what a search may spend: reserved before, settled after, never exceeded."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from agenttts.errors import UserError
from agenttts.search.limits import Ledger, LedgerEntry, Spending
from agenttts.settings import SearchLimits
from datastore import Payment, Prompt, Sample, Store, make_prompt, model_key
from pipelines.errors import SpendRefused
from tests.agenttts.small_specs import small_spec
from tests.datastore import made

PRICED = {"price": {"prompt_usd_per_million": 1.0, "generated_usd_per_million": 2.0}}
SPEC = small_spec(model=PRICED)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def ledger(clock: Clock | None = None, **limits: Any) -> Ledger:
    return Ledger(SearchLimits(**limits), SPEC.models, clock=clock or Clock())


async def test_without_caps_everything_is_let_in() -> None:
    """No limit refuses nothing, and what is spent is counted in tokens, FLOPs and dollars."""
    kept = ledger()
    (await kept.reserve("large", 100, 50)).settle(10, 5)
    assert kept.spent == Spending(tokens=15, flops=2 * 4e6 * 15, usd=20e-6)
    assert kept.reached(1_000_000) is None


@pytest.mark.parametrize(
    ("limits", "name"), [({"tokens": 99}, "tokens"), ({"flops": 1e8}, "flops"), ({"usd": 1e-4}, "usd")]
)
async def test_a_request_that_cannot_fit_is_refused(limits: dict[str, Any], name: str) -> None:
    """A request over any cap is refused at once, and the message names the cap."""
    with pytest.raises(SpendRefused, match=f"limit on {name}: .* allowed, 0 spent"):
        await ledger(**limits).reserve("large", 60, 40)


async def test_a_request_waits_for_what_may_come_free() -> None:
    """A request that fits only when another uses less than it reserved waits for it, and then goes."""
    kept = ledger(tokens=100)
    first = await kept.reserve("small", 40, 40)
    waiting = asyncio.create_task(kept.reserve("small", 30, 30))
    await asyncio.sleep(0)
    assert not waiting.done()
    first.settle(10, 10)
    assert isinstance(await waiting, LedgerEntry)


async def test_a_request_that_waited_in_vain_is_refused() -> None:
    """When what was in flight did use its reservation, whoever waited for it is refused."""
    kept = ledger(tokens=100)
    first = await kept.reserve("small", 40, 40)
    waiting = asyncio.create_task(kept.reserve("small", 30, 30))
    await asyncio.sleep(0)
    first.settle(40, 40)
    with pytest.raises(SpendRefused, match="limit on tokens: 100 allowed, 80 spent"):
        await waiting


async def test_the_cap_holds_under_concurrency() -> None:
    """Five hundred requests at once spend no more than the cap, use most of it, and all end."""
    kept, rng = ledger(tokens=5000), random.Random(1)
    spent = 0

    async def request() -> None:
        nonlocal spent
        n_prompt, n_generated = rng.randint(1, 60), rng.randint(1, 60)
        entry = await kept.reserve("small", n_prompt, n_generated)
        await asyncio.sleep(rng.random() / 100)
        used = rng.randint(0, n_generated)
        spent += n_prompt + used
        entry.settle(n_prompt, used)

    endings = await asyncio.gather(*(request() for _ in range(500)), return_exceptions=True)
    assert kept.spent.tokens == spent <= 5000
    assert spent > 4500
    assert {type(ending) for ending in endings} == {type(None), SpendRefused}


async def test_a_cancelled_request_gives_its_place_back() -> None:
    """Whoever is cancelled while waiting, or at the moment of being let in, holds nothing."""
    kept = ledger(tokens=100)
    first = await kept.reserve("small", 50, 50)
    waiting = [asyncio.create_task(kept.reserve("small", 50, 50)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    first.settle(0, 0)
    waiting[1].cancel()
    (await waiting[2]).settle(50, 50)
    assert kept.spent.tokens == 100
    for task in waiting[:2]:
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_settling_twice_counts_once() -> None:
    """A second settlement of the same reservation is ignored."""
    kept = ledger(tokens=100)
    entry = await kept.reserve("small", 10, 10)
    entry.settle(10, 0)
    entry.settle(10, 10)
    assert kept.spent.tokens == 10


async def test_time_is_limited() -> None:
    """After the allowed minutes no request is let in."""
    clock = Clock()
    kept = ledger(clock, minutes=2)
    (await kept.reserve("small", 1, 1)).settle(1, 1)
    clock.now += 120
    assert kept.reached() == "limit on minutes reached: 2 of 2"
    with pytest.raises(SpendRefused, match="limit on minutes reached: 2"):
        await kept.reserve("small", 1, 1)


async def test_time_is_kept_for_the_test_phase() -> None:
    """What the test phase may take of the time ends the search before the limit, and is then there for it."""
    clock = Clock()
    kept = ledger(clock, minutes=2)
    kept.reserve_minutes = 0.5
    clock.now += 100
    assert kept.reached() == "limit on minutes reached: 1.66667 of 2 (the test may take 0.5)"
    with pytest.raises(SpendRefused, match="limit on minutes reached: 2"):
        await kept.reserve("small", 1, 1)
    kept.reserve_minutes = 0.0
    (await kept.reserve("small", 1, 1)).settle(1, 1)


def test_trials_are_limited() -> None:
    """The number of trials is one of the limits."""
    kept = ledger(trials=3)
    assert kept.reached(2) is None
    assert kept.reached(3) == "limit on trials reached: 3 of 3"


async def test_what_is_kept_for_the_end_is_told_beside_the_limit() -> None:
    """A reserve, however large, leaves the limit as it was given in every message, and stands beside it."""
    kept = ledger(tokens=3000)
    (await kept.reserve("small", 1000, 260)).settle(1000, 260)
    assert kept.reached() is None
    kept.reserve_for_end = Spending(tokens=5040)
    assert kept.reached() == ("limit on tokens reached: 1260 of 3000 (the test may take 5040)")
    with pytest.raises(SpendRefused, match=r"3000 allowed \(the test may take 1800\), 1260 spent"):
        kept.reserve_for_end = Spending(tokens=1800)
        await kept.reserve("small", 1, 1)


async def test_a_model_outside_the_pipeline_costs_tokens() -> None:
    """The agent's own model is counted in tokens."""
    kept = ledger(tokens=100)
    (await kept.reserve("agent", 20, 20)).settle(20, 10)
    assert kept.spent == Spending(tokens=30)


def test_caps_are_positive() -> None:
    """A cap of 0 is an error that says how to have none."""
    with pytest.raises(UserError, match="a limit on tokens is > 0, got 0; leave it out"):
        SearchLimits(tokens=0)


def test_money_needs_prices() -> None:
    """A cap in dollars with a model that has no price is refused, and names the model."""
    models = {**SPEC.models, "free": SPEC.models["small"].model_copy(update={"price": None})}
    with pytest.raises(UserError, match="and free has none"):
        Ledger(SearchLimits(usd=1), models, clock=Clock())


async def test_a_resumed_ledger_knows_what_was_spent(tmp_path: Path) -> None:
    """The store's samples of a run, those of a model outside the pipeline too, are spent already."""
    with Store.open(tmp_path / "run.duckdb") as store:
        store.start_run(made.run("r1", started_at=0.0))
        for name in ("small", "agent"):
            content = {"messages": [{"role": "user", "content": "x"}]}
            prompt = make_prompt(model_key(name, None), content, {"temperature": 1.0})
            prompt = Prompt(
                key=prompt.key,
                model_key=prompt.model_key,
                content=prompt.content,
                sampling=prompt.sampling,
                prompt_tokens=10,
            )
            await store.put_samples(
                prompt,
                [
                    Sample(
                        prompt_key=prompt.key,
                        index=index,
                        text="",
                        generated_tokens=5,
                        mean_logprob=None,
                        finish_reason="stop",
                        run_id="r1",
                        request_id=f"{name}-{index}",
                    )
                    for index in range(2)
                ],
                Payment(
                    run_id="r1",
                    model_key=prompt.model_key,
                    prompt_key=prompt.key,
                    calls=2,
                    samples_drawn=2,
                    prompt_tokens=10,
                    generated_tokens=10,
                ),
            )
        limits = SearchLimits(tokens=50)
        kept = Ledger.resumed(limits, SPEC, clock=Clock(), store=store, run_id="r1")
    assert (kept.spent.tokens, kept.spent.flops) == (40, 2 * 1e6 * 20)
    assert kept.spent.usd == pytest.approx(30e-6)
    with pytest.raises(SpendRefused, match="50 allowed, 40 spent"):
        await kept.reserve("small", 10, 5)


def test_a_limit_in_flops_needs_active_parameters() -> None:
    """FLOPs that nobody knows can't be limited: the model is named, and what to limit instead."""
    spec = small_spec(params={"small": 1}, model={**PRICED, "active_params": None}, budget=None, usd=0.01)
    with pytest.raises(UserError, match=r"needs the active parameters of every model, and small has none"):
        Ledger(SearchLimits(flops=1e9), spec.models, clock=Clock())
