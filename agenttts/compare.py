"""Proposers side by side: each searches the same landscapes with the same seeds, and its regret is known.

Regret is the best true score in the space minus the true score of what a search would return. It is read
after a number of trials, and after the FLOPs that as many trials of seeded random search take on the same
landscape. Samples are nested and paid for once, as in a live search; no model is called. What a landscape is
stands in `landscapes`, how one search goes in `simulation`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats as scipy_stats  # type: ignore[import-untyped]

from agenttts.errors import UserError
from agenttts.landscapes import FAMILIES, Landscape, best_score, draw
from agenttts.outcomes import Outcomes
from agenttts.proposers.choice import classical_proposer, is_seeded
from agenttts.simulation import SimulatedSearch
from agenttts.space import SearchSpace
from agenttts.stats import holm
from pipelines.spec import PipelineSpec
from pipelines.specfile import dump_spec, restore_spec, spec_digest

if TYPE_CHECKING:
    import pandas as pd

CHECKPOINTS = (5, 10, 20, 50)
_YARDSTICK = "random+seeds"
_MOST_TIMES = 4  # to use up the FLOPs of its trials, a search may take this many times as many
_RESAMPLES = 4000
_VERSION = 1  # of the rules of a comparison; rows of another one are not taken up again


@dataclass(frozen=True, kw_only=True)
class Job:
    """One landscape and seed, searched by some proposers. budget_units None: the landscape's own."""

    landscape: str
    seed: int
    budget_units: float | None
    trials: int
    proposers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class KnownBank:
    """A bank's outcomes on the search split, as workers are given them."""

    spec: str
    outcomes: Outcomes


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All moments of all searches, and what they come to.

    moments: a row for each proposer, landscape, seed, budget and trial. table: a row for each proposer and
    budget, and for each class of landscapes where there are several. differences: paired, against `against`.
    """

    moments: pd.DataFrame
    table: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    against: str

    def to_json_dict(self) -> dict[str, Any]:
        return {"table": self.table, "differences": self.differences, "against": self.against}


def family_jobs(families: Sequence[str], seeds: int, trials: int, proposers: Sequence[str]) -> list[Job]:
    """A job for each landscape of the classes; "all" stands for every class. UserError for an unknown one."""
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
    """One job for each proposer, seed and budget. SpaceError when a budget leaves no allocation."""
    for budget in budgets:
        SearchSpace(spec, budget)
    return [
        Job(landscape=spec.name, seed=seed, budget_units=budget, trials=trials, proposers=(name,))
        for budget in budgets
        for seed in range(seeds)
        for name in proposers
    ]


def known_bank(spec: PipelineSpec, outcomes: Outcomes) -> KnownBank:
    return KnownBank(spec=dump_spec(spec), outcomes=outcomes)


def compare(
    jobs: Sequence[Job],
    *,
    bank: KnownBank | None = None,
    out: Path,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Run the jobs over the cores and write every moment to `out` (Parquet).

    What is finished is kept beside it as it comes; the same call after an interruption goes on from there.
    on_progress: is told how many jobs are done, and of how many. UserError when no job is given.
    """
    if not jobs:
        raise UserError("a comparison needs at least one proposer, one seed and one landscape; got none")
    part = out.with_name(out.name + ".part")
    keys = {job: _key(job, bank) for job in jobs}
    done = _kept(part, set(keys.values()))
    waiting = [job for job in jobs if keys[job] not in done]
    on_progress(len(jobs) - len(waiting), len(jobs))
    out.parent.mkdir(parents=True, exist_ok=True)
    if waiting:
        # one thread a worker: numpy's own would only get in each other's way
        threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        os.environ.update(dict.fromkeys(threads, "1"))
        pool = ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn"), _begin, (bank,))
        try:
            with part.open("a", encoding="utf-8") as file:
                file.write("\n")  # ends a line that was cut off
                futures = {pool.submit(_searched, job): job for job in waiting}
                for future in as_completed(futures):
                    rows = future.result()
                    key = keys[futures[future]]
                    file.write(json.dumps({"job": key, "rows": rows}) + "\n")
                    file.flush()
                    done[key] = rows
                    on_progress(len(done), len(jobs))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for name, value in threads.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
    import pandas as pd

    moments = pd.DataFrame([row for job in jobs for row in done[keys[job]]])
    proposers = list(dict.fromkeys(name for job in jobs for name in job.proposers))
    moments.to_parquet(out, index=False)
    part.unlink(missing_ok=True)
    return summarise(moments, proposers)


def summarise(moments: pd.DataFrame, proposers: Sequence[str]) -> Comparison:
    """The table and the paired differences of a comparison's moments. The first proposer is `against`."""
    searches = [_Search(keys, rows) for keys, rows in moments.groupby(_UNIT, dropna=False, sort=False)]
    table = []
    for budget in dict.fromkeys(search.budget for search in searches):
        for group in _groups(searches, budget):
            for name in proposers:
                found = [s for s in searches if s.proposer == name and s.budget == budget and s.within(group)]
                if found:
                    table.append(_row(name, budget, group, found))
    return Comparison(
        moments=moments, table=table, differences=_differences(searches, proposers), against=proposers[0]
    )


_UNIT = ["landscape", "seed", "budget_units", "proposer"]


class _Search:
    """One search's regrets, by trial and by FLOPs."""

    def __init__(self, keys: Any, rows: pd.DataFrame) -> None:
        self.landscape, self.seed, budget, self.proposer = keys
        self.budget: float | None = None if budget is None or math.isnan(budget) else float(budget)
        self.unit = (self.landscape, self.seed, self.budget)
        rows = rows.sort_values("trial")
        self._regret = rows["regret"].to_numpy(dtype=float)
        self._spent = rows["trials_worth"].to_numpy(dtype=float)
        self._flops = rows["flops"].to_numpy(dtype=float)
        self.seconds = float(rows["seconds"].mean())
        self.trials = int(rows["trials_asked"].iloc[0])

    def within(self, group: str | None) -> bool:
        return group is None or self.landscape == group

    def after_trials(self, count: int) -> float | None:
        """Regret after that many trials, the last's where the search had finished; None: not asked for."""
        return float(self._regret[min(count, len(self._regret)) - 1]) if count <= self.trials else None

    def after_flops(self, count: int) -> float | None:
        """Regret after the FLOPs of that many trials of seeded random search."""
        if count > self.trials:
            return None
        within = np.flatnonzero(self._spent <= count * (1 + 1e-9))
        return float(self._regret[within[-1] if len(within) else 0])

    @property
    def flops(self) -> float:
        """Spent on the trials asked for."""
        return float(self._flops[min(self.trials, len(self._flops)) - 1])


def _groups(searches: Sequence[_Search], budget: float | None) -> Iterator[str | None]:
    """All landscapes together, then class by class where there are several."""
    yield None
    names = list(dict.fromkeys(s.landscape for s in searches if s.budget == budget))
    yield from names if len(names) > 1 else ()


def _row(name: str, budget: float | None, group: str | None, found: Sequence[_Search]) -> dict[str, Any]:
    by_trials = {k: [r for s in found if (r := s.after_trials(k)) is not None] for k in CHECKPOINTS}
    by_flops = {k: [r for s in found if (r := s.after_flops(k)) is not None] for k in CHECKPOINTS}
    return {
        "proposer": name,
        "budget_units": budget,
        "landscapes": group or "all",
        "searches": len(found),
        "mean_regret": {str(k): _mean(values) for k, values in by_trials.items()},
        "regret_ci": {str(k): _interval(values) for k, values in by_trials.items()},
        "mean_regret_at_flops": {str(k): _mean(values) for k, values in by_flops.items()},
        "regret_at_flops_ci": {str(k): _interval(values) for k, values in by_flops.items()},
        "mean_flops": _mean([s.flops for s in found]),
        "seconds_per_proposal": _mean([s.seconds for s in found]),
    }


def _differences(searches: Sequence[_Search], proposers: Sequence[str]) -> list[dict[str, Any]]:
    """First proposer minus each other, paired by landscape and seed; p-values corrected by Holm's method."""
    first, *others = proposers
    found: list[dict[str, Any]] = []
    budgets = list(dict.fromkeys(search.budget for search in searches))
    for at in ("trials", "flops"):
        for budget in budgets:
            by_name: dict[str, dict[Any, _Search]] = {}
            for search in searches:
                if search.budget == budget:
                    by_name.setdefault(search.proposer, {})[search.unit] = search
            for other in others:
                found.append(_difference(by_name[first], by_name[other], first, other, at, budget))
    corrected = holm([entry["p"] for entry in found])
    return [{**entry, "p_holm": p} for entry, p in zip(found, corrected, strict=True)]


def _difference(
    first: Mapping[Any, _Search],
    second: Mapping[Any, _Search],
    name: str,
    other: str,
    at: str,
    budget: float | None,
) -> dict[str, Any]:
    units = [unit for unit in first if unit in second]
    trials = min(first[unit].trials for unit in units)
    count = max((k for k in CHECKPOINTS if k <= trials), default=trials)
    read = _Search.after_trials if at == "trials" else _Search.after_flops
    values = [(read(first[u], count) or 0.0) - (read(second[u], count) or 0.0) for u in units]
    return {
        "first": name,
        "second": other,
        "budget_units": budget,
        "equal": at,
        "after": count,
        "difference": _mean(values),
        "difference_ci": _interval(values),
        "p": _sign_flip_p(values),
        "searches": len(values),
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _interval(values: Sequence[float]) -> list[float] | None:
    """95 % bootstrap interval of the mean (BCa, scipy); the mean itself where nothing varies."""
    if not values:
        return None
    data = np.asarray(values, dtype=float)
    if np.ptp(data) < 1e-12:
        return [float(data[0]), float(data[0])]
    rng = np.random.default_rng(0)
    found = scipy_stats.bootstrap((data,), np.mean, n_resamples=_RESAMPLES, rng=rng, method="BCa")
    low, high = float(found.confidence_interval.low), float(found.confidence_interval.high)
    return [low, high] if math.isfinite(low + high) else [float(data.min()), float(data.max())]


def _sign_flip_p(values: Sequence[float]) -> float:
    """Two-sided p-value of a mean difference of 0, by flipping signs at random; 1.0 when all are 0."""
    data = np.asarray(values, dtype=float)
    if not np.any(data):
        return 1.0
    rng = np.random.default_rng(0)
    flips = rng.choice([-1.0, 1.0], size=(_RESAMPLES, len(data)))
    beyond = int((np.abs((flips * data).mean(axis=1)) >= abs(data.mean()) - 1e-12).sum())
    return (beyond + 1) / (_RESAMPLES + 1)


# -- in a worker --

_bank: KnownBank | None = None
_spaces: dict[float, Landscape] = {}


def _begin(bank: KnownBank | None) -> None:
    global _bank
    _bank = bank


def _landscape(job: Job) -> Landscape:
    if job.budget_units is None:
        return draw(job.landscape, job.seed)
    assert _bank is not None
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


def _searched(job: Job) -> list[dict[str, Any]]:
    """Every moment of the job's searches."""
    landscape = _landscape(job)
    yardstick = SimulatedSearch(landscape, classical_proposer("random"), job.seed, seeded=True)
    asyncio.run(yardstick.run(trials=job.trials))
    worth = yardstick.bank.flops / len(yardstick.moments)
    rows: list[dict[str, Any]] = []
    for name in job.proposers:
        proposer, seeded = classical_proposer(name), is_seeded(name)
        search = SimulatedSearch(landscape, proposer, job.seed, seeded=seeded)
        asyncio.run(search.run(trials=job.trials))
        if search.finished is None:
            asyncio.run(search.run(trials=_MOST_TIMES * job.trials, flops=worth * job.trials))
        rows += _rows(job, name, landscape, search, worth)
    return rows


def _rows(
    job: Job, name: str, landscape: Landscape, search: SimulatedSearch, worth: float
) -> Iterator[dict[str, Any]]:
    chosen = list(dict.fromkeys(m.choice for m in search.moments if m.choice is not None))
    true = dict(zip(chosen, landscape.true_scores(chosen), strict=True)) if chosen else {}
    for moment in search.moments:
        score = None if moment.choice is None else float(true[moment.choice])
        yield {
            "landscape": job.landscape,
            "seed": job.seed,
            "budget_units": job.budget_units,
            "proposer": name,
            "trial": moment.trial,
            "trials_asked": job.trials,
            "allocation": moment.allocation.to_json(),
            "score": moment.score,
            "choice": None if moment.choice is None else moment.choice.to_json(),
            "true_score": score,
            "best": landscape.best,
            "best_by_enumeration": landscape.exact,
            "regret": landscape.best - (score or 0.0),
            "flops": moment.flops,
            "trials_worth": moment.flops / worth,
            "seconds": moment.seconds,
        }


def _key(job: Job, bank: KnownBank | None) -> str:
    spec = None if bank is None else spec_digest(restore_spec(bank.spec))
    told = json.dumps([_VERSION, spec, asdict(job)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:24]


def _kept(part: Path, wanted: set[str]) -> dict[str, list[dict[str, Any]]]:
    """The finished jobs of an interrupted comparison; a line cut off in the middle is left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in part.read_text(encoding="utf-8").splitlines() if part.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["job"] in wanted:
            found[entry["job"]] = entry["rows"]
    return found
