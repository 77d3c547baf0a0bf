"""What the nodes of the search share: the state of the graph, and the context that they work on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict

from langgraph.runtime import Runtime as GraphRuntime

from agenttts.proposers.base import Proposer, SearchView, Turn
from agenttts.proposers.rules import InsightsProposer
from agenttts.replay.bank import BankOutcomes
from agenttts.results.adaptive import AdaptivePolicy
from agenttts.results.choosing import Choice, Rule, choose
from agenttts.results.meter import SampleMeter
from agenttts.results.ranking import leader, ranked, unfinished
from agenttts.results.trials import TrialResult
from agenttts.search.approval import Approve
from agenttts.search.drafts import Draft
from agenttts.search.events import SearchEvent
from agenttts.search.failing import failing_examples
from agenttts.search.insights import Inherited
from agenttts.search.limits import Ledger, Spending
from agenttts.search.planned import PlannedTrial
from agenttts.search.pricing import MeasuredPrices
from agenttts.search.redone import is_failed
from agenttts.settings import SearchSettings
from agenttts.space.space import SearchSpace
from datastore.records import Event, Insight
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.dataset.splits import Splits
from pipelines.examples import Example
from pipelines.runtime.runtime import Runtime
from pipelines.spec.pipeline import PipelineSpec


class SearchState(TypedDict, total=False):
    """The state that LangGraph passes from node to node.

    Attributes:
        step: The step of the search, 0 for the defaults.
        ended: Why the search goes no further; None while it goes on.
    """

    step: int
    ended: str | None


@dataclass(kw_only=True)
class SearchWork:
    """The context of the nodes: everything that they work with, and the results so far.

    Attributes:
        run_id: The run in the store.
        settings: The settings of the search.
        space: The allocations within the budget.
        splits: All examples; those of the test split are for the confirmation alone.
        examples: The search examples that trials are scored on, in a seeded order: any first part of them is
            a random one.
        fresh: The search examples that no trial of the search sees, for the choice at its end.
        store: The one memory of the run.
        runtime: Runs examples.
        ledger: Enforces the limits on spending.
        proposer: Suggests allocations.
        approve: Decides on proposals; None: every valid proposal is run.
        clock: Returns the time in Unix seconds.
        bank: Scores allocations on the samples that this run's trials took.
        meter: Counts the health of these samples.
        rules: Propose when the proposer has no suggestion.
        inherited: Insights of an earlier run.
        stored: Finished trials of the run from before it was resumed, by number.
        proposals: The proposals of every step whose decisions are stored, by step.
        insights: The insights learnt, in order of the steps.
        trials: The trials on the search split, in order.
        extra: The trials of the confirmation, those on the test split included.
        adaptive: The policy that was chosen at the end; None without one.
        turn: The proposer's last turn.
        drafts: The proposals of the present step.
        warned: Stages and models whose samples were warned of.
        prices: What the trials took, by stage and option.
        n_repriced: How often prices have changed.
    """

    run_id: str
    settings: SearchSettings
    space: SearchSpace
    splits: Splits
    examples: Sequence[Example]
    fresh: Sequence[Example]
    store: Store
    runtime: Runtime
    ledger: Ledger
    proposer: Proposer
    approve: Approve | None
    clock: Callable[[], float]
    bank: BankOutcomes
    meter: SampleMeter
    rules: InsightsProposer = field(default_factory=InsightsProposer)
    inherited: Sequence[Inherited] = ()
    stored: dict[int, TrialResult] = field(default_factory=dict)
    proposals: dict[int, list[Draft]] = field(default_factory=dict)
    insights: list[Insight] = field(default_factory=list)
    trials: list[TrialResult] = field(default_factory=list)
    extra: list[TrialResult] = field(default_factory=list)
    adaptive: AdaptivePolicy | None = None
    turn: Turn = field(default_factory=Turn)
    drafts: list[Draft] = field(default_factory=list)
    warned: set[tuple[str, str]] = field(default_factory=set)
    prices: MeasuredPrices = field(default_factory=MeasuredPrices)
    n_repriced: int = 0

    @property
    def spec(self) -> PipelineSpec:
        """The pipeline."""
        return self.space.spec

    @property
    def cells_left(self) -> int | None:
        """How many cells, each an example with an allocation, the limit on trials still allows; None without.

        Failed trials do not count.
        """
        limit = self.settings.limits.trials
        return None if limit is None else max(0, limit * len(self.examples) - self._n_cells)

    @property
    def trials_left(self) -> int | None:
        """How many trials these are, the last one perhaps in part; None without a limit."""
        cells_left = self.cells_left
        return None if cells_left is None else math.ceil(cells_left / len(self.examples))

    @property
    def _n_cells(self) -> int:
        return sum(trial.n_run for trial in self.trials if not is_failed(trial))

    @property
    def next_number(self) -> int:
        """The number of the next trial."""
        return len(self.trials) + len(self.extra)

    def number_of(self, planned: PlannedTrial) -> int:
        """Return the number of a trial: its own where one grows, else the next.

        Args:
            planned: The trial as it is planned.
        """
        return self.next_number if planned.grows is None else planned.grows.number

    def view(self, step: int) -> SearchView:
        """Return what a proposer may know at a step: nothing of the test split."""
        refused = [
            draft.allocation
            for earlier, drafts in self.proposals.items()
            if earlier < step
            for draft in drafts
            if draft.status == "refused" and isinstance(draft.allocation, Allocation)
        ]
        return SearchView(
            settings=self.settings,
            space=self.space,
            trials=tuple(self.trials),
            insights=tuple(i for i in self.insights if i.step < step),
            cells_left=self.cells_left,
            n_examples=len(self.examples),
            task=self.spec.name,
            step=step,
            refused=tuple(refused),
            bank=self.bank,
            failing=partial(failing_examples, self.store, self.run_id, self.spec, self.examples),
        )

    def event(self, kind: str, **detail: object) -> None:
        """Store an event of the run.

        Args:
            kind: The kind of the event.
            detail: Its JSON-able fields.
        """
        self.store.put_event(Event(run_id=self.run_id, at=self.clock(), kind=kind, detail=json.dumps(detail)))

    def choice(self) -> Choice:
        """Return the winner and the best default, as they stand."""
        settings, space = self.settings, self.space
        rule = Rule(
            measure=space.measure,
            budget_units=space.budget_units,
            goal=settings.goal,
            margin=settings.margin,
            seed=settings.seed,
        )
        return choose(self.trials, self.extra, rule)

    def limit_reached(self) -> str | None:
        """Return the limit that the search has reached, in words; None while it may go on.

        The expected cost of the end is reserved out of the limits: of the test phase, but no more than half
        of each limit, and of completing the partial trials that look best, but no more than a quarter.
        """
        n_further = sum(len(self.examples) - trial.n_run for trial in unfinished(self.trials))
        self._reserve((self._n_tests * len(self.splits.test), 1 / 2), (n_further, 1 / 4))
        return self.ledger.reached(self._n_cells / len(self.examples))

    def reserve(self) -> None:
        """Set the expected cost of the test phase aside, but no more than half of each limit.

        Where no trial is complete, nothing is set aside: without one there is nothing to test.
        """
        n_examples = self._n_tests * len(self.splits.test) if ranked(self.trials) else 0
        self._reserve((n_examples, 1 / 2))

    def _reserve(self, *parts: tuple[int, float]) -> None:
        """Set aside what numbers of examples may cost, of each limit no more than the share beside them."""
        ledger, minutes = self.ledger, self.settings.limits.minutes or 0.0
        counts, shares = zip(*parts, strict=True)
        costs = zip(self._costs_of(counts), shares, strict=True)
        ledger.reserve_for_end = sum((cost.within(ledger.limits, share) for cost, share in costs), Spending())
        times = zip(self._minutes_of(counts), shares, strict=True)
        ledger.reserve_minutes = sum(min(time, share * minutes) for time, share in times)

    def spend_reserve(self) -> None:
        """Allow what was set aside to be spent."""
        self.ledger.reserve_for_end = Spending()
        self.ledger.reserve_minutes = 0.0

    @property
    def _n_tests(self) -> int:
        """How many trials the test phase has: winner, default, recommendation; policy and its rival."""
        return 5 if self.settings.seeks_policy else 3 if self.settings.goal.min_quality is None else 2

    def _costs_of(self, counts: Sequence[int]) -> list[Spending]:
        """Return what numbers of examples may cost at the end: each as in the leader or the best default, the
        dearer.
        """
        limits = self.settings.limits
        if self.settings.replay or (limits.tokens is None and limits.flops is None and limits.usd is None):
            return [Spending()] * len(counts)
        defaults = [trial for trial in self.trials if trial.purpose == "baseline"]
        run = [trial for trial in (leader(defaults), leader(self.trials)) if trial is not None]
        tokens = max(((t.prompt_tokens + t.generated_tokens) / t.n_run for t in run), default=0.0)
        flops = max((t.flops_per_query or 0.0 for t in run), default=0.0)
        usd = max(((t.cost_usd or 0.0) / t.n_run for t in run), default=0.0)
        more = [1.1 * count for count in counts]  # a tenth for prompts that differ
        return [Spending(tokens=int(n * tokens), flops=n * flops, usd=n * usd) for n in more]

    def _minutes_of(self, counts: Sequence[int]) -> list[float]:
        """Return the minutes that numbers of examples may take at the end, each as long as in the slowest
        trial.
        """
        if self.settings.replay or self.settings.limits.minutes is None:
            return [0.0] * len(counts)
        seconds = [
            (row.finished_at - row.started_at) / row.n_scored
            for row in self.store.trials(self.run_id)
            if row.finished_at is not None and row.n_scored and row.samples_drawn >= row.samples_reused
        ]
        slowest = max(seconds, default=0.0)
        return [count * slowest / 60 for count in counts]


Step = GraphRuntime[SearchWork]


def tell(runtime: Step, event: SearchEvent) -> None:
    """Pass an event to the caller of the search."""
    runtime.stream_writer(event)
