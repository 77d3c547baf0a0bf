"""Samples go in once and come out again, from the store and from memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datastore import ReadOnlyStore, Sample, Store, StoreClosed, StoreError
from datastore.samples import Cache
from tests.datastore import made


async def test_samples_come_back_by_index(store: Store, path: Path) -> None:
    """Samples are returned in order of index, from memory at once and from the file after reopening."""
    prompt = made.prompt()
    samples = [made.sample(prompt, index, f"text {index}") for index in (2, 0, 1)]
    await store.put_samples(prompt, samples)
    expected = {prompt.key: sorted(samples, key=lambda s: s.index)}
    assert await store.get_samples([prompt.key]) == expected
    store.close()
    with Store.open(path) as again:
        assert await again.get_samples([prompt.key]) == expected
        assert await again.get_prompt(prompt.key) == prompt


async def test_unknown_prompts_have_no_samples(store: Store) -> None:
    """A key that nothing is stored for is answered with an empty list, and has no prompt."""
    assert await store.get_samples(["f" * 32]) == {"f" * 32: []}
    assert await store.get_prompt("f" * 32) is None


async def test_the_first_of_two_draws_stays(store: Store, path: Path) -> None:
    """A second sample of an index is ignored: in one call, at the same time, later, and after reopening."""
    prompt = made.prompt()
    await store.put_samples(prompt, [made.sample(prompt, 0, "first"), made.sample(prompt, 0, "again")])
    await asyncio.gather(*(store.put_samples(prompt, [made.sample(prompt, 1, f"{i}")]) for i in range(20)))
    store.close()
    with Store.open(path) as again:
        await again.put_samples(prompt, [made.sample(prompt, i, "late") for i in range(3)])
        found = (await again.get_samples([prompt.key]))[prompt.key]
        assert [sample.text for sample in found] == ["first", "0", "late"]
        assert again.sql('SELECT count(*) AS n FROM samples WHERE "index" < 2').n[0] == 2
        assert again.sql("SELECT count(*) AS n FROM prompts").n[0] == 1


async def test_a_thousand_concurrent_puts(store: Store, path: Path) -> None:
    """Puts of a thousand callers at once are all there, once each, when they have returned."""
    prompts = [made.prompt(number) for number in range(1000)]
    await asyncio.gather(*(store.put_samples(p, [made.sample(p, i) for i in range(8)]) for p in prompts))
    store.close()
    with Store.read(path) as again:
        found = await again.get_samples([prompt.key for prompt in prompts])
        assert all([sample.index for sample in samples] == list(range(8)) for samples in found.values())
        assert again.sql("SELECT count(*) AS n FROM samples").n[0] == 8000


async def test_callers_in_one_tick_share_a_query(store: Store, path: Path) -> None:
    """Look-ups that wait at the same time reach the database together, and repeats do not reach it."""
    prompts = [made.prompt(number) for number in range(50)]
    await asyncio.gather(*(store.put_samples(p, [made.sample(p, 0)]) for p in prompts))
    store.close()
    with Store.open(path) as again:
        asked: list[int] = []
        table = again._samples
        look_up = table.get

        def counting(transaction: object, payloads: Sequence[Sequence[str]]) -> object:
            asked.append(len(payloads))
            return look_up(transaction, payloads)  # type: ignore[arg-type]

        table.get = counting  # type: ignore[assignment, method-assign]
        for _ in range(2):
            await asyncio.gather(*(again.get_samples([prompt.key]) for prompt in prompts))
        assert sum(asked) == 50
        assert len(asked) <= 3


async def test_prompt_tokens_are_filled_in(store: Store, path: Path) -> None:
    """A prompt first stored without a token count gets it from a later put, and keeps it then."""
    prompt = made.prompt(prompt_tokens=None)
    for tokens in (None, 7, 9, None):
        await store.put_samples(replace(prompt, prompt_tokens=tokens), [])
    store.close()
    with Store.read(path) as again:
        assert await again.get_prompt(prompt.key) == replace(prompt, prompt_tokens=7)


async def test_tokens_of_one_tick_are_kept(store: Store) -> None:
    """Of two puts of a new prompt at the same time, the one that knows the token count gives it."""
    prompt = made.prompt(prompt_tokens=None)
    await asyncio.gather(*(store.put_samples(replace(prompt, prompt_tokens=t), []) for t in (None, 7, None)))
    assert await store.get_prompt(prompt.key) == replace(prompt, prompt_tokens=7)


@given(texts=st.lists(st.text(st.characters(exclude_categories=())), min_size=1, max_size=5))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives(tmp_path: Path, texts: list[str]) -> None:
    """Whatever a model wrote comes back, quotes, NULs and all; lone surrogates become U+FFFD."""
    path = tmp_path / "any.duckdb"
    path.unlink(missing_ok=True)
    prompt = made.prompt()
    samples = [made.sample(prompt, index, text) for index, text in enumerate(texts)]

    async def put_and_get() -> list[Sample]:
        with Store.open(path) as store:
            await store.put_samples(prompt, samples)
            cached = await store.get_samples([prompt.key])
        with Store.read(path) as store:
            assert await store.get_samples([prompt.key]) == cached
        return cached[prompt.key]

    expected = ["".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text) for text in texts]
    got = [sample.text for sample in asyncio.run(put_and_get())]
    if not any(_has_pair(text) for text in texts):
        assert got == expected


def _has_pair(text: str) -> bool:
    return any("\ud800" <= a <= "\udbff" and "\udc00" <= b <= "\udfff" for a, b in pairwise(text))


async def test_text_is_never_sql(store: Store) -> None:
    """SQL in a sample, a key or an id is data."""
    evil = "'); DROP TABLE samples; --"
    prompt = made.prompt(model_key=evil)
    await store.put_samples(
        prompt, [made.sample(prompt, 0, evil, run_id=evil)], made.payment(prompt, run_id=evil)
    )
    await store.put_scores([replace(made.score("e", 1.0), trial_id=evil)])
    assert (await store.get_samples([prompt.key, evil]))[prompt.key][0].text == evil
    assert store.run_cost(evil, models=[evil]).samples_drawn == 1
    assert store.scores(evil)["e"].score == 1.0
    assert store.sql("SELECT text FROM samples WHERE text = ?", [evil]).text[0] == evil


async def test_wrong_keys_are_refused(store: Store) -> None:
    """A prompt whose key is not its hash, a sample of another prompt and a negative index are refused."""
    prompt, other = made.prompt(0), made.prompt(1)
    for wrong_prompt, samples in (
        (replace(prompt, key=other.key), []),
        (prompt, [made.sample(other, 0)]),
        (prompt, [made.sample(prompt, -1)]),
    ):
        with pytest.raises(StoreError, match="must"):
            await store.put_samples(wrong_prompt, samples)
    assert store.bank_summary() == []


async def test_a_bad_record_fails_alone(store: Store) -> None:
    """A put that cannot be stored fails, and the puts that shared its transaction do not."""
    good, bad = made.prompt(0), made.prompt(1)
    broken = replace(made.sample(bad, 0), generated_tokens=None)  # type: ignore[arg-type]
    outcomes = await asyncio.gather(
        store.put_samples(good, [made.sample(good, 0)]),
        store.put_samples(bad, [broken]),
        store.put_scores([made.score("e", 1.0)]),
        return_exceptions=True,
    )
    assert outcomes[0] is None and outcomes[2] is None
    assert isinstance(outcomes[1], StoreError)
    found = await store.get_samples([good.key, bad.key])
    assert (len(found[good.key]), len(found[bad.key])) == (1, 0)
    await store.put_samples(bad, [made.sample(bad, 0)])
    assert len((await store.get_samples([bad.key]))[bad.key]) == 1


async def test_a_cancelled_put_still_happens(store: Store) -> None:
    """Who stops waiting for a put does not undo it, nor disturb the others."""
    prompt = made.prompt()
    task = asyncio.create_task(store.put_samples(prompt, [made.sample(prompt, 0)]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.put_samples(prompt, [made.sample(prompt, 1)])
    assert len((await store.get_samples([prompt.key]))[prompt.key]) == 2


async def test_a_closed_store_says_so(store: Store) -> None:
    """Calls after close fail with a clear error; closing again is harmless."""
    store.close()
    store.close()
    with pytest.raises(StoreClosed, match="open it again"):
        store.runs()
    with pytest.raises(StoreClosed):
        await store.put_scores([made.score("e", 1.0)])


async def test_a_reader_does_not_write(store: Store, path: Path) -> None:
    """A store opened for reading refuses every put."""
    store.close()
    with Store.read(path) as reader:
        with pytest.raises(ReadOnlyStore):
            await reader.put_samples(made.prompt(), [])
        with pytest.raises(ReadOnlyStore):
            reader.start_run(made.run())


def test_sql_only_reads(store: Store) -> None:
    """`sql` takes one SELECT and nothing else."""
    for query in (
        "DROP TABLE runs",
        "SELECT 1; DELETE FROM runs",
        "",
        "COPY runs TO '/tmp/x.csv'",
        "SELEC 1",
    ):
        with pytest.raises(StoreError):
            store.sql(query)
    assert store.sql("SELECT $a + 1 AS b", {"a": 1}).b[0] == 2


async def test_many_large_texts_stay_within_the_cache() -> None:
    """The cache forgets the least recently used prompts beyond its size."""
    cache = Cache(most_bytes=10_000)
    prompts = [made.prompt(number) for number in range(10)]
    for prompt in prompts:
        cache.put(prompt.key, (made.sample(prompt, 0, "x" * 2000),))
        cache.get(prompts[0].key)
    kept = [prompt for prompt in prompts if cache.get(prompt.key) is not None]
    assert kept == [prompts[0], *prompts[-len(kept) + 1 :]]
    assert 1 < len(kept) < 5
