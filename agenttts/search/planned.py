"""A trial as it is planned: what is run on which examples, why, and whether it lets an earlier trial grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agenttts.results.trials import TrialResult, trial_id
from agenttts.space.space import SearchSpace
from datastore import records
from datastore.records import TrialPurpose
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.examples import Example
from pipelines.policy import Policy


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """A trial to run.

    Attributes:
        allocation: The allocation to run.
        examples: The examples to run it on.
        purpose: The purpose of the trial.
        proposer: The name of the proposer.
        reason: Why the trial is run, in words.
        split: The name of the examples' split; None: test for the purpose test, else search.
        policy: The policy to run, whose first rung is the allocation; None: the allocation is run.
        budget_units: The cost per query that the policy was chosen for; None: as planned for the allocation.
        optional: Whether a replay goes on without the trial where recorded samples do not answer it.
        n_examples: How many of the examples, the first ones, it is to be scored on; None: all.
        in_parts: Whether the examples are run a tenth at a time, so that a limit that is reached leaves whole
            examples behind and not the first stages of all.
        grows: The trial of the same allocation on fewer of these examples, which is to grow; None: a new one.
    """

    allocation: Allocation
    examples: Sequence[Example]
    purpose: TrialPurpose
    proposer: str
    reason: str
    split: str | None = None
    policy: Policy | None = None
    budget_units: float | None = None
    optional: bool = False
    n_examples: int | None = None
    in_parts: bool = False
    grows: TrialResult | None = None

    @property
    def part(self) -> Sequence[Example]:
        """The examples that the trial is to be scored on."""
        return self.examples[: self.n_examples]

    @property
    def n_before(self) -> int:
        """How many of them it was run on before."""
        return 0 if self.grows is None else self.grows.n_run

    def within(self, cells_left: int | None) -> PlannedTrial:
        """Return the trial on as many of its examples as a limit still allows.

        Args:
            cells_left: How many further examples may be run; None without a limit.
        """
        n = len(self.part) if cells_left is None else min(len(self.part), self.n_before + cells_left)
        return replace(self, n_examples=n)

    def planned_cost(self, space: SearchSpace) -> float:
        """Return what the trial costs per query as planned, in the budget's measure.

        Args:
            space: Gives the planned units of the allocation.
        """
        return space.units(self.allocation) if self.budget_units is None else self.budget_units

    def begun(self, store: Store, run_id: str, number: int, space: SearchSpace, now: float) -> records.Trial:
        """Return the row of the trial as it begins; one that grows has its own, and the time that it ran.

        Args:
            store: The store of the run.
            run_id: The run.
            number: The trial's number.
            space: Gives the planned units of the allocation.
            now: Unix seconds.
        """
        if self.grows is not None:
            row = row_of(store, run_id, number)
            return replace(row, started_at=now - ((row.finished_at or row.started_at) - row.started_at))
        return records.Trial(
            trial_id=trial_id(run_id, number),
            run_id=run_id,
            number=number,
            purpose=self.purpose,
            split=self.split or ("test" if self.purpose == "test" else "search"),
            allocation=self.allocation.to_json(),
            policy=None if self.policy is None else self.policy.to_json(),
            proposer=self.proposer,
            reason=self.reason,
            status="running",
            budget_units=self.planned_cost(space),
            started_at=now,
        )


def row_of(store: Store, run_id: str, number: int) -> records.Trial:
    """Return the row of a trial.

    Args:
        store: The store, which has it.
        run_id: The run.
        number: The trial's number.
    """
    return next(trial for trial in store.trials(run_id) if trial.number == number)
