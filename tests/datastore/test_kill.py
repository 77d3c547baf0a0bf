"""`kill -9` at any moment: whatever a put returned for is there, and the store opens as ever."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

from datastore import Store

WRITE = """
import asyncio, sys
from datastore import ExampleScore, Sample, Store, make_prompt

async def one(store, round_, number):
    prompt = make_prompt("m", {"prompt": f"{round_}/{number}"}, {}, 1)
    samples = [
        Sample(prompt_key=prompt.key, index=i, text=f"{prompt.key}-{i} " * 40, generated_tokens=1,
               mean_logprob=-1.0, finish_reason="stop", run_id=f"{round_}", request_id=None)
        for i in range(8)
    ]
    await store.put_samples(prompt, samples)
    print("samples", prompt.key, flush=True)
    await store.put_scores([ExampleScore(trial_id=f"{round_}", example_id=prompt.key, score=1.0, status="ok",
                                         reason=None)])
    print("score", prompt.key, flush=True)

async def main(path, round_):
    with Store.open(path) as store:
        print("open -", flush=True)
        number = 0
        while True:
            await asyncio.gather(*(one(store, round_, number + i) for i in range(20)))
            number += 20

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def _write_and_kill(path: Path, round_: int, after_s: float) -> list[list[str]]:
    """What a writer reported until it was killed, `after_s` seconds after it had opened the store."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(path), str(round_)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    lines = [writer.stdout.readline()]
    killer = threading.Timer(after_s, writer.send_signal, [signal.SIGKILL])
    killer.start()
    lines += writer.stdout.readlines()
    killer.join()
    assert writer.wait() == -signal.SIGKILL
    writer.stdout.close()
    return [line.split() for line in lines if line.endswith("\n")]


def test_nothing_that_was_put_is_lost(path: Path) -> None:
    """After several kills at random moments every sample and score reported stored is there, once."""
    rng = random.Random()
    samples: set[str] = set()
    scores: dict[str, set[str]] = {}
    for round_ in range(6):
        for what, key in _write_and_kill(path, round_, rng.uniform(0.02, 1.5)):
            if what == "samples":
                samples.add(key)
            elif what == "score":
                scores.setdefault(str(round_), set()).add(key)
        openings = [Store.read, Store.open] if round_ % 2 else [Store.open]
        for opening in openings:
            with opening(path) as store:
                found = asyncio.run(store.get_samples(sorted(samples)))
                for key, of_key in found.items():
                    assert [s.index for s in of_key] == list(range(8)), key
                    assert all(s.text == f"{key}-{s.index} " * 40 for s in of_key)
                for trial_id, keys in scores.items():
                    assert keys <= store.scores(trial_id).keys()
                twice = store.sql('SELECT 1 FROM samples GROUP BY prompt_key, "index" HAVING count(*) > 1')
                orphans = store.sql("SELECT 1 FROM samples WHERE prompt_key NOT IN (SELECT key FROM prompts)")
                assert len(twice) == len(orphans) == 0
    assert samples
    assert list(path.parent.iterdir()) == [path]


def test_a_kill_while_the_store_is_made(path: Path) -> None:
    """A process killed while it makes a new store leaves none, or a whole one."""
    code = "import sys, datastore; print(flush=True); datastore.Store.open(sys.argv[1])"
    for after_s in (0.0, 0.01, 0.03, 0.1):
        maker = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert maker.stdout is not None
        maker.stdout.readline()
        try:
            maker.wait(after_s)
        except subprocess.TimeoutExpired:
            maker.kill()
        maker.communicate()
        Store.open(path).close()
        path.unlink()
