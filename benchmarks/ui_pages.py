"""How large and how fast the pages and the report of a large run are: 1,000 examples × 3 stages × 60 trials.

`python benchmarks/ui_pages.py [--examples 1000] [--trials 60] [--samples 8]` writes such a run with the
store's own methods, its scores and texts made up, serves it with `agenttts ui` and asks for each page three
times.

2026-11-27, two cores with other work beside it; a run that has not finished, so that its outcome is computed:
the database is 28 MB, the report 1.34 MB in 7.4 s. A run's page takes 7.2 s the first time after each change
and 0.16 s afterwards (48 kB), a trial's 0.25 to 0.45 s (20 kB), an example's 0.2 to 0.5 s (19 kB).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path

from agenttts.report.data import read_report
from agenttts.report.html import save_html
from agenttts.results.trials import trial_id
from agenttts.settings import SearchSettings
from datastore import ExampleScore, Prompt, Run, Sample, StageResult, Store, Trial, canonical_json, prompt_key
from pipelines.spec.files import dump_spec, spec_digest
from tests.agenttts.small_specs import small_spec

WORDS = ("the", "team", "that", "follows", "Irene", "has", "left", "its", "coach", "and", "joined", "another")


def write_run(folder: Path, n_examples: int, n_trials: int, n_samples: int) -> Path:
    """Write the run; the path of its database."""
    rng = random.Random(0)
    ids = [f"example-{i:04d}" for i in range(n_examples)]
    for split, chosen in (("search", ids), ("test", ["test-0"])):
        rows = [{"id": key, "question": f"{key}: {_text(rng, 60)}", "gold": "red"} for key in chosen]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = {"search": "search.jsonl", "test": "test.jsonl", "id_field": "id"}
    spec = small_spec(stages=({}, {}, {}), dataset=dataset, root=folder)
    stages = [stage.name for stage in spec.stages]
    settings = SearchSettings(budget_units=1e6, proposer="made up").to_json_dict() | {
        "n_examples": n_examples
    }
    db = folder / "large.duckdb"
    with Store.open(db) as store:
        dumped, digest = dump_spec(spec), spec_digest(spec)
        run = Run(
            run_id="large",
            spec=dumped,
            spec_digest=digest,
            settings=json.dumps(settings),
            status="stopped",
            started_at=0.0,
            finished_at=None,
            outcome=None,
        )
        store.start_run(run)
        keys = asyncio.run(_put_samples(store, ids, stages, n_samples, rng))
        for number in range(n_trials):
            asyncio.run(_put_trial(store, number, ids, stages, keys, rng))
    return db


def _text(rng: random.Random, n_words: int) -> str:
    return " ".join(rng.choices(WORDS, k=n_words))


async def _put_samples(
    store: Store, ids: Sequence[str], stages: Sequence[str], n_samples: int, rng: random.Random
) -> dict[tuple[str, str], str]:
    keys, puts = {}, []
    for example_id in ids:
        for stage in stages:
            messages = [{"role": "user", "content": f"{stage} {example_id} {_text(rng, 120)}"}]
            content, sampling = canonical_json({"messages": messages}), canonical_json({"temperature": 1.0})
            key = keys[example_id, stage] = prompt_key("small", content, sampling)
            prompt = Prompt(key=key, model_key="small", content=content, sampling=sampling, prompt_tokens=160)
            samples = [
                Sample(
                    prompt_key=key,
                    index=i,
                    text=rng.choice(("red", _text(rng, 30))),
                    generated_tokens=40,
                    mean_logprob=-0.5,
                    finish_reason="stop",
                    run_id="large",
                    request_id=None,
                )
                for i in range(n_samples)
            ]
            puts.append(store.put_samples(prompt, samples))
    await asyncio.gather(*puts)
    return keys


async def _put_trial(
    store: Store,
    number: int,
    ids: Sequence[str],
    stages: Sequence[str],
    keys: dict[tuple[str, str], str],
    rng: random.Random,
) -> None:
    n = 1 + number % 8
    right = {key: float(rng.random() < 0.5 + number / 300) for key in ids}
    choice = {"model": ("small", "large")[number % 2], "n_samples": n}
    identity = trial_id("large", number)
    store.begin_trial(
        Trial(
            trial_id=identity,
            run_id="large",
            number=number,
            purpose="search",
            split="search",
            allocation=json.dumps(dict.fromkeys(stages, choice)),
            proposer="made up",
            reason="it is one of many",
            status="complete",
            score=sum(right.values()) / len(ids),
            n_scored=len(ids),
            budget_units=10.0 + number,
            flops_per_query=1e9,
            samples_reused=3 * n * len(ids),
            started_at=float(number),
            finished_at=number + 1.0,
        )
    )
    results = [
        StageResult(
            trial_id=identity,
            example_id=key,
            stage=stage,
            model_key="small",
            n_samples=n,
            prompt_key=keys[key, stage],
            output='"red"',
            score=None,
            status="ok",
            reason=None,
            prompt_tokens=160,
            generated_tokens=40 * n,
            flops=3e8,
            cost_usd=None,
            samples_drawn=0,
            samples_reused=n,
        )
        for key in ids
        for stage in stages
    ]
    await store.put_stage_results(results)
    scores = [
        ExampleScore(trial_id=identity, example_id=key, score=score, status="ok", reason=None)
        for key, score in right.items()
    ]
    await store.put_scores(scores)


def measure(db: Path, last: int) -> None:
    """Serve the database and print bytes and seconds of each page, the first time and after."""
    command = [sys.executable, "-m", "agenttts", "ui", str(db), "--no-browser"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port, token = re.findall(r":(\d+)/\?token=(\S+)", process.stderr.readline())[0]
        run = "/runs/large"
        trial = f"{run}/trials/{last}"
        pages = {
            "runs": "/",
            "run": run,
            "trial": trial,
            "wrong": f"{trial}?show=wrong",
            "changed": f"{trial}?show=changed&against=0",
            "cut": f"{trial}?show=cut",
            "example": f"{trial}/examples/example-0017",
        }
        for name, path in pages.items():
            seconds = []
            for _ in range(3):
                started = time.perf_counter()
                connection = HTTPConnection("127.0.0.1", int(port), timeout=300)
                connection.request("GET", path, headers={"Cookie": f"agenttts_{port}={token}"})
                answer = connection.getresponse()
                body = answer.read()
                seconds.append(time.perf_counter() - started)
                assert answer.status == 200, (path, answer.status, body[-200:])
            print(f"{name:<8} {len(body):>9,} bytes  " + "  ".join(f"{s:.2f} s" for s in seconds))
        process.send_signal(signal.SIGINT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("examples", 1000), ("trials", 60), ("samples", 8)):
        parser.add_argument(f"--{option}", type=int, default=default)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        database = write_run(Path(place), chosen.examples, chosen.trials, chosen.samples)
        print(f"written in {time.perf_counter() - started:.0f} s, {database.stat().st_size:,} bytes")
        started = time.perf_counter()
        with Store.read(database) as store:
            page = save_html(read_report(store, solve=False), Path(place) / "report.html")
        print(f"report   {page.stat().st_size:>9,} bytes  {time.perf_counter() - started:.2f} s")
        measure(database, chosen.trials - 1)
