"""Does evaluation stay as fast and as small over many examples, and over many trials?

    python -m benchmarks.many_examples [--examples 20000] [--trials 200] [--each 50]
        [--in-parts] [--clients 2] [--profile]

Two stages run through `evaluate` with a DuckDB store against a server that does nothing
(`noop_throughput`), with prices. First one trial on many new examples: for each tenth of it samples/s by the
clock, CPU time a sample, and the memory of the process. Then many trials on few examples, whose samples the
bank has after the first: the CPU time of a trial, in tenths of the trials. Figures are in docs/log.md.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from pathlib import Path

from agenttts.results.meter import SampleMeter
from agenttts.search.evaluate import evaluate
from agenttts.search.events import TrialProgress
from agenttts.search.planned import PlannedTrial
from agenttts.space.space import SearchSpace
from benchmarks.noop_throughput import pipeline
from datastore import Store
from datastore.records import Run
from pipelines import Allocation, Example, PipelineSpec, StageChoice
from pipelines.runtime.processes import ClientProcesses
from pipelines.runtime.runtime import Runtime
from pipelines.servers.clients import ModelClients
from pipelines.servers.patience import Patience

N_SAMPLES = 4
PRICE = {"prompt_usd_per_million": 1.0, "generated_usd_per_million": 1.0}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Where the process stands."""

    done: int
    wall_s: float
    cpu_s: float
    memory: int


def reading(done: int) -> Reading:
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return Reading(done=done, wall_s=time.perf_counter(), cpu_s=time.process_time(), memory=memory)


def examples_of(n: int, prefix: str) -> list[Example]:
    question = "Which colour has house {}?"
    return [
        Example(f"{prefix}{i}", {"question": question.format(f"{prefix}{i}"), "gold": "red"})
        for i in range(n)
    ]


class Trials:
    """Evaluates allocations of the pipeline, one trial after another."""

    def __init__(self, spec: PipelineSpec, store: Store, clients: ModelClients) -> None:
        self._spec, self._store = spec, store
        self._space = SearchSpace(spec, 1e9)
        self._runtime = Runtime(spec, store, clients, run_id="many")
        self._numbers = count()

    async def run(
        self,
        n_samples: tuple[int, int],
        examples: list[Example],
        *,
        in_parts: bool = False,
        on_progress: Callable[[TrialProgress], None] | None = None,
    ) -> None:
        first, second = n_samples
        planned = PlannedTrial(
            allocation=Allocation(
                {"first": StageChoice("noop", first), "second": StageChoice("noop", second)}
            ),
            examples=examples,
            purpose="search",
            proposer="benchmark",
            reason="size",
            in_parts=in_parts,
        )
        result = await evaluate(
            planned,
            runtime=self._runtime,
            store=self._store,
            run_id="many",
            number=next(self._numbers),
            space=self._space,
            clock=time.time,
            on_progress=on_progress,
            meter=SampleMeter(self._spec, self._store, examples),
        )
        assert result.status == "complete", result


async def one_long_trial(trials: Trials, n_examples: int, in_parts: bool) -> None:
    """Print samples/s, CPU and memory for each tenth of the examples of one trial."""
    readings = [reading(0)]

    def on_progress(progress: TrialProgress) -> None:
        if progress.n_done >= len(readings) * n_examples // 10:
            readings.append(reading(progress.n_done))

    await trials.run(
        (N_SAMPLES, N_SAMPLES), examples_of(n_examples, "many"), in_parts=in_parts, on_progress=on_progress
    )
    ended = reading(n_examples)
    samples = 2 * N_SAMPLES * n_examples
    wall_s, cpu_s = ended.wall_s - readings[0].wall_s, ended.cpu_s - readings[0].cpu_s
    print(
        f"{n_examples} examples, {'a tenth at a time' if in_parts else 'all at once'}, {samples} samples: ",
        end="",
    )
    print(f"{samples / wall_s:.0f} samples/s by the clock, {cpu_s / samples * 1e6:.0f} us of CPU a sample")
    print("examples  samples/s  us of CPU a sample  memory in MiB")
    for before, after in pairwise(readings):
        samples = 2 * N_SAMPLES * (after.done - before.done)
        rate, cpu_us = samples / (after.wall_s - before.wall_s), (after.cpu_s - before.cpu_s) / samples * 1e6
        print(f"{after.done:8d} {rate:10.0f} {cpu_us:19.0f} {after.memory / 2**20:14.0f}")
    print(f"before the first {readings[0].memory / 2**20:.0f} MiB")


async def many_trials(trials: Trials, n_trials: int, n_each: int) -> None:
    """Print the CPU time of a trial in each tenth of the trials, whose samples the bank has."""
    examples = examples_of(n_each, "few")
    await trials.run((N_SAMPLES, N_SAMPLES), examples)
    readings = [reading(0)]
    for number in range(1, n_trials + 1):
        await trials.run((1 + number % N_SAMPLES, 1 + number // N_SAMPLES % N_SAMPLES), examples)
        if number >= len(readings) * n_trials // 10:
            readings.append(reading(number))
    print(f"{n_trials} trials on {n_each} examples from the bank\n  trials  ms of CPU a trial  memory in MiB")
    for before, after in pairwise(readings):
        cpu_ms = (after.cpu_s - before.cpu_s) / (after.done - before.done) * 1e3
        print(f"{after.done:8d} {cpu_ms:18.1f} {after.memory / 2**20:14.0f}")


async def measure(spec: PipelineSpec, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder, "many.duckdb")) as store:
        rng = random.Random(0)
        clients = (
            ModelClients(spec, rng=rng)
            if options.clients == 1
            else ClientProcesses(
                spec,
                n=options.clients,
                folder=Path(folder, "clients"),
                settled=partial(store.get_prompt, ""),
                rng=rng,
                patience=Patience(),
            )
        )
        store.start_run(
            Run(
                run_id="many",
                spec="{}",
                spec_digest="many",
                settings="{}",
                status="running",
                started_at=time.time(),
                finished_at=None,
                outcome=None,
            )
        )
        trials = Trials(spec, store, clients)
        if options.examples:
            await one_long_trial(trials, options.examples, options.in_parts)
        if options.trials:
            await many_trials(trials, options.trials, options.each)
        await clients.aclose()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if options.clients > 1:
            print(f"{used.ru_utime + used.ru_stime:.0f} s of CPU of {options.clients} client processes")


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--examples", type=int, default=20000)
    arguments.add_argument("--trials", type=int, default=200)
    arguments.add_argument("--each", type=int, default=50, help="examples of each of the trials")
    arguments.add_argument("--in-parts", action="store_true", help="a tenth of the examples at a time")
    arguments.add_argument("--clients", type=int, default=1, help="processes that draw")
    arguments.add_argument("--tokens", type=int, default=8, help="of each sample")
    arguments.add_argument("--profile", action="store_true")
    options = arguments.parse_args()
    script = str(Path(__file__).with_name("noop_throughput.py"))
    command = [sys.executable, script, "--serve", "--tokens", str(options.tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        spec = priced(pipeline(int(server.stdout.readline()), N_SAMPLES, options.tokens, True))
        try:
            profile = cProfile.Profile()
            if options.profile:
                profile.enable()
            asyncio.run(measure(spec, options))
            if options.profile:
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            print(f"load {os.getloadavg()[0]:.1f}")
        finally:
            server.kill()


def priced(spec: PipelineSpec) -> PipelineSpec:
    """The pipeline with a price for its model, since prices are summed too."""
    described = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    described["models"]["noop"] |= {"price": PRICE}
    return PipelineSpec.model_validate(described)


if __name__ == "__main__":
    main()
