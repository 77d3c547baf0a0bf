"""What the nodes of the search share: the state of the graph, and the context that they work on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from langgraph.runtime import Runtime as GraphRuntime

from agenttts.proposers.base import Proposer, SearchView, Turn
from agenttts.proposers.rules import InsightsProposer
from agenttts.replay.bank import BankOutcomes
from agenttts.results.adaptive import AdaptivePolicy
from agenttts.results.choosing import Choice, Rule, choose
from agenttts.results.meter import SampleMeter
from agenttts.results.trials import TrialResult
from agenttts.search.approval import Approve
from agenttts.search.drafts import Draft
from agenttts.search.events import SearchEvent
from agenttts.search.insights import Inherited
from agenttts.search.limits import Ledger, Spending
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
        examples: The search examples that trials are scored on.
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
    def trials_left(self) -> int | None:
        """How many trials the limit still allows; None without a limit. Failed ones do not count."""
        limit = self.settings.limits.trials
        return None if limit is None else max(0, limit - self._n_counted)

    @property
    def _n_counted(self) -> int:
        return sum(not is_failed(trial) for trial in self.trials)

    @property
    def next_number(self) -> int:
        """The number of the next trial."""
        return len(self.trials) + len(self.extra)

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
            trials_left=self.trials_left,
            n_examples=len(self.examples),
            task=self.spec.name,
            step=step,
            refused=tuple(refused),
            bank=self.bank,
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

        The expected cost of the test phase is reserved out of the limits.
        """
        self.reserve()
        return self.ledger.reached(self._n_counted)

    def reserve(self) -> None:
        """Set the expected cost of the test phase aside, out of the limits."""
        self.ledger.reserve_for_end = self._test_cost()
        self.ledger.reserve_minutes = self._test_minutes()

    def spend_reserve(self) -> None:
        """Allow what was set aside to be spent."""
        self.ledger.reserve_for_end = Spending()
        self.ledger.reserve_minutes = 0.0

    @property
    def _n_tests(self) -> int:
        """How many trials the test phase has: winner, default, recommendation; policy and its rival."""
        return 5 if self.settings.seeks_policy else 3 if self.settings.goal.min_quality is None else 2

    def _test_cost(self) -> Spending:
        """Return the expected cost of the test phase: for each example that of the dearest trial so far."""
        limits = self.settings.limits
        if self.settings.replay or (limits.tokens is None and limits.flops is None and limits.usd is None):
            return Spending()
        times = 1.1 * self._n_tests * len(self.splits.test)  # a tenth for prompts that differ
        tokens = flops = usd = 0.0
        for trial in self.trials:
            count = max(1, trial.n_scored)
            tokens = max(tokens, (trial.prompt_tokens + trial.generated_tokens) / count)
            flops = max(flops, trial.flops_per_query or 0.0)
            usd = max(usd, (trial.cost_usd or 0.0) / count)
        return Spending(tokens=int(times * tokens), flops=times * flops, usd=times * usd)

    def _test_minutes(self) -> float:
        """Return the minutes that the test phase may take: for each example as long as the slowest trial."""
        if self.settings.replay or self.settings.limits.minutes is None:
            return 0.0
        seconds = [
            (row.finished_at - row.started_at) / row.n_scored
            for row in self.store.trials(self.run_id)
            if row.finished_at is not None and row.n_scored and row.samples_drawn >= row.samples_reused
        ]
        return self._n_tests * len(self.splits.test) * max(seconds, default=0.0) / 60


Step = GraphRuntime[SearchWork]


def tell(runtime: Step, event: SearchEvent) -> None:
    """Pass an event to the caller of the search."""
    runtime.stream_writer(event)
