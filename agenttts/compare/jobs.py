"""What a comparison searches: jobs on simulated landscapes, on a recorded bank or on a recorded table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agenttts.compare.landscapes import FAMILIES
from agenttts.compare.matrix import Matrix
from agenttts.compare.matrix_landscape import matrix_landscape
from agenttts.errors import UserError
from agenttts.replay.arrays import Outcomes
from agenttts.space.space import SearchSpace
from pipelines.spec.files import dump_spec
from pipelines.spec.pipeline import PipelineSpec


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
