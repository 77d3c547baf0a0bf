"""The part of a report about a run's policy: where its queries ended, what they cost, how sure it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agenttts.report.drawing import ACCENT, GREY, PALETTE, bare_figure
from agenttts.report.figures import reliability
from agenttts.results.adaptive import AdaptivePolicy, CostPerQuery, FrontPoint
from agenttts.results.trials import TrialResult, trial_id
from agenttts.space.measure import Measure, amount_text, label_of, number_text
from datastore import Store

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from agenttts.report.data import ReportData

_BINS = 10


@dataclass(frozen=True, kw_only=True)
class PolicyQuery:
    """How far one query of the test split went.

    Attributes:
        example_id: The example.
        n_rungs: How many rungs were run.
        confidence: How sure the outcome is, 0 to 1; None where none was computed.
        cost: Realised, in the budget's measure; None where it is not known.
        score: Its score; None where the example is missing.
    """

    example_id: str
    n_rungs: int
    confidence: float | None
    cost: float | None
    score: float | None


def policy_queries(
    store: Store, run_id: str, trials: Sequence[TrialResult], measure: Measure
) -> tuple[PolicyQuery, ...]:
    """Read how far the queries of the policy's trial on the test split went.

    Args:
        store: The database, open for reading.
        run_id: The run.
        trials: The trials of the run.
        measure: The measure of the budget.

    Returns:
        The queries; empty when no policy was run on the test split.
    """
    trial = next((t for t in trials if t.policy is not None and t.split == "test"), None)
    if trial is None:
        return ()
    return tuple(
        PolicyQuery(
            example_id=result.example_id,
            n_rungs=result.n_rungs,
            confidence=result.confidence,
            cost=measure.realised(result.flops, result.cost_usd),
            score=trial.scores.get(result.example_id),
        )
        for result in store.policy_results(trial_id(run_id, trial.number))
    )


def policy_rows(data: ReportData, adaptive: AdaptivePolicy) -> Iterator[tuple[str, str, str]]:
    """Describe the policy in rows of a name, a figure on the search split and one on the test split."""
    tested = adaptive.tested
    yield (
        "score",
        f"{adaptive.choice.cross_fitted_score.mean:.3f} cross-fitted, "
        f"{adaptive.choice.search_score:.3f} on the examples of the choice",
        "–" if tested is None else f"{tested.score:.3f} [{tested.ci[0]:.3f}, {tested.ci[1]:.3f}]",
    )
    realised = None if tested is None else tested.cost
    for name in ("mean", "median", "p95", "max"):
        yield (_COST_NAMES[name], _cost(data, adaptive.choice.cost, name), _cost(data, realised, name))
    for k, share in enumerate(adaptive.choice.ended_at):
        on_test = "–" if tested is None else f"{tested.ended_at[k]:.0%}"
        yield (f"queries that end at rung {k + 1}", f"{share:.0%}", on_test)


_KIND_NAMES = {
    "fixed": "fixed, plain votes",
    "weighted": "and weighted votes",
    "stopping": "and early stops",
    "cascade": "and escalation",
}
_COST_NAMES = {
    "mean": "cost per query, mean",
    "median": "cost per query, median",
    "p95": "cost per query, 95 % at most",
    "max": "cost per query, the dearest",
}


def _cost(data: ReportData, cost: CostPerQuery | None, name: str) -> str:
    return "–" if cost is None else number_text(getattr(cost, name), data.outcome.measure, 3)


def policy_figures(data: ReportData) -> dict[str, go.Figure]:
    """Plot the cost of the queries, and how often they were right against how sure the policy was.

    Args:
        data: The report.

    Returns:
        The figures by name; none where no policy was run on the test split.
    """
    figures = {}
    if data.outcome.adaptive is not None and data.outcome.adaptive.choice.front:
        figures["policy-front"] = _front_figure(data, data.outcome.adaptive.choice.front)
    costs = [query.cost for query in data.policy_queries if query.cost is not None]
    if costs:
        figures["policy-cost"] = _cost_figure(data, costs)
    sure = [
        (query.confidence, query.score)
        for query in data.policy_queries
        if query.confidence is not None and query.score is not None
    ]
    if len(sure) >= _BINS:
        figures["policy-trust"] = reliability(_bins(sure), "test examples")
    return figures


def _front_figure(data: ReportData, front: Sequence[FrontPoint]) -> go.Figure:
    import plotly.graph_objects as go

    x_title = f"cost per query, mean, {label_of(data.outcome.measure)}"
    figure = bare_figure(f"score ({data.metric}), cross-fitted", x_title)
    for i, kind in enumerate(dict.fromkeys(point.kind for point in front)):
        points = sorted((p for p in front if p.kind == kind), key=lambda p: p.cost)
        figure.add_trace(
            go.Scatter(
                x=[p.cost for p in points],
                y=[p.score for p in points],
                mode="lines+markers",
                name=_KIND_NAMES.get(kind, kind),
                line={"color": PALETTE[i % len(PALETTE)], "width": 2},
            )
        )
    return figure


def _cost_figure(data: ReportData, costs: Sequence[float]) -> go.Figure:
    import plotly.graph_objects as go

    measure = data.outcome.measure
    figure = bare_figure("queries", f"cost per query, {label_of(measure)}")
    counts, edges = np.histogram(costs, bins=40)
    figure.add_trace(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=np.diff(edges),
            marker={"color": ACCENT},
            name="test examples",
            hovertemplate="%{x:.3g}: %{y} queries<extra></extra>",
        )
    )
    mean = float(np.mean(costs))
    figure.add_vline(x=mean, line={"color": PALETTE[1], "width": 2})
    figure.add_annotation(
        x=mean,
        y=1,
        yref="paper",
        text=f"mean {amount_text(mean, measure, 3)}",
        xanchor="left",
        showarrow=False,
    )
    if data.budget_units is not None:
        figure.add_vline(x=data.budget_units, line={"color": GREY, "dash": "dot", "width": 1})
    return figure


def _bins(sure: Sequence[tuple[float, float]]) -> list[tuple[float, float, int]]:
    """Group by confidence into bins of equal numbers: mean confidence, mean score, number of examples."""
    ordered = np.array(sorted(sure))
    parts = [part for part in np.array_split(ordered, _BINS) if len(part)]
    return [(float(p[:, 0].mean()), float(p[:, 1].mean()), len(p)) for p in parts]
