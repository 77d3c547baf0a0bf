"""The choice at the end of a search: the winner, the best default, and what is recommended beside the winner.

The same function chooses while fresh examples are bought, in the confirmation and in the outcome, so that all
of them name the same allocations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agenttts.results.fresh import fresh_scores
from agenttts.results.ranking import latest, within_budget
from agenttts.results.selection import Scoreboard
from agenttts.results.trials import TrialResult
from agenttts.settings import MARGIN
from agenttts.space.measure import Measure
from agenttts.space.objective import BEST, Goal
from agenttts.stats import Difference, Interval
from pipelines.allocation import Allocation


@dataclass(frozen=True, kw_only=True)
class Rule:
    """By what a trial is chosen.

    Attributes:
        measure: The measure of the budget.
        budget_units: The most that an allocation may cost per query, in that measure.
        goal: What is sought.
        margin: By how much a recommended allocation may be worse than the best one.
        seed: The run's seed, which the bootstrap draws from.
    """

    measure: Measure
    budget_units: float
    goal: Goal = BEST
    margin: float = MARGIN
    seed: int = 0

    def burden(self, trial: TrialResult) -> tuple[float, float, int]:
        """Return what is to be small where a score is required: the burden, planned cost, and number.

        Args:
            trial: The trial.
        """
        return self.goal.burden(self.measure, trial.allocation), trial.budget_units, trial.number


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A trial that is cheaper than the winner's and not worse by more than a margin.

    Attributes:
        trial: The trial on the search's examples.
        difference: Its mean score minus the winner's, over the examples that both have.
        bound: The one-sided 95 % lower bound of that difference.
        n: The number of examples that both have.
    """

    trial: TrialResult
    difference: float
    bound: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The trials that may win, and which of them are chosen.

    Attributes:
        candidates: The last complete trial of each allocation that is within the budget.
        board: Their scores; None without a candidate.
        winner: The index of the winner; None without a candidate.
        baseline: The trial of the best default; None when no default has a score.
        rule: By what they are chosen.
    """

    candidates: tuple[TrialResult, ...] = ()
    board: Scoreboard | None = None
    winner: int | None = None
    baseline: TrialResult | None = None
    rule: Rule

    @property
    def best(self) -> TrialResult | None:
        """The winner's trial on the search's examples; None when no trial has a score."""
        return None if self.winner is None else self.candidates[self.winner]

    def claim(self, trial: TrialResult | None) -> Interval | None:
        """Return the score of the winner or the best default, corrected for the choice; None where unknown.

        Args:
            trial: The trial.
        """
        index = self._index(trial)
        if index is None or self.board is None:
            return None
        return self.board.claim(index, of_defaults=index != self.winner)

    @property
    def difference(self) -> Difference | None:
        """Winner minus best default, corrected for both choices; None where one of them is missing."""
        index = self._index(self.baseline)
        if self.board is None or self.winner is None or index is None:
            return None
        return self.board.difference(self.winner, index)

    @property
    def bound(self) -> float | None:
        """The one-sided 90 % lower bound of the winner's score; None without a winner."""
        if self.board is None or self.winner is None:
            return None
        return self.board.lower_bound(self.winner)

    @property
    def recommended(self) -> Recommendation | None:
        """The cheapest trial that is shown to be worse than the winner by no more than the margin.

        None where the winner is the cheapest such trial itself, or where the cheapest was sought.
        """
        if self.board is None or self.winner is None or self.rule.goal.min_quality is not None:
            return None
        best = self.candidates[self.winner]
        cheaper = [i for i, t in enumerate(self.candidates) if t.budget_units < best.budget_units]
        cheaper.sort(key=lambda i: self.rule.burden(self.candidates[i]))
        bounds = self.board.shortfall_bounds(cheaper, self.winner)
        for index, bound in zip(cheaper, bounds, strict=True):
            if bound > -self.rule.margin:
                mean, _, count = self.board.paired(index, self.winner)
                trial = self.candidates[index]
                return Recommendation(trial=trial, difference=mean, bound=bound, n=count)
        return None

    def _index(self, trial: TrialResult | None) -> int | None:
        return next(
            (
                i
                for i, t in enumerate(self.candidates)
                if trial is not None and t.allocation == trial.allocation
            ),
            None,
        )


def choose(trials: Sequence[TrialResult], extra: Sequence[TrialResult], rule: Rule) -> Choice:
    """Choose the winner and the best default.

    Without a required score the winner has the best mean over all examples. With one it is the cheapest (or
    fastest) allocation whose lower bound reaches it, and the one with the highest bound where none does. Once
    fresh examples were bought, only trials that have some can win.

    Args:
        trials: The trials of the search itself.
        extra: Trials of the confirmation.
        rule: By what to choose.
    """
    every = latest(trials, extra)
    candidates = within_budget(every, rule.measure, rule.budget_units)
    defaults = [t for t in every if t.purpose == "baseline"]
    defaults = within_budget(defaults, rule.measure, rule.budget_units)
    if not candidates:
        return Choice(rule=rule)
    fresh: Mapping[Allocation, Mapping[str, float | None]] = fresh_scores(extra)
    board = Scoreboard.of(
        [t.scores for t in candidates],
        [fresh.get(t.allocation, {}) for t in candidates],
        [t.purpose == "baseline" for t in candidates],
        rule.seed,
        [(t.scores, t.purpose == "baseline") for t in trials if t.status == "partial" and t.scores],
    )
    levels = {t.allocation: float(level) for t, level in zip(candidates, board.levels, strict=True)}

    def merit(trial: TrialResult) -> tuple[float, float, int]:
        level = levels.get(trial.allocation, trial.score or 0.0)
        return round(level, 12), -trial.budget_units, -trial.number

    able = [i for i in range(len(candidates)) if board.n_fresh[i] or not board.n_fresh.any()]
    required = rule.goal.min_quality
    if required is None:
        winner = max(able, key=lambda i: merit(candidates[i]))
    else:
        bounds = {i: board.lower_bound(i) for i in able}
        reaching = [i for i in able if bounds[i] >= required]
        winner = (
            min(reaching, key=lambda i: rule.burden(candidates[i]))
            if reaching
            else max(able, key=lambda i: (round(bounds[i], 12), merit(candidates[i])))
        )
    return Choice(
        candidates=tuple(candidates),
        board=board,
        winner=winner,
        baseline=max(defaults, key=merit, default=None),
        rule=rule,
    )
