"""A search of a comparison, moment by moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agenttts.compare.jobs import Job
from agenttts.compare.landscapes import Landscape
from agenttts.compare.simulation import SimulatedSearch
from agenttts.proposers.base import Proposer
from agenttts.proposers.registry import asks_an_llm, classical_proposer, is_seeded

_MOST_TIMES = 4  # to use up the FLOPs of its planned trials, a search may run this many times as many


@dataclass(frozen=True, kw_only=True)
class SearchMoment:
    """The state of a search after a trial or a part of one: a row of a comparison's Parquet file.

    Attributes:
        landscape: The class of the landscape, or the pipeline's name.
        seed: The seed of the landscape and of the search.
        budget_units: The budget per query, in the measure of the pipeline's; None: the landscape's own.
        proposer: The name of the proposer.
        trial: The number of suggestions tried so far, from 1.
        cells: The number of cells so far: examples of the search, summed over its trials.
        n_examples: The number of cells of a complete trial.
        trials_asked: The number of planned trials; more follow while FLOPs are left.
        allocation: The allocation of the trial, as JSON.
        score: The score of the trial; None when it failed.
        choice: The allocation that the search would return now, as JSON; None while there is none.
        true_score: The true score of `choice`; None when there is no choice.
        best: The largest true score in the space.
        best_by_enumeration: Whether `best` is known for sure.
        regret: `best` minus `true_score`, with 0 for a true score of None.
        flops: The FLOPs spent so far.
        trials_worth: The FLOPs spent so far, in trials of seeded random search on this landscape.
        seconds: The time that the proposer took for this trial, in seconds.
        agent_tokens: The tokens of an LLM that proposes, so far.
    """

    landscape: str
    seed: int
    budget_units: float | None
    proposer: str
    trial: int
    cells: int
    n_examples: int
    trials_asked: int
    allocation: str
    score: float | None
    choice: str | None
    true_score: float | None
    best: float
    best_by_enumeration: bool
    regret: float
    flops: float
    trials_worth: float
    seconds: float
    agent_tokens: int


async def searched(
    job: Job, landscape: Landscape, proposers: Mapping[str, Proposer], *, beyond: bool = True
) -> list[SearchMoment]:
    """Search a landscape with several proposers.

    Args:
        job: The seed, the number of trials and the names.
        landscape: The landscape.
        proposers: The proposers by name.
        beyond: Whether those that ask no LLM go on after the planned trials, while they have spent fewer
            FLOPs than random search.

    Returns:
        Every moment of the searches.
    """
    yardstick = SimulatedSearch(landscape, classical_proposer("random"), job.seed, seeded=True)
    await yardstick.run(trials=job.trials)
    worth = yardstick.bank.flops / len(yardstick.moments)
    moments: list[SearchMoment] = []
    for name, proposer in proposers.items():
        search = SimulatedSearch(landscape, proposer, job.seed, seeded=is_seeded(name))
        await search.run(trials=job.trials)
        if beyond and search.finished is None and not asks_an_llm(name):
            await search.run(trials=_MOST_TIMES * job.trials, flops=worth * job.trials)
        moments += _moments(job, name, landscape, search, worth)
    return moments


def _moments(
    job: Job, name: str, landscape: Landscape, search: SimulatedSearch, worth: float
) -> Iterator[SearchMoment]:
    """Generate the rows of a search; `worth` is the FLOPs of one trial of seeded random search."""
    chosen = list(dict.fromkeys(m.choice for m in search.moments if m.choice is not None))
    true = dict(zip(chosen, landscape.true_scores(chosen), strict=True)) if chosen else {}
    for moment in search.moments:
        score = None if moment.choice is None else float(true[moment.choice])
        yield SearchMoment(
            landscape=job.landscape,
            seed=job.seed,
            budget_units=job.budget_units,
            proposer=name,
            trial=moment.trial,
            cells=moment.cells,
            n_examples=search.n_examples,
            trials_asked=job.trials,
            allocation=moment.allocation.to_json(),
            score=moment.score,
            choice=None if moment.choice is None else moment.choice.to_json(),
            true_score=score,
            best=landscape.best,
            best_by_enumeration=landscape.exact,
            regret=landscape.best - (score or 0.0),
            flops=moment.flops,
            trials_worth=moment.flops / worth if worth else moment.cells / search.n_examples,
            seconds=moment.seconds,
            agent_tokens=moment.agent_tokens,
        )
