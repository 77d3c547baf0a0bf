"""Comparisons of proposers: each searches the same landscapes with the same seeds, and its regret is known.

Samples are nested and paid for once, as in a live search; no model of a pipeline is called. Proposers that
ask an LLM do ask it, and its answers are kept beside the results. Landscapes are defined in `landscapes`, a
simulated search in `simulation`, the summary of the searches in `regret`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from agenttts.compare.landscapes import FAMILIES, Landscape, best_score, draw
from agenttts.compare.matrix import Matrix
from agenttts.compare.matrix_landscape import matrix_landscape
from agenttts.compare.regret import Comparison, summarise
from agenttts.compare.simulation import SimulatedSearch
from agenttts.errors import UserError
from agenttts.llm import AT_ONCE, AgentSettings
from agenttts.proposers.base import Proposer, aclose
from agenttts.proposers.registry import (
    ProposerContext,
    asks_an_llm,
    classical_proposer,
    is_seeded,
    make_proposer,
    require_proposer,
)
from agenttts.replay.arrays import Outcomes
from agenttts.space.space import SearchSpace
from datastore.store import Store
from pipelines.spec.files import dump_spec, restore_spec, spec_digest
from pipelines.spec.pipeline import PipelineSpec

_MOST_TIMES = 4  # to use up the FLOPs of its planned trials, a search may run this many times as many
_VERSION = 2  # of the rules of a comparison; rows of another version are not read


@dataclass(frozen=True, kw_only=True)
class Job:
    """One landscape and seed, searched by several proposers.

    Attributes:
        landscape: The class of the landscape, or the pipeline's name.
        seed: The seed of the landscape and of the searches.
        budget_units: The budget per query, in the measure of the pipeline's; None: the landscape's own.
        trials: The number of allocations that each search evaluates.
        proposers: The names of the proposers.
    """

    landscape: str
    seed: int
    budget_units: float | None
    trials: int
    proposers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class KnownBank:
    """The outcomes of a bank on the search split, in a form that is sent to worker processes.

    Attributes:
        spec: The pipeline, as `dump_spec` writes it.
        outcomes: The outcomes of the recorded samples.
    """

    spec: str
    outcomes: Outcomes


@dataclass(frozen=True, kw_only=True)
class KnownMatrix:
    """A recorded table to search, in a form that is sent to worker processes.

    Attributes:
        matrix: The table.
        holdout: The share of the examples that gives the true scores, and that no search sees.
    """

    matrix: Matrix
    holdout: float


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


def family_jobs(families: Sequence[str], seeds: int, trials: int, proposers: Sequence[str]) -> list[Job]:
    """List the jobs of a comparison on simulated landscapes.

    Args:
        families: The classes of landscapes, names of FAMILIES; "all" stands for every class.
        seeds: The number of landscapes of each class.
        trials: The number of allocations that each search evaluates.
        proposers: The names of the proposers.

    Returns:
        One job for each landscape.

    Raises:
        UserError: A class is unknown.
    """
    for family in families:
        if family not in FAMILIES and family != "all":
            raise UserError(f"a class of landscapes is all or one of {', '.join(FAMILIES)}, got {family!r}")
    names = list(FAMILIES) if "all" in families else list(dict.fromkeys(families))
    return [
        Job(landscape=name, seed=seed, budget_units=None, trials=trials, proposers=tuple(proposers))
        for seed in range(seeds)
        for name in names
    ]


def bank_jobs(
    spec: PipelineSpec, budgets: Sequence[float], seeds: int, trials: int, proposers: Sequence[str]
) -> list[Job]:
    """List the jobs of a comparison on a recorded bank.

    Args:
        spec: The pipeline that the bank was recorded for.
        budgets: The budgets per query, in the measure of the pipeline's.
        seeds: The number of searches of each proposer at each budget.
        trials: The number of allocations that each search evaluates.
        proposers: The names of the proposers.

    Returns:
        One job for each proposer, seed and budget.

    Raises:
        SpaceError: A budget leaves no allocation.
    """
    for budget in budgets:
        SearchSpace(spec, budget)
    return [
        Job(landscape=spec.name, seed=seed, budget_units=budget, trials=trials, proposers=(name,))
        for budget in budgets
        for seed in range(seeds)
        for name in proposers
    ]


def matrix_jobs(known: KnownMatrix, seeds: int, trials: int, proposers: Sequence[str]) -> list[Job]:
    """List the jobs of a comparison on a recorded table.

    Args:
        known: The table.
        seeds: The number of searches of each proposer, each with options and examples in another order.
        trials: The number of complete trials that each search may take the cells of.
        proposers: The names of the proposers.

    Returns:
        One job for each seed.

    Raises:
        UserError: The held-out share leaves no examples on one side.
    """
    matrix_landscape(known.matrix, 0, known.holdout)
    name = known.matrix.name
    return [
        Job(landscape=name, seed=seed, budget_units=None, trials=trials, proposers=tuple(proposers))
        for seed in range(seeds)
    ]


def known_bank(spec: PipelineSpec, outcomes: Outcomes) -> KnownBank:
    """Bundle a pipeline and the outcomes of its bank for `compare`.

    Args:
        spec: The pipeline that the bank was recorded for.
        outcomes: The outcomes of the recorded samples.

    Returns:
        The bank, in a form that is sent to worker processes.
    """
    return KnownBank(spec=dump_spec(spec), outcomes=outcomes)


def compare(
    jobs: Sequence[Job],
    *,
    bank: KnownBank | KnownMatrix | None = None,
    out: Path,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    agent: AgentSettings | None = None,
) -> Comparison:
    """Run the jobs on several processes and write every moment to `out` (Parquet).

    Finished jobs are stored beside `out` as they end; the same call after an interruption runs only the rest.
    Answers of an LLM are kept in `<out>.answers.duckdb`, so that no question is paid for twice.

    Args:
        jobs: The searches to run.
        bank: The bank or the table that answers; None: the jobs are on simulated landscapes.
        out: The Parquet file, with a row for each SearchMoment.
        workers: The number of processes; None: one for each core.
        on_progress: Called with the number of finished jobs and the number of all jobs.
        agent: The endpoint of proposers that ask an LLM.

    Returns:
        The moments and their summary.

    Raises:
        UserError: There is no job, or an LLM is to be asked and there is no endpoint.
    """
    if not jobs:
        raise UserError("a comparison needs at least one proposer, one seed and one landscape; got none")
    proposers = list(dict.fromkeys(name for job in jobs for name in job.proposers))
    for name in proposers:
        require_proposer(name, agent)
    jobs = [each for job in jobs for each in _parts(job)]
    part = out.with_name(out.name + ".part")
    keys = {job: _key(job, bank, agent) for job in jobs}
    done = _finished(part, set(keys.values()))
    waiting = [job for job in jobs if keys[job] not in done]
    on_progress(len(jobs) - len(waiting), len(jobs))
    out.parent.mkdir(parents=True, exist_ok=True)
    with part.open("a", encoding="utf-8") as file:
        file.write("\n")  # ends a line that was cut off

        def keep(job: Job, moments: list[SearchMoment]) -> None:
            done[keys[job]] = moments
            file.write(json.dumps({"job": keys[job], "rows": [asdict(m) for m in moments]}) + "\n")
            file.flush()
            on_progress(len(done), len(jobs))

        _compute([job for job in waiting if not _asks(job)], bank, workers, keep)
        asking = [job for job in waiting if _asks(job)]
        if asking and agent is not None:
            asyncio.run(_ask(asking, bank, agent, out.with_name(out.name + ".answers.duckdb"), keep))
    import pandas as pd

    moments = pd.DataFrame([asdict(moment) for job in jobs for moment in done[keys[job]]])
    moments.to_parquet(out, index=False)
    part.unlink(missing_ok=True)
    return summarise(moments, proposers)


def _parts(job: Job) -> Iterator[Job]:
    """Split off a job for each proposer that asks an LLM; the others stay together."""
    own = tuple(name for name in job.proposers if not asks_an_llm(name))
    if own:
        yield replace(job, proposers=own)
    for name in job.proposers:
        if asks_an_llm(name):
            yield replace(job, proposers=(name,))


def _asks(job: Job) -> bool:
    return asks_an_llm(job.proposers[0])


def _compute(
    jobs: Sequence[Job],
    bank: KnownBank | KnownMatrix | None,
    workers: int | None,
    keep: Callable[[Job, list[SearchMoment]], None],
) -> None:
    """Run jobs that ask no LLM on several processes."""
    if not jobs:
        return
    # one thread a worker: numpy's own would only get in each other's way
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))
    pool = ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn"), _begin, (bank,))
    try:
        futures = {pool.submit(_searched, job): job for job in jobs}
        for future in as_completed(futures):
            keep(futures[future], future.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for name, value in threads.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


async def _ask(
    jobs: Sequence[Job],
    bank: KnownBank | KnownMatrix | None,
    agent: AgentSettings,
    answers: Path,
    keep: Callable[[Job, list[SearchMoment]], None],
) -> None:
    """Run jobs whose proposer asks an LLM, several at a time, in this process."""
    _begin(bank)
    slots = asyncio.Semaphore(AT_ONCE)
    with Store.open(answers) as store:
        context = ProposerContext(store=store, run_id=None, gate=None, agent=agent, replay=False)

        async def ask(job: Job) -> None:
            async with slots:
                (name,) = job.proposers
                proposer = make_proposer(name, context)
                try:
                    keep(job, await searched(job, _landscape(job), {name: proposer}))
                finally:
                    await aclose(proposer)

        await asyncio.gather(*map(ask, jobs))


# -- in a worker --

_bank: KnownBank | KnownMatrix | None = None
_spaces: dict[float, Landscape] = {}


def _begin(bank: KnownBank | KnownMatrix | None) -> None:
    global _bank
    _bank = bank


def _landscape(job: Job) -> Landscape:
    if isinstance(_bank, KnownMatrix):
        return matrix_landscape(_bank.matrix, job.seed, _bank.holdout)
    if job.budget_units is None or _bank is None:
        return draw(job.landscape, job.seed)
    if job.budget_units not in _spaces:
        space = SearchSpace(restore_spec(_bank.spec), job.budget_units)
        best, exact = best_score(_bank.outcomes, space)
        _spaces[job.budget_units] = Landscape(
            name=job.landscape,
            space=space,
            outcomes=_bank.outcomes,
            truth=_bank.outcomes,
            best=best,
            exact=exact,
        )
    return _spaces[job.budget_units]


def _searched(job: Job) -> list[SearchMoment]:
    proposers = {name: classical_proposer(name) for name in job.proposers}
    return asyncio.run(searched(job, _landscape(job), proposers))


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


def _key(job: Job, bank: KnownBank | KnownMatrix | None, agent: AgentSettings | None) -> str:
    source = None
    if isinstance(bank, KnownMatrix):
        digest = hashlib.sha256(bank.matrix.scores.tobytes())
        digest.update(b"" if bank.matrix.costs is None else bank.matrix.costs.tobytes())
        source = f"{digest.hexdigest()} {bank.holdout:g}"
    elif bank is not None:
        source = spec_digest(restore_spec(bank.spec))
    llm = agent.model if agent is not None and _asks(job) else None
    identity = json.dumps([_VERSION, source, asdict(job), llm], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def _finished(part: Path, wanted: set[str]) -> dict[str, list[SearchMoment]]:
    """Return the finished jobs of an interrupted comparison; a line that was cut off is left out."""
    finished: dict[str, list[SearchMoment]] = {}
    for line in part.read_text(encoding="utf-8").splitlines() if part.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["job"] in wanted:
            finished[entry["job"]] = [SearchMoment(**row) for row in entry["rows"]]
    return finished
