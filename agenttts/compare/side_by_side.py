"""Comparisons of proposers: each searches the same landscapes with the same seeds, and its regret is known.

Samples are nested and paid for once, as in a live search; no model of a pipeline is called. Proposers that
ask an LLM do ask it, and its answers are kept beside the results. What is searched is defined in `jobs` and
`landscapes`, a search in `simulation` and `moments`, the summary of the searches in `regret`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

from agenttts.compare.jobs import Job, KnownBank, KnownMatrix
from agenttts.compare.landscapes import Landscape, best_score, draw
from agenttts.compare.matrix_landscape import matrix_landscape
from agenttts.compare.moments import SearchMoment, searched
from agenttts.compare.regret import Comparison, summarise
from agenttts.errors import UserError
from agenttts.llm import AT_ONCE, AgentSettings
from agenttts.proposers.base import aclose
from agenttts.proposers.registry import (
    ProposerContext,
    asks_an_llm,
    classical_proposer,
    make_proposer,
    require_proposer,
)
from agenttts.space.space import SearchSpace
from datastore.store import Store
from pipelines.spec.files import restore_spec, spec_digest

_VERSION = 2  # of the rules of a comparison; rows of another version are not read


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


def _finished(part: Path, keys: set[str]) -> dict[str, list[SearchMoment]]:
    """Return the finished jobs of an interrupted comparison; a line that was cut off is left out."""
    finished: dict[str, list[SearchMoment]] = {}
    for line in part.read_text(encoding="utf-8").splitlines() if part.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["job"] in keys:
            finished[entry["job"]] = [SearchMoment(**row) for row in entry["rows"]]
    return finished
