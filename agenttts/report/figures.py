"""The figures of a report, as plotly figures on a transparent ground that suit light and dark pages.

Their data come from `agenttts.report.data` and `agenttts.replay.curves`. Text from a run is escaped, since
plotly reads some HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from agenttts.report.drawing import (
    ACCENT,
    GREY,
    PALETTE,
    SYMBOLS,
    add_band,
    bare_figure,
    error_bars,
    hover_text,
    interval_text,
)
from agenttts.report.sentences import trial_score_text
from agenttts.space.measure import amount_text, label_of
from agenttts.stats import Interval
from pipelines.allocation import StageOption

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from agenttts.replay.curves import CurvePoint, Marginal, StageCurve
    from agenttts.report.data import ReportData
    from agenttts.report.tuned import TunedRow
    from agenttts.results.outcome import Finalist
    from agenttts.results.trials import TrialResult

MOST_STEPS = 8
"""How many dearer choices `next_unit` shows."""

Course = Literal["loss", "score"]
"""What is measured while a model is tuned."""

_LINES: Mapping[Course, tuple[str, Sequence[tuple[str, str, str]]]] = {
    "loss": ("loss, nats", (("loss", "training loss", "solid"), ("eval_loss", "evaluation loss", "dot"))),
    "score": ("score", (("score", "score", "solid"),)),
}


def best_so_far(data: ReportData, against: str = "trials") -> go.Figure:
    """Plot the best score after each trial, with a star where the winner's own trial ended.

    FLOPs are those of all samples that the trials used; where some came from a bank, a second line shows the
    part paid for.

    Args:
        data: The report.
        against: The horizontal axis: `trials` or `flops`.
    """
    import plotly.graph_objects as go

    figure = bare_figure(
        f"score ({data.metric})", "trials so far" if against == "trials" else "FLOPs of the search so far"
    )
    steps = data.steps
    texts = [hover_text(f"after trial {s.trial}", str(s.allocation), f"{s.score:.3f}") for s in steps]
    if against == "trials":
        series = [("best so far", [s.n_trials for s in steps], ACCENT, "solid")]
        ended = {s.trial: s.n_trials for s in steps}
        trials = [t for t in data.outcome.trials if t.number in ended and t.status == "complete"]
        _add_partial(figure, data, ended)
        marker = {"color": GREY, "size": 6, "opacity": 0.7}
        figure.add_trace(_points(data, trials, [ended[t.number] for t in trials], "trials", marker))
    else:
        flops, drawn = [s.flops or 0.0 for s in steps], [s.flops_drawn or 0.0 for s in steps]
        name = "all samples used" if drawn < flops else "samples drawn"
        series = [(name, flops, ACCENT, "solid")]
        if steps and 0 < drawn[-1] < flops[-1]:
            series.append(("samples paid for", drawn, PALETTE[1], "dash"))
    for name, x, colour, dash in series:
        figure.add_trace(
            go.Scatter(
                x=x,
                y=[s.score for s in steps],
                mode="lines+markers",
                name=name,
                line={"color": colour, "shape": "hv", "width": 2.5, "dash": dash},
                marker={"size": 5},
                text=texts,
                hovertemplate="%{text}<extra></extra>",
            )
        )
    figure.update_xaxes(rangemode="tozero")
    _add_winner(figure, data, {s.trial: x for s, x in zip(steps, series[0][1], strict=True)})
    if against == "flops":
        figure.update_xaxes(exponentformat="e")  # a power would need an inline style
    return figure


def score_against_samples(data: ReportData, stage: str) -> go.Figure:
    """Plot the pipeline's score against one stage's number of samples, a line with intervals for each model.

    Args:
        data: The report.
        stage: The name of the stage.
    """
    import plotly.graph_objects as go

    figure = bare_figure(f"score ({data.metric})", f"samples at {stage}")
    colours = model_styles(data)
    curves = [curve for curve in data.curves if curve.stage == stage]
    for curve in curves:
        colour, symbol = colours[curve.option]
        x = [float(p.n_samples) for p in curve.points]
        if len(curve.points) > 1:
            add_band(figure, x, [p.score for p in curve.points], colour)
        figure.add_trace(
            go.Scatter(
                x=x,
                y=[p.score.mean for p in curve.points],
                mode="lines+markers",
                name=escape(str(curve.option)),
                line={"color": colour, "width": 2.5},
                marker={"symbol": symbol, "size": 9},
                error_y=None
                if len(curve.points) > 1
                else error_bars([p.score for p in curve.points], colour),
                text=[_curve_hover(curve, point) for point in curve.points],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    counts = sorted({p.n_samples for curve in curves for p in curve.points})
    ticks = [n for n in counts if n & (n - 1) == 0 or len(counts) <= 6] or counts
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[str(n) for n in ticks])
    best = data.outcome.best
    if best is not None and stage in best.allocation:
        figure.add_vline(x=best.allocation[stage].n_samples, line={"color": GREY, "dash": "dot", "width": 1})
    return figure


def quality_against_budget(data: ReportData) -> go.Figure:
    """Plot every trial's score against its planned units, with the Pareto front.

    Args:
        data: The report.
    """
    import plotly.graph_objects as go

    figure = bare_figure(f"score ({data.metric})", f"budget, {label_of(data.outcome.measure)} per query")
    front, best = data.outcome.frontier, data.outcome.best
    others = [
        t
        for t in data.trials
        if t.split == "search" and t.status == "complete" and t.number not in data.frontier
    ]
    _add_partial(figure, data, {t.number: t.budget_units for t in data.trials if t.split == "search"})
    costs = [t.budget_units for t in others]
    figure.add_trace(_points(data, others, costs, "trials", {"color": GREY, "size": 8, "opacity": 0.6}))
    front_costs = [t.budget_units for t in front]
    figure.add_trace(
        go.Scatter(
            x=front_costs,
            y=[t.score for t in front],
            mode="lines",
            line={"color": ACCENT, "shape": "hv", "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    figure.add_trace(_points(data, front, front_costs, "Pareto front", {"color": ACCENT, "size": 10}))
    if best is not None:
        figure.add_trace(
            go.Scatter(
                x=[best.budget_units],
                y=[best.search_score],
                mode="markers",
                name=f"{'winner' if data.confirmed else 'best so far'}, corrected for the choice",
                error_y=error_bars(_claims(best), PALETTE[1]),
                marker={"symbol": "star", "size": 17, "color": PALETTE[1]},
                hoverinfo="skip",
            )
        )
    adaptive = data.outcome.adaptive
    if adaptive is not None:
        figure.add_trace(
            go.Scatter(
                x=[adaptive.choice.cost.mean],
                y=[adaptive.choice.cross_fitted_score.mean],
                mode="markers",
                name="policy, cross-fitted",
                marker={"symbol": "diamond", "size": 13, "color": PALETTE[2]},
                text=[hover_text(str(adaptive.policy))],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    if data.budget_units is not None:
        figure.add_vline(x=data.budget_units, line={"color": GREY, "dash": "dot", "width": 1})
    return figure


def next_unit(data: ReportData) -> go.Figure:
    """Plot the gain in score per further unit of the dearer choices that gain most, the best on top.

    Args:
        data: The report.
    """
    import plotly.graph_objects as go

    measure = data.outcome.measure
    figure = bare_figure("", f"gain in score per further {'unit' if measure == 'units' else 'USD'}")
    steps = list(reversed(data.marginals[:MOST_STEPS]))
    colours = model_styles(data)
    figure.add_trace(
        go.Scatter(
            x=[m.gain_per_unit for m in steps],
            y=[step_label(m) for m in steps],
            mode="markers",
            marker={
                "size": 11,
                "color": [colours[m.after.option][0] for m in steps],
                "symbol": [colours[m.after.option][1] for m in steps],
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [(m.gain.high - m.gain.mean) / m.extra_units for m in steps],
                "arrayminus": [(m.gain.mean - m.gain.low) / m.extra_units for m in steps],
                "color": GREY,
                "thickness": 1.5,
                "width": 4,
            },
            text=[
                hover_text(
                    step_label(m),
                    f"+{amount_text(m.extra_units, measure, 3)}: {interval_text(m.gain, signed=True)}",
                    f"from {m.base}",
                )
                for m in steps
            ],
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    )
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    figure.update_layout(height=110 + 32 * max(1, len(steps)))
    figure.update_yaxes(showgrid=False, automargin=True)
    return figure


def training_courses(
    tuned: Sequence[TunedRow], styles: Mapping[StageOption, tuple[str, str]] = MappingProxyType({})
) -> dict[Course, go.Figure]:
    """Plot what was measured while models were tuned, by step.

    Args:
        tuned: How the models were tuned.
        styles: Colours and markers of options, as `model_styles` chooses them; others follow the palette.

    Returns:
        `loss`: that of training and, dotted, that on the evaluation split, in nats; `score`: the greedy score
        on the evaluation split. One of which nothing was measured is left out.
    """
    return {
        what: _course(tuned, axis, lines, styles)
        for what, (axis, lines) in _LINES.items()
        if any(row.points(key) for row in tuned for key, _, _ in lines)
    }


def _course(
    tuned: Sequence[TunedRow],
    axis: str,
    lines: Sequence[tuple[str, str, str]],
    styles: Mapping[StageOption, tuple[str, str]],
) -> go.Figure:
    import plotly.graph_objects as go

    figure = bare_figure(axis, "step")
    for number, row in enumerate(tuned):
        colour = styles.get(StageOption(row.model), (PALETTE[number % len(PALETTE)],))[0]
        for key, name, dash in lines:
            points = row.points(key)
            figure.add_trace(
                go.Scatter(
                    x=[step for step, _ in points],
                    y=[value for _, value in points],
                    name=escape(f"{row.model}: {name}" if len(tuned) > 1 else name),
                    mode="lines" if key == "loss" and len(points) > 1 else "lines+markers",
                    line={"color": colour, "dash": dash, "width": 2},
                )
            )
    figure.update_xaxes(rangemode="tozero")
    figure.update_layout(showlegend=True)
    return figure


def regret_against(moments: pd.DataFrame, against: str = "trials") -> go.Figure:
    """Plot the mean regret of each proposer of a comparison. A search that has finished keeps its last
    regret.

    Args:
        moments: The table of trials that `agenttts compare` writes.
        against: The horizontal axis: `trials`, in cells of complete ones, or `flops` for the FLOPs of as many
            trials of random search.
    """
    import numpy as np
    import plotly.graph_objects as go

    axis = "trials" if against == "trials" else "FLOPs, in trials of seeded random search"
    figure = bare_figure("mean regret", axis)
    grid = np.arange(1, int(moments["trials_asked"].max()) + 1)
    for i, (name, rows) in enumerate(moments.groupby("proposer", sort=False)):
        curves = []
        for _, search in rows.groupby(["landscape", "seed", "budget_units"], dropna=False):
            search = search.sort_values("trial")
            at = search["cells"] / search["n_examples"] if against == "trials" else search["trials_worth"]
            where = np.searchsorted(at.to_numpy(dtype=float), grid + 1e-9, side="right") - 1
            curves.append(search["regret"].to_numpy(dtype=float)[np.maximum(where, 0)])
        figure.add_trace(
            go.Scatter(
                x=grid,
                y=np.mean(curves, axis=0),
                mode="lines",
                name=escape(str(name)),
                line={"color": PALETTE[i % len(PALETTE)], "dash": "solid" if i < len(PALETTE) else "dash"},
            )
        )
    figure.update_layout(hovermode="x unified")
    return figure


def reliability(bins: Sequence[tuple[float, float, int]], of: str = "test texts") -> go.Figure:
    """Plot accuracy against confidence; the size of a dot grows with its number of texts.

    Args:
        bins: For each bin the mean confidence, the accuracy and the number of texts.
        of: What the dots stand for.
    """
    import plotly.graph_objects as go

    figure = bare_figure("accuracy", "confidence")
    most = max(n for _, _, n in bins)
    figure.add_trace(
        go.Scatter(x=[0, 1], y=[0, 1], mode="lines", name="calibrated", line={"color": GREY, "dash": "dot"})
    )
    figure.add_trace(
        go.Scatter(
            x=[sure for sure, _, _ in bins],
            y=[right for _, right, _ in bins],
            mode="lines+markers",
            name=of,
            line={"color": ACCENT, "width": 2},
            marker={"size": [8 + 16 * (n / most) ** 0.5 for _, _, n in bins]},
            text=[f"{n} texts" for _, _, n in bins],
            hovertemplate="confidence %{x:.2f}, accuracy %{y:.2f}, %{text}<extra></extra>",
        )
    )
    return figure


def step_label(step: Marginal) -> str:
    """Format a step as `answer: small×4 → small×8`.

    Args:
        step: The step.
    """
    return f"{step.stage}: {step.before} → {step.after}"


def model_styles(data: ReportData) -> Mapping[StageOption, tuple[str, str]]:
    """Choose a colour and a marker for each option, the same in every figure.

    Args:
        data: The report.

    Returns:
        For each option the colour and the name of the marker.
    """
    options = [curve.option for curve in data.curves] + [m.after.option for m in data.marginals]
    order = list(dict.fromkeys(options))
    return {option: (PALETTE[i % len(PALETTE)], SYMBOLS[i % len(SYMBOLS)]) for i, option in enumerate(order)}


def _points(
    data: ReportData,
    trials: Sequence[TrialResult],
    x: Sequence[float],
    name: str,
    marker: Mapping[str, object],
) -> go.Scatter:
    """The scores of trials, with what they are under the pointer."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=x,
        y=[t.score for t in trials],
        mode="markers",
        name=name,
        marker=marker,
        text=[_trial_hover(data, t) for t in trials],
        hovertemplate="%{text}<extra></extra>",
    )


def _add_winner(figure: go.Figure, data: ReportData, ended: Mapping[int, float]) -> None:
    """A star at the plain mean of the winner; ended: where each trial of the search did. One after: last."""
    best = data.outcome.best
    trial = None if best is None else best.trial_in(data.trials)
    if trial is None or trial.score is None or not ended:
        return
    x = ended.get(trial.number, max(ended.values()))
    name = "winner" if data.confirmed else "best so far"
    figure.add_trace(_points(data, [trial], [x], name, {"symbol": "star", "size": 15, "color": PALETTE[1]}))


def _add_partial(figure: go.Figure, data: ReportData, x: Mapping[int, float]) -> None:
    """Rings for trials on a part of the examples, which are in no comparison; x: their places, by number."""
    partial = [t for t in data.trials if t.status == "partial" and t.score is not None and t.number in x]
    if partial:
        marker = {"color": GREY, "size": 7, "symbol": "circle-open"}
        places = [x[t.number] for t in partial]
        figure.add_trace(_points(data, partial, places, "on a part of the examples", marker))


def _claims(finalist: Finalist) -> list[Interval]:
    """The corrected score with its interval, as one point of a figure."""
    low, high = finalist.search_ci or (finalist.search_score, finalist.search_score)
    return [Interval(mean=finalist.search_score, low=low, high=high, n=finalist.n_search)]


def _trial_hover(data: ReportData, trial: TrialResult) -> str:
    score = trial_score_text(trial, data.n_examples)
    planned = amount_text(trial.budget_units, data.outcome.measure)
    return hover_text(f"trial {trial.number}", str(trial.allocation), f"{score} at {planned}")


def _curve_hover(curve: StageCurve, point: CurvePoint) -> str:
    rest = ", ".join(f"{stage} {choice}" for stage, choice in curve.others.items())
    stage_score = "" if point.stage_score is None else f"; the stage's own score {point.stage_score:.3f}"
    source = "replayed on recorded samples" if point.trial is None else f"trial {point.trial}"
    lines = [f"{curve.option}×{point.n_samples}: {interval_text(point.score)}{stage_score}", source]
    return hover_text(*lines, *([f"with {rest}"] if rest else []))
