"""The limiter: never more in flight than allowed, half at overload, more again as answers come."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.servers.limiter import AdaptiveLimiter


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_no_more_requests_than_the_limit_are_in_flight() -> None:
    """With 50 callers and a limit of 4, at most 4 are inside at once, and all get in."""
    limiter, inside, most, done = AdaptiveLimiter(start=4, most=4), 0, 0, 0

    async def call() -> None:
        nonlocal inside, most, done
        async with limiter:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
        done += 1

    await asyncio.gather(*(call() for _ in range(50)))
    assert (most, done, limiter.in_flight) == (4, 50, 0)


async def test_overload_halves_once_a_round_trip() -> None:
    """Requests that started before a halving and report overload after it halve nothing further."""
    limiter = AdaptiveLimiter(start=32, most=64)
    epochs = [await limiter.__aenter__() for _ in range(3)]
    for epoch in epochs:
        limiter.overloaded(epoch)
    assert limiter.limit == 16
    limiter.overloaded(await limiter.__aenter__())
    assert limiter.limit == 8


async def test_a_full_round_of_answers_adds_one_place() -> None:
    """While the limit is used up, as many answers as there are places add about one place, up to the most."""
    limiter = AdaptiveLimiter(start=8, most=10)
    for _ in range(8):
        await limiter.__aenter__()
    for _ in range(9):
        limiter.answered()
    assert limiter.limit == 9
    await limiter.__aenter__()
    for _ in range(200):
        limiter.answered()
    assert limiter.limit <= 10


async def test_answers_add_nothing_while_places_are_free() -> None:
    """A server that was never asked for more is not known to bear more."""
    limiter = AdaptiveLimiter(start=8, most=64)
    async with limiter:
        for _ in range(100):
            limiter.answered()
    assert limiter.limit == 8


async def test_retry_after_holds_every_request_back() -> None:
    """After an overload with Retry-After nothing starts until that time is over."""
    clock = Clock()
    limiter = AdaptiveLimiter(start=4, most=4, clock=clock)
    async with limiter as epoch:
        limiter.overloaded(epoch, retry_after_s=0.02)
    waiting = asyncio.create_task(limiter.__aenter__())
    await asyncio.sleep(0.05)  # by the limiter's clock no time has passed
    assert not waiting.done()
    clock.now_s = 0.02
    await asyncio.wait_for(waiting, 30)


async def test_a_cancelled_caller_leaves_no_place_taken() -> None:
    """Callers cancelled while they wait, or just after they were let in, take nothing with them."""
    limiter = AdaptiveLimiter(start=1, most=1)
    await limiter.__aenter__()
    waiting = [asyncio.create_task(limiter.__aenter__()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await limiter.__aexit__()
    waiting[1].cancel()  # let in, but not yet running
    await asyncio.wait_for(waiting[2], 30)
    assert limiter.in_flight == 1
    assert all(task.cancelled() for task in waiting[:2])


@given(st.lists(st.booleans(), max_size=200))
async def test_the_limit_stays_between_one_and_the_most(answers: list[bool]) -> None:
    """Whatever comes, at least one request may be in flight and never more than the most."""
    limiter = AdaptiveLimiter(start=5, most=20)
    for good in answers:
        async with limiter as epoch:
            if good:
                limiter.answered()
            else:
                limiter.overloaded(epoch)
        assert 1 <= limiter.limit <= 20


def test_a_start_above_the_most_is_refused() -> None:
    """The places at first are between one and the most."""
    with pytest.raises(ValueError, match="start must be from 1 to most=4, got 5"):
        AdaptiveLimiter(start=5, most=4)
