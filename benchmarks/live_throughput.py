"""A live search against a bare load generator: `python benchmarks/live_throughput.py --examples 100`.

Starts the zoo's three models with vLLM and, by rounds, runs a search of 20 trials with an empty bank, then
sends the very same requests again from a bare generator: httpx2, as many connections, no store, no parsing,
no limiter. The generator keeps what a pipeline imposes on anybody: one trial after another, and for each
example the answer request after its retrieve request. Compared are samples per second while trials are
evaluated.

Measured 2026-11-24, two cores that servers and clients share, vLLM 0.32 CPU, `--examples 100 --rounds 3`:
search 703, 798, 876 samples/s; bare 622, 717, 726; ratios 1.13, 1.11, 1.21. With the cores shared, the bare
rate is no upper bound.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from agenttts import search
from agenttts.search.events import SearchEvent, TrialStarted
from datastore import Store
from pipelines import PipelineSpec, SamplingSpec, load_examples, load_spec
from pipelines.content import Content
from pipelines.servers import server
from pipelines.servers.group import ServerGroup, commands
from pipelines.servers.wire import Ask, Draw, Terms, request_body
from pipelines.zoo import SPEC

TRIALS, IN_FLIGHT = 20, 64
Chains = dict[int, dict[str, list[tuple[str, dict[str, Any]]]]]


@dataclass
class Recorder:
    """Notes every request of a search by trial and question, in order; those of the test split are left out.

    Events come a moment late, so that a trial's first requests may count as the last of the trial before.
    """

    questions: frozenset[str]

    trial: int = 0
    chains: Chains = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def on_event(self, event: SearchEvent) -> None:
        if isinstance(event, TrialStarted):
            self.trial = event.number

    def note(self, base_url: str, name: str, content: Content, sampling: SamplingSpec, n: int) -> None:
        ask = Ask(served_name=name, content=content, sampling=sampling, n=n, fields={})
        question = str(content["messages"][0]["content"]).partition("\n")[0]
        if question in self.questions:
            self.chains[self.trial][question].append((base_url + ask.path, request_body(ask, Terms())))


def searched(spec: PipelineSpec, db: Path, seed: int) -> tuple[float, int, Recorder]:
    """Seconds of evaluation, samples drawn, and the requests."""
    questions = frozenset(f"Question: {e.fields['question']}" for e in load_examples(spec, "search"))
    recorder, draw = Recorder(questions), server.ServerClient.draw

    async def noted(
        self: server.ServerClient,
        name: str,
        content: Content,
        sampling: SamplingSpec,
        n: int,
        **settings: Any,
    ) -> Draw:
        recorder.note(self.address, name, content, sampling, n)
        return await draw(self, name, content, sampling, n, **settings)

    patched: Any = server.ServerClient
    patched.draw = noted
    try:
        result = search(
            spec,
            trials=TRIALS,
            proposer="insights",
            seed=seed,
            db=db,
            banks=[],
            max_in_flight=IN_FLIGHT,
            on_event=recorder.on_event,
        )
    finally:
        patched.draw = draw
    with Store.read(db) as store:
        trials = [trial for trial in store.trials(result.run_id) if trial.split == "search"]
    assert all(trial.n_missing == 0 for trial in trials)
    seconds = sum((trial.finished_at or 0.0) - trial.started_at for trial in trials if trial.samples_drawn)
    return seconds, sum(trial.samples_drawn for trial in trials), recorder


async def bare(chains: Chains) -> tuple[float, int]:
    """Seconds and samples of the same requests."""
    limits = httpx2.Limits(max_connections=None, keepalive_expiry=2.0)  # servers close idle ones after 5 s
    slots: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(IN_FLIGHT))
    samples = 0
    async with httpx2.AsyncClient(limits=limits, timeout=300, trust_env=False) as client:

        async def chain(requests: list[tuple[str, dict[str, Any]]]) -> int:
            drawn = 0
            for url, body in requests:
                async with slots[url]:
                    answer = await client.post(url, json=body)
                drawn += len(answer.raise_for_status().json()["choices"])
            return drawn

        started = time.monotonic()
        for number in sorted(chains):
            samples += sum(await asyncio.gather(*map(chain, chains[number].values())))
        return time.monotonic() - started, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = load_spec(SPEC)
        rows = {
            split: (spec.root / f"data/{split}.jsonl").read_text().splitlines()
            for split in ("search", "test")
        }
        (folder / "search.jsonl").write_text("\n".join(rows["search"][: arguments.examples]))
        asked = {json.loads(row)["question"] for row in rows["search"]}
        others = [row for row in rows["test"] if json.loads(row)["question"] not in asked]
        (folder / "test.jsonl").write_text("\n".join(others[:20]))
        dataset = spec.dataset.model_copy(
            update={"search": str(folder / "search.jsonl"), "test": str(folder / "test.jsonl")}
        )
        spec = spec.model_copy(update={"dataset": dataset, "bank": None})
        ratios = []
        with ServerGroup(commands(spec), log_dir=folder / "logs"):
            for number in range(arguments.rounds):
                seconds, samples, recorder = searched(spec, folder / f"{number}.duckdb", seed=number)
                bare_seconds, bare_samples = asyncio.run(bare(recorder.chains))
                assert samples == bare_samples, (samples, bare_samples)
                ratios.append(bare_seconds / seconds)
                print(
                    f"round {number}: {samples:,} samples; search {samples / seconds:,.0f}/s, "
                    f"bare {samples / bare_seconds:,.0f}/s, ratio {ratios[-1]:.2f}",
                    flush=True,
                )
        print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
