"""How fast samples go into the store, and what that does to the event loop.

    python benchmarks/store_throughput.py [--puts 1000] [--samples 8] [--rounds 10] [--bank]

Each round is `puts` concurrent `put_samples` of `samples` samples, on prompts not seen before. A task that
only sleeps 1 ms at a time records the longest time for which the loop did not come back to it. `--bank` also
makes a Parquet bank of 15,000 prompts with 33 samples each and times attaching it and looking 200 prompts up.

Measured 2026-11-24, two cores with a load average of 5 beside it, ext4, `--bank`: 8,000 samples a round at
24,000 to 132,000 samples/s (median 57,000), each in a few fsynced transactions; longest stall 16 to 103 ms
(median 38; with a load of 2: 45,000 to 84,000 samples/s, 20 to 33 ms, which is the loop's own work of
starting 1,000 tasks at once). Bank of 495,000 samples: export 2.4 s (5.7 MB), attach 0.6 s, import 1.3 s;
200 attached prompts (6,600 samples) 26 to 35 ms, 200 stored ones 120 to 140 ms (29 ms of processor time),
either again 0.3 ms.
A primary key on samples made inserts 1.4 times as slow and the file 2.3 times as large.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path

from datastore import Prompt, Sample, Store, make_prompt

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 64, "stop": []}


def drawn(number: int, n_samples: int, rng: random.Random) -> tuple[Prompt, list[Sample]]:
    """A prompt of about 400 characters and samples of about 60."""
    question = f"Question {number}: " + " ".join(f"fact {rng.randrange(1000)}" for _ in range(40))
    prompt = make_prompt("small", {"messages": [{"role": "user", "content": question}]}, SAMPLING, 120)
    return prompt, [
        Sample(
            prompt_key=prompt.key,
            index=index,
            text=f"The answer is {rng.randrange(50)}, since fact {rng.randrange(1000)} says so, I think.",
            generated_tokens=20,
            mean_logprob=-rng.random(),
            finish_reason="stop",
            run_id="run",
            request_id=f"request-{number}",
        )
        for index in range(n_samples)
    ]


async def longest_stall(stop: asyncio.Event) -> float:
    """Seconds, beyond the 1 ms slept, until `stop` is set."""
    worst = 0.0
    while not stop.is_set():
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        worst = max(worst, time.perf_counter() - before - 0.001)
    return worst


async def measure_puts(path: Path, puts: int, n_samples: int, rounds: int) -> None:
    rng = random.Random(0)
    with Store.open(path) as store:
        for number in range(rounds):
            work = [drawn(number * puts + i, n_samples, rng) for i in range(puts)]
            stop = asyncio.Event()
            watch = asyncio.create_task(longest_stall(stop))
            await asyncio.sleep(0.01)
            before = time.perf_counter()
            await asyncio.gather(*(store.put_samples(prompt, samples) for prompt, samples in work))
            took_s = time.perf_counter() - before
            stop.set()
            stall_s = await watch
            print(
                f"round {number}: {puts * n_samples / took_s:,.0f} samples/s, "
                f"longest stall of the event loop {1000 * stall_s:.1f} ms"
            )


async def measure_bank(folder: Path, prompts: int = 15_000, n_samples: int = 33) -> None:
    rng = random.Random(1)
    keys = []
    with Store.open(folder / "full.duckdb") as store:
        for start in range(0, prompts, 1000):
            work = [drawn(start + i, n_samples, rng) for i in range(1000)]
            keys += [prompt.key for prompt, _ in work]
            await asyncio.gather(*(store.put_samples(prompt, samples) for prompt, samples in work))
        before = time.perf_counter()
        count = store.export_bank(folder / "bank.parquet")
        size = (folder / "bank.parquet").stat().st_size / 1e6
        print(f"export of {count:,} samples: {time.perf_counter() - before:.2f} s, {size:.1f} MB")
    with Store.open(folder / "full.duckdb") as store:
        for _ in range(2):
            await timed_look_up(store, keys, rng, "stored")
    with Store.open(folder / "empty.duckdb") as store:
        before = time.perf_counter()
        store.attach_bank(folder / "bank.parquet")
        print(f"attach: {time.perf_counter() - before:.2f} s")
        for _ in range(2):
            await timed_look_up(store, keys, rng, "attached")
        before = time.perf_counter()
        count = store.import_bank(folder / "bank.parquet")
        print(f"import of {count:,} samples: {time.perf_counter() - before:.2f} s")


async def timed_look_up(store: Store, keys: list[str], rng: random.Random, what: str) -> None:
    wanted = rng.sample(keys, 200)
    for again in ("first", "again"):
        before = time.perf_counter()
        found = await store.get_samples(wanted)
        took_ms = 1000 * (time.perf_counter() - before)
        assert all(found.values())
        print(f"200 {what} prompts, {again}: {took_ms:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--puts", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--bank", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(
            measure_puts(Path(folder) / "b.duckdb", arguments.puts, arguments.samples, arguments.rounds)
        )
        if arguments.bank:
            asyncio.run(measure_bank(Path(folder)))


if __name__ == "__main__":
    main()
