"""The summary of a comparison: each proposer's mean regret, and paired differences of regrets.

The regret of a search is the best true score in the space minus the true score of the allocation that the
search would return. It is measured after the cells of a number of complete trials, and after the FLOPs that
as many trials of seeded random search take on the same landscape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import stats as scipy_stats  # type: ignore[import-untyped]

from agenttts.proposers.registry import DEFAULT, asks_an_llm, base_name
from agenttts.stats import holm

if TYPE_CHECKING:
    import pandas as pd

CHECKPOINTS = (1, 2, 5, 10, 20, 50)
_RESAMPLES = 4000

Equal = Literal["trials", "flops"]
_Unit = tuple[str, int, float | None]  # landscape, seed, budget


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Regret over several searches, after a number of trials or the FLOPs that so many trials take.

    Attributes:
        after: The number of trials.
        mean: The mean regret; None when no search was planned for so many trials.
        interval: The 95 % interval of the mean; None when the mean is None.
    """

    after: int
    mean: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class RegretRow:
    """The regret of a proposer at a budget, over all landscapes or over one class of them.

    Attributes:
        proposer: The name of the proposer.
        budget_units: The budget per query, in the pipeline's measure; None: the landscapes have their own.
        landscapes: The name of the class, or "all".
        searches: The number of searches that the means are over.
        by_trials: Regret after each number of CHECKPOINTS.
        by_flops: Regret after the FLOPs that so many trials of seeded random search take.
        mean_flops: The mean FLOPs of a search's planned trials; US dollars where parameters are unknown.
        seconds_per_proposal: The mean time that the proposer took for a suggestion, in seconds.
        mean_agent_tokens: The mean tokens of an LLM that proposes, for a search's planned trials.
    """

    proposer: str
    budget_units: float | None
    landscapes: str
    searches: int
    by_trials: tuple[Checkpoint, ...]
    by_flops: tuple[Checkpoint, ...]
    mean_flops: float
    seconds_per_proposal: float
    mean_agent_tokens: float

    def to_json_dict(self) -> dict[str, object]:
        """Return the row as JSON-able data, with the checkpoints by their numbers."""
        return {
            "proposer": self.proposer,
            "budget_units": self.budget_units,
            "landscapes": self.landscapes,
            "searches": self.searches,
            "mean_regret": {str(c.after): c.mean for c in self.by_trials},
            "regret_ci": {str(c.after): c.interval for c in self.by_trials},
            "mean_regret_at_flops": {str(c.after): c.mean for c in self.by_flops},
            "regret_at_flops_ci": {str(c.after): c.interval for c in self.by_flops},
            "mean_flops": self.mean_flops,
            "seconds_per_proposal": self.seconds_per_proposal,
            "mean_agent_tokens": self.mean_agent_tokens,
        }


@dataclass(frozen=True, kw_only=True)
class RegretDifference:
    """The regret of one proposer minus that of another, paired by landscape and seed.

    Attributes:
        first: The name of the first proposer.
        second: The name of the second, whose regret is subtracted.
        budget_units: The budget per query, in the pipeline's measure; None: the landscapes have their own.
        equal: Whether both are compared at equal trials or at equal FLOPs.
        after: The number of trials, or of the trials of seeded random search that the FLOPs are worth.
        difference: The mean difference.
        difference_ci: The 95 % interval of the mean.
        p: The two-sided p-value of a mean difference of 0.
        searches: The number of pairs.
        p_holm: The p-value, corrected by Holm's method for the number of differences.
    """

    first: str
    second: str
    budget_units: float | None
    equal: Equal
    after: int
    difference: float
    difference_ci: tuple[float, float] | None
    p: float
    searches: int
    p_holm: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The moments of all searches of a comparison, and their summary.

    Attributes:
        moments: A row for each proposer, landscape, seed, budget and trial, see `SearchMoment`.
        table: A row for each proposer and budget, and for each class of landscapes when there are several.
        differences: The paired differences of `against` and each other proposer.
        against: The first proposer.
        added: What each LLM adds to the solver alone: the paired differences of their regrets after each
            number of trials of CHECKPOINTS, where both were searched.
    """

    moments: pd.DataFrame
    table: tuple[RegretRow, ...]
    differences: tuple[RegretDifference, ...]
    against: str
    added: tuple[RegretDifference, ...] = ()

    def to_json_dict(self) -> dict[str, object]:
        """Return the summary as `agenttts compare --json` prints it."""
        return {
            "table": [row.to_json_dict() for row in self.table],
            "differences": [asdict(difference) for difference in self.differences],
            "against": self.against,
            "added": [asdict(difference) for difference in self.added],
        }


def summarise(moments: pd.DataFrame, proposers: Sequence[str]) -> Comparison:
    """Summarise the moments of a comparison.

    Args:
        moments: A row for each SearchMoment.
        proposers: The names of the proposers; the first is compared with each other one.

    Returns:
        The moments, the table and the paired differences.
    """
    by_search = moments.groupby(["landscape", "seed", "budget_units", "proposer"], dropna=False, sort=False)
    searches = [_Search(rows) for _, rows in by_search]
    table = []
    for budget in dict.fromkeys(search.budget for search in searches):
        for group in _groups(searches, budget):
            for name in proposers:
                of_row = [
                    s for s in searches if s.proposer == name and s.budget == budget and s.within(group)
                ]
                if of_row:
                    table.append(_row(name, budget, group, of_row))
    differences = _differences(searches, proposers)
    return Comparison(
        moments=moments,
        table=tuple(table),
        differences=tuple(differences),
        against=proposers[0],
        added=tuple(_added(searches, proposers)),
    )


class _Search:
    """The regrets of one search, by trials and by FLOPs, from its rows of the moments."""

    def __init__(self, rows: pd.DataFrame) -> None:
        rows = rows.sort_values("trial")
        first = rows.iloc[0]
        budget = first["budget_units"]
        self.landscape, self.proposer = str(first["landscape"]), str(first["proposer"])
        self.budget = None if budget is None or math.isnan(budget) else float(budget)
        self.unit: _Unit = (self.landscape, int(first["seed"]), self.budget)
        self.trials = int(first["trials_asked"])
        self.seconds = float(rows["seconds"].mean())
        self.agent_tokens = int(rows["agent_tokens"].iloc[min(self.trials, len(rows)) - 1])
        self._regret = rows["regret"].to_numpy(dtype=float)
        self._whole = rows["cells"].to_numpy(dtype=float) / float(first["n_examples"])
        self._spent = rows["trials_worth"].to_numpy(dtype=float)
        self._flops = rows["flops"].to_numpy(dtype=float)

    def within(self, group: str | None) -> bool:
        return group is None or self.landscape == group

    def after(self, count: int, equal: Equal) -> float | None:
        """Return the regret after so many trials' cells, or the FLOPs of so many of seeded random search.

        It is that of the last trial when the search finished earlier; None when fewer trials were planned.
        """
        if count > self.trials:
            return None
        used = self._whole if equal == "trials" else self._spent
        within = np.flatnonzero(used <= count * (1 + 1e-9))
        return float(self._regret[within[-1] if len(within) else 0])

    @property
    def flops(self) -> float:
        """The FLOPs of the planned trials."""
        within = np.flatnonzero(self._whole <= self.trials)
        return float(self._flops[within[-1] if len(within) else 0])


def _groups(searches: Sequence[_Search], budget: float | None) -> Iterator[str | None]:
    """Generate None for all landscapes together, then each class when there are several."""
    yield None
    names = list(dict.fromkeys(s.landscape for s in searches if s.budget == budget))
    yield from names if len(names) > 1 else ()


def _row(name: str, budget: float | None, group: str | None, searches: Sequence[_Search]) -> RegretRow:
    return RegretRow(
        proposer=name,
        budget_units=budget,
        landscapes=group or "all",
        searches=len(searches),
        by_trials=_checkpoints(searches, "trials"),
        by_flops=_checkpoints(searches, "flops"),
        mean_flops=fmean(search.flops for search in searches),
        seconds_per_proposal=fmean(search.seconds for search in searches),
        mean_agent_tokens=fmean(search.agent_tokens for search in searches),
    )


def _checkpoints(searches: Sequence[_Search], equal: Equal) -> tuple[Checkpoint, ...]:
    checkpoints = []
    for count in CHECKPOINTS:
        regrets = [regret for s in searches if (regret := s.after(count, equal)) is not None]
        checkpoints.append(
            Checkpoint(after=count, mean=fmean(regrets) if regrets else None, interval=_interval(regrets))
        )
    return tuple(checkpoints)


def _differences(searches: Sequence[_Search], proposers: Sequence[str]) -> list[RegretDifference]:
    """Return the first proposer minus each other, with p-values corrected by Holm's method."""
    first, *others = proposers
    differences: list[RegretDifference] = []
    equals: tuple[Equal, ...] = ("trials", "flops")
    for equal in equals:
        for budget in dict.fromkeys(search.budget for search in searches):
            by_name = _by_name(searches, budget)
            for other in others:
                trials = min(search.trials for search in by_name[first].values())
                count = max((k for k in CHECKPOINTS if k <= trials), default=trials)
                differences.append(_difference(by_name[first], by_name[other], equal, count))
    return _corrected(differences)


def _added(searches: Sequence[_Search], proposers: Sequence[str]) -> list[RegretDifference]:
    """Return each LLM minus the solver alone after each number of trials, corrected by Holm's method."""
    solver = next((name for name in proposers if base_name(name) == DEFAULT), None)
    llms = [name for name in proposers if asks_an_llm(name)]
    if solver is None:
        return []
    return _corrected(
        [
            _difference(by_name[llm], by_name[solver], "trials", count)
            for budget in dict.fromkeys(search.budget for search in searches)
            for by_name in [_by_name(searches, budget)]
            for llm in llms
            for count in CHECKPOINTS
            if count <= min(search.trials for search in by_name[llm].values())
        ]
    )


def _by_name(searches: Sequence[_Search], budget: float | None) -> dict[str, dict[_Unit, _Search]]:
    by_name: dict[str, dict[_Unit, _Search]] = {}
    for search in searches:
        if search.budget == budget:
            by_name.setdefault(search.proposer, {})[search.unit] = search
    return by_name


def _corrected(differences: Sequence[RegretDifference]) -> list[RegretDifference]:
    corrected = holm([difference.p for difference in differences])
    return [replace(difference, p_holm=p) for difference, p in zip(differences, corrected, strict=True)]


def _difference(
    first: Mapping[_Unit, _Search], second: Mapping[_Unit, _Search], equal: Equal, count: int
) -> RegretDifference:
    """Return the difference after so many trials over the landscapes and seeds of both, at least one.

    The p-value is not corrected.
    """
    pairs = [(first[unit], second[unit]) for unit in first if unit in second]
    left, right = pairs[0]
    values = [(a.after(count, equal) or 0.0) - (b.after(count, equal) or 0.0) for a, b in pairs]
    p = _sign_flip_p(values)
    return RegretDifference(
        first=left.proposer,
        second=right.proposer,
        budget_units=left.budget,
        equal=equal,
        after=count,
        difference=fmean(values),
        difference_ci=_interval(values),
        p=p,
        searches=len(values),
        p_holm=p,
    )


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of the mean (BCa, scipy); the mean itself when nothing varies."""
    if not values:
        return None
    data = np.asarray(values, dtype=float)
    if np.ptp(data) < 1e-12:
        return float(data[0]), float(data[0])
    rng = np.random.default_rng(0)
    result = scipy_stats.bootstrap((data,), np.mean, n_resamples=_RESAMPLES, rng=rng, method="BCa")
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    return (low, high) if math.isfinite(low + high) else (float(data.min()), float(data.max()))


def _sign_flip_p(values: Sequence[float]) -> float:
    """Return the two-sided p-value of a mean of 0, by random sign flips; 1.0 when all values are 0."""
    data = np.asarray(values, dtype=float)
    if not np.any(data):
        return 1.0
    rng = np.random.default_rng(0)
    flips = rng.choice([-1.0, 1.0], size=(_RESAMPLES, len(data)))
    beyond = int((np.abs((flips * data).mean(axis=1)) >= abs(data.mean()) - 1e-12).sum())
    return (beyond + 1) / (_RESAMPLES + 1)
