"""Seconds for one more proposal after 50 trials: `python benchmarks/proposal_time.py`.

On a simulated pipeline of five stages, six models and up to 64 samples at each, 200 examples: random search
makes 50 trials, then each proposer is asked for the next one, several times.

Measured 2026-11-24 on two cores, one of them busy (6.3e12 allocations; median of 5): solve 1.55 s, insights
0.037 s, greedy 0.000 s, halving 0.035 s, gp 2.55 s, tpe 0.011 s, nsga2 0.006 s, random 0.005 s.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import replace

import numpy as np

from agenttts.compare.landscapes import FAMILIES, Landscape, pipeline
from agenttts.compare.simulation import SimulatedSearch
from agenttts.proposers.registry import classical_proposer

PROPOSERS = "solve,insights,greedy,halving,gp,tpe,nsga2,random"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    kind = replace(FAMILIES["deep"], stages=(5, 5), models=(6, 6), samples=(64,), examples=(200,))
    space, outcomes, truth = pipeline(kind, "large", np.random.default_rng(0), n_truth=1)
    landscape = Landscape(name="large", space=space, outcomes=outcomes, truth=truth, best=1.0, exact=False)
    search = SimulatedSearch(landscape, classical_proposer("random"), 0, seeded=True)
    asyncio.run(search.run(trials=arguments.trials))
    print(f"{space.size:.3g} allocations, {arguments.trials} trials of history")
    for name in PROPOSERS.split(","):
        proposer, took = classical_proposer(name), []
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            asyncio.run(proposer.propose(search.view(search.step, 1), 1))
            took.append(time.perf_counter() - began)
        print(f"{name:10s} {statistics.median(took):.3f} s, at most {max(took):.3f} s")


if __name__ == "__main__":
    main()
