"""A policy against fixed allocations on real vLLM servers: `python benchmarks/adaptive_live.py`.

Searches the zoo on its bank (`replay=True`, 85 units) and starts vLLM servers for the models that are then
needed. On test questions whose samples are all drawn anew, without the bank and in a database for each turn,
by turns, and in the opposite order in every second round:

- best fixed: the winner of the search, with plain votes;
- fixed at its cost: the best allocation that costs no more than the policy, with plain votes;
- best fixed, weighted: the winner with the votes that the policy's first rung takes;
- policy: what the search chose, its thresholds as they are.

Scores are means over a question's turns, with intervals over the questions. A query's seconds are those from
its first request to its outcome, with one and with 32 queries under way together. Every outcome must be that
of two replays of the samples that it drew: by `PolicyRunner` without servers (answer, rung, confidence,
samples), and by the arrays from which policies are chosen (score, units, last rung).

Figures of 60 questions in two rounds are in docs/log.md: all 960 outcomes are those of both replays, the
policy is 0.104 [0.042, 0.175] better than the best fixed allocation, and takes 1.4 to 2.9 times its time,
since models this small take their time for requests and not for tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

import numpy as np

from agenttts import search
from agenttts.policies.choices import replay_policy
from agenttts.policies.paths import Tables
from agenttts.policies.rates import Rates
from agenttts.space.units import query_units
from agenttts.stats import Interval, Stream, mean_interval, paired_difference, stream_rng
from datastore import Store
from pipelines import PipelineSpec, Policy, load_examples, load_spec
from pipelines.examples import Example
from pipelines.policy import Rung, StagePlan
from pipelines.runtime import PolicyOutcome, PolicyRunner, Runtime
from pipelines.servers.clients import ModelClients
from pipelines.servers.group import ServerGroup, commands
from pipelines.zoo import SPEC

BUDGET, AT_ONCE = 85.0, (1, 32)
BEST, SAME_COST, WEIGHTED, ADAPTIVE = "best fixed", "fixed at its cost", "best fixed, weighted", "policy"
Examples: TypeAlias = Sequence[Example]
DECIDED = attrgetter("outcome.output", "outcome.score", "rung", "n_rungs", "confidence", "n_samples", "flops")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One policy on all questions, in a database of its own; seconds are the wall time of all."""

    at_once: int
    outcomes: Sequence[PolicyOutcome]
    seconds: float


def contestants(folder: Path) -> dict[str, Policy]:
    """Search on the bank; return what is compared."""
    result = search(SPEC, replay=True, budget=BUDGET, policy="adaptive", db=folder / "search.duckdb")
    assert result.best and result.adaptive and result.adaptive.choice.fixed
    best, policy = result.best.allocation, result.adaptive.policy
    votes = {stage: plan.vote for stage, plan in policy.rungs[0].items()}
    plans = {stage: StagePlan(choice=choice, vote=votes[stage]) for stage, choice in best.items()}
    return {
        BEST: Policy.fixed(best),
        SAME_COST: Policy.fixed(result.adaptive.choice.fixed),
        WEIGHTED: Policy(rungs=(Rung(plans),)),
        ADAPTIVE: policy,
    }


async def live(spec: PipelineSpec, policy: Policy, examples: Examples, db: Path, at_once: int) -> Turn:
    """Run a policy with an empty database."""
    clients, slots = ModelClients(spec, rng=random.Random(0)), asyncio.Semaphore(at_once)
    with Store.open(db) as store:
        runner = PolicyRunner(Runtime(spec, store, clients, run_id=None), policy)

        async def run(example: Example) -> PolicyOutcome:
            async with slots:
                return await runner.run_example(example)

        started = time.monotonic()
        outcomes = await asyncio.gather(*map(run, examples))
        seconds = time.monotonic() - started
    await clients.aclose()
    faults = [ran.outcome.reason for ran in outcomes if ran.outcome.status != "ok"]
    assert not faults, faults
    return Turn(at_once=at_once, outcomes=outcomes, seconds=seconds)


async def require_equal_replay(
    spec: PipelineSpec, policy: Policy, examples: Examples, db: Path, turn: Turn
) -> None:
    """Fail unless both replays of a turn's own samples come to its outcomes."""
    with Store.open(db) as store:
        runner = PolicyRunner(Runtime(spec, store, None, run_id=None, replay=True), policy)
        tables = Tables(spec, store, examples, rates=Rates.units(spec), orders=(0,))
        await tables.add(policy.rungs)
        arrays = replay_policy(policy, [tables.path(rung) for rung in policy.rungs])
        for i, (example, ran) in enumerate(zip(examples, turn.outcomes, strict=True)):
            again = await runner.run_example(example)
            assert again.calls == 0 and DECIDED(again) == DECIDED(ran), (example.id, again, ran)
            units = arrays.costs[0, i] + tables.rates.per_query
            assert arrays.scores[0, i] == ran.outcome.score and arrays.last_rung[0, i] == ran.n_rungs - 1
            assert math.isclose(units, query_units(spec, ran.flops or 0.0)), (example.id, units, ran)


def mean_scores(turns: Sequence[Turn]) -> dict[str, float]:
    """The score of each question, averaged over turns."""
    by_question = zip(*([ran.outcome for ran in turn.outcomes] for turn in turns), strict=True)
    return {of[0].example_id: fmean(outcome.score or 0.0 for outcome in of) for of in by_question}


def show(spec: PipelineSpec, turns: Mapping[str, Sequence[Turn]]) -> None:
    """Print what each came to, and the policy's differences and ratios to it."""
    ours = mean_scores(turns[ADAPTIVE])
    for name, of in turns.items():
        rans, scores = [ran for turn in of for ran in turn.outcomes], mean_scores(of)
        score = mean_interval(scores.values(), stream_rng(0, Stream.TEST_SCORE))
        paired = paired_difference(ours, scores, stream_rng(0, Stream.POLICY_TEST))
        assert score is not None
        print(f"\n{name}: score {_interval(score)}, policy minus it {_interval(paired)}; of a query")
        figures: dict[str, list[float]] = {
            "units": [query_units(spec, ran.flops or 0.0) for ran in rans],
            "MFLOPs": [(ran.flops or 0.0) / 1e6 for ran in rans],
            "samples": [ran.n_samples for ran in rans],
            "requests": [ran.calls for ran in rans],
            "rungs": [ran.n_rungs for ran in rans],
        }
        for what, values in figures.items():
            print(f"  {what}: mean {np.mean(values):.2f}, p95 {np.quantile(values, 0.95):.2f}")
        for level in sorted({turn.at_once for turn in of}):
            walls = np.array([turn.seconds for turn in of if turn.at_once == level])
            own = np.array([turn.seconds for turn in turns[ADAPTIVE] if turn.at_once == level])
            seconds = [ran.seconds for turn in of if turn.at_once == level for ran in turn.outcomes]
            median, p95 = np.quantile(seconds, (0.5, 0.95))
            print(
                f"  {level} at once: median {median:.3f} s, p95 {p95:.3f} s; all queries {walls.round(1)} s, "
                f"policy's time to that {(own / walls).round(2)}"
            )


def _interval(of: Interval) -> str:
    return f"{of.mean:.3f} [{of.low:.3f}, {of.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=100, help="test questions, at most 400")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    spec = load_spec(SPEC)
    examples, warming = load_examples(spec, "test")[: arguments.examples], load_examples(spec, "search")[:8]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policies = contestants(folder)
        for contestant, policy in policies.items():
            print(f"{contestant}: {policy}", flush=True)
        rungs = [rung for policy in policies.values() for rung in policy.rungs]
        models = sorted({plan.choice.model for rung in rungs for plan in rung.values()})
        turns: dict[str, list[Turn]] = {name: [] for name in policies}
        with ServerGroup(commands(spec, models, device="cpu"), log_dir=folder / "logs"):
            for contestant, policy in policies.items():
                asyncio.run(live(spec, policy, warming, folder / f"{contestant}.duckdb", 8))
            for number, at_once in product(range(arguments.rounds), AT_ONCE):
                for contestant in list(policies)[:: -1 if number % 2 else 1]:
                    db, policy = folder / f"{contestant}-{at_once}-{number}.duckdb", policies[contestant]
                    turns[contestant].append(asyncio.run(live(spec, policy, examples, db, at_once)))
                    asyncio.run(require_equal_replay(spec, policy, examples, db, turns[contestant][-1]))
                print(f"round {number}, {at_once} at once, load {os.getloadavg()[0]:.1f}", flush=True)
        show(spec, turns)
        n_equal = sum(len(turn.outcomes) for turn in turns[ADAPTIVE])
        print(f"\nboth replays of their samples come to the policy's {n_equal} outcomes, and to all others")


if __name__ == "__main__":
    main()
