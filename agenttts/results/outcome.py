"""The outcome of a run: the winner, what it is compared with, what the run cost, and what is claimed.

These are values only. `conclusion` computes them, `certificate` puts them into sentences, and the store keeps
them as the JSON that `agenttts search --json` prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated

from pydantic import PlainValidator, TypeAdapter
from pydantic_core import to_jsonable_python

from agenttts.results.adaptive import AdaptivePolicy, Bounds
from agenttts.results.cost import SearchCost
from agenttts.results.health import SampleHealth
from agenttts.results.ranking import by_phase, frontier
from agenttts.results.trials import TrialResult
from agenttts.space.measure import MeasureName
from agenttts.stats import Interval
from pipelines.allocation import Allocation
from pipelines.jsonvalues import JSON
from pipelines.servers.wire import Negotiated

_Allocation = Annotated[Allocation, PlainValidator(Allocation.from_dict)]
_Trials = Annotated[tuple[TrialResult, ...], PlainValidator(tuple)]


@dataclass(frozen=True, kw_only=True)
class MetricSummary:
    """A further metric on the test split.

    Attributes:
        mean: The mean over the examples.
        ci: The 95 % interval of the mean.
        n: The number of examples that the metric could score.
    """

    mean: float
    ci: Bounds
    n: int


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """The winner or the best default, with its scores.

    Attributes:
        allocation: The allocation.
        budget_units: Its planned cost per query, in the budget's measure.
        search_score: Score on the search's examples and the fresh ones, corrected for the choice among
            trials; the plain mean stands with the trial.
        search_ci: Interval of that score, which allows for the choice.
        n_search: The number of these examples.
        test_score: Mean score on the test split; None when it was not scored there.
        test_ci: Interval of that mean.
        test_metrics: The spec's further metrics on the test split, by name.
        search_cost: Realised cost per query on the search split, in the budget's measure; None where it is
            not known.
        test_cost: The same on the test split.
        trial: Number of its trial on the search split.
    """

    allocation: _Allocation
    budget_units: float
    search_score: float
    search_ci: Bounds | None = None
    n_search: int = 0
    test_score: float | None = None
    test_ci: Bounds | None = None
    test_metrics: Mapping[str, MetricSummary] = field(default_factory=dict)
    search_cost: Interval | None = None
    test_cost: Interval | None = None
    trial: int

    def trial_in(self, trials: Iterable[TrialResult]) -> TrialResult | None:
        """Return its trial on the search split; None where that is not among these.

        Args:
            trials: Trials of the run.
        """
        return next((trial for trial in trials if trial.number == self.trial), None)


@dataclass(frozen=True, kw_only=True)
class Equivalent:
    """An allocation whose score differs from the winner's by no more than noise; or the winner itself.

    Attributes:
        allocation: The allocation.
        budget_units: Its planned cost per query, in the budget's measure.
        search_score: Mean score on the search split.
        difference: Its score minus the winner's, paired by example.
        difference_ci: Interval of that difference.
        trial: Number of its trial on the search split.
        cheapest: Whether it is the cheapest of the equivalent allocations.
    """

    allocation: _Allocation
    budget_units: float
    search_score: float
    difference: float
    difference_ci: Bounds
    trial: int
    cheapest: bool


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """The cheapest allocation that is shown to be worse than the winner by no more than a margin.

    Attributes:
        allocation: The allocation.
        budget_units: Its planned cost per query, in the budget's measure.
        margin: The margin, as a difference of scores.
        difference: Its mean score minus the winner's, paired, on the search's and the fresh examples.
        bound: The one-sided 95 % lower bound of that difference, which is above minus the margin.
        n: The number of examples that both were scored on.
        trial: Number of its trial on the search split.
        test_score: Mean score on the test split; None when it was not scored there.
        test_ci: Interval of that mean.
    """

    allocation: _Allocation
    budget_units: float
    margin: float
    difference: float
    bound: float
    n: int
    trial: int
    test_score: float | None = None
    test_ci: Bounds | None = None


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """Whether the required score is reached.

    Attributes:
        min_quality: The required score.
        bound: The one-sided 90 % lower bound of the winner's score, corrected for the choice.
        shown: Whether that bound reaches the required score.
        met: Whether the score on the test split does; None where the winner was not scored there.
    """

    min_quality: float
    bound: float
    shown: bool
    met: bool | None = None


@dataclass(frozen=True, kw_only=True)
class FreshExamples:
    """The examples that no trial of the search saw, and what was scored on them.

    Attributes:
        n: The number of those that any trial was scored on.
        n_trials: The allocations that were scored on some of them.
        n_scores: The scores bought, over all of these allocations.
    """

    n: int
    n_trials: int
    n_scores: int


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What is claimed of the winner, and on how much evidence.

    Attributes:
        text: The claim in sentences.
        tie: Whether the test split shows no difference from the best default; None when that was not tested.
        winner_is_default: Whether the winner is the best default itself.
        n_search: Examples of the search split.
        n_test: Examples of the test split that the claim rests on.
        n_trials: Trials of the search, failed ones and its confirmation not counted.
        n_equivalent: Allocations equivalent to the winner, itself included.
    """

    text: str = "No trial has a score, so nothing is claimed."
    tie: bool | None = None
    winner_is_default: bool = False
    n_search: int = 0
    n_test: int = 0
    n_trials: int = 0
    n_equivalent: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a run; of an unfinished run, the outcome if it ended now.

    Attributes:
        run_id: The run.
        measure: The measure of the budget and of all that is called units here: "units", or "usd".
        objective: What was sought: quality, cost or latency.
        min_quality: The least score that the winner had to reach; None when the best score was sought.
        planned_seconds: The winner's planned seconds per query; None unless latency was sought.
        best: The winner; None when no trial has a score.
        baseline: The best single-model default; None when none has a score.
        difference: Winner minus baseline on the test split, paired; None when not both were scored there.
        difference_ci: Interval of that difference.
        search_difference: Winner minus baseline on the search's examples and the fresh ones, paired and
            corrected for the choice of both; None when one of them is missing.
        search_difference_ci: Interval of that difference.
        fresh: What was scored on fresh examples; None where nothing was.
        requirement: Whether the required score is reached; None where none was required.
        recommended: The cheapest allocation that is not worse than the winner by more than the margin; None
            where that is the winner, or where the least cost or latency was sought.
        equivalent: The winner and all allocations that differ from it by no more than noise, cheapest first.
        frontier: Trials that no other beats in score for as few units, cheapest first.
        hypervolume: The area below the frontier from no units to the budget: 1 for a score of 1 at no cost.
        trials: The trials of the search itself, in their order.
        confirmation: The trials after it: finalists again, allocations that the bank answers, test trials.
        cost: What the run paid.
        stopped_because: Why the search went no further; None when that is not known.
        n_search: Examples of the search split.
        n_test: Examples of the test split that the comparison rests on.
        n_test_split: All examples of the test split, of which a limit may have cut some; None when not known.
        budget_units: The budget per query, in its measure; None in what an older version stored.
        health: Shares of empty, cut, unparsed and equal samples, by stage and model.
        negotiated: What was found out about the servers.
        adaptive: The policy that the run chose, which spends more on queries that need it; None without one.
        certificate: What is claimed.
    """

    run_id: str
    measure: MeasureName = "units"
    objective: str
    min_quality: float | None
    planned_seconds: float | None
    best: Finalist | None
    baseline: Finalist | None
    difference: float | None
    difference_ci: Bounds | None
    search_difference: float | None
    search_difference_ci: Bounds | None
    fresh: FreshExamples | None
    requirement: Requirement | None
    recommended: Recommended | None
    equivalent: tuple[Equivalent, ...]
    frontier: _Trials
    hypervolume: float
    trials: _Trials
    confirmation: _Trials
    cost: SearchCost
    stopped_because: str | None
    n_search: int
    n_test: int
    n_test_split: int | None = None
    budget_units: float | None = None
    health: tuple[SampleHealth, ...] = ()
    negotiated: tuple[Negotiated, ...] = ()
    adaptive: AdaptivePolicy | None = None
    certificate: Certificate = Certificate()

    def to_json_dict(self) -> dict[str, JSON]:
        """Return the outcome as `agenttts search --json` prints it; of the trials, a summary."""
        values: dict[str, object] = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {
            "frontier": [_front_json(trial) for trial in self.frontier],
            "trials": [trial_json(trial) for trial in self.trials],
            "confirmation": [trial_json(trial) for trial in self.confirmation],
            "health": [health.to_json_dict() for health in self.health],
            "adaptive": None if self.adaptive is None else self.adaptive.to_json_dict(),
        }
        return {name: jsonable(value) for name, value in values.items()}

    @classmethod
    def from_json_dict(cls, data: Mapping[str, JSON], trials: Sequence[TrialResult]) -> Outcome:
        """Load the outcome that `to_json_dict` returned.

        Args:
            data: The JSON, with all of its keys.
            trials: The run's trials from the store, since the JSON holds only a summary of them.

        Raises:
            pydantic.ValidationError: A key is missing, or a value has another type.
        """
        searched, extra = by_phase(trials)
        of_trials = {"trials": searched, "confirmation": extra, "frontier": frontier(searched, extra)}
        return _OUTCOME.validate_python({**data, **of_trials})


_OUTCOME = TypeAdapter(Outcome)


def jsonable(value: object) -> JSON:
    """Convert dataclasses and collections to JSON values; a number that is not finite becomes None.

    Args:
        value: The value.
    """
    plain: JSON = to_jsonable_python(value, fallback=Allocation.to_dict, inf_nan_mode="null")
    return plain


def trial_json(trial: TrialResult) -> dict[str, JSON]:
    """Return the summary of a trial that the outcome's JSON holds.

    Args:
        trial: The trial.
    """
    return {
        "number": trial.number,
        "purpose": trial.purpose,
        "allocation": trial.allocation.to_dict(),
        "policy": None if trial.policy is None else str(trial.policy),
        "status": trial.status,
        "score": trial.score,
        "n_scored": trial.n_scored,
        "n_missing": trial.n_missing,
        "budget_units": trial.budget_units,
        "proposer": trial.proposer,
        "reason": trial.reason,
        "samples_drawn": trial.samples_drawn,
        "samples_reused": trial.samples_reused,
        "error": trial.error,
    }


def _front_json(trial: TrialResult) -> dict[str, JSON]:
    return {
        "allocation": trial.allocation.to_dict(),
        "budget_units": trial.budget_units,
        "search_score": trial.score,
        "trial": trial.number,
    }
