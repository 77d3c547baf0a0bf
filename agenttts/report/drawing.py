"""What the figures of a report share: colours, an empty figure, intervals, texts under the pointer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from agenttts.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

PALETTE = ("#3b76d6", "#e0782f", "#23997a", "#a25bc4", "#c79a1b", "#d24d62", "#3fa3bf", "#7d8591")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon", "x")
GREY = "#8a919c"
ACCENT = PALETTE[0]
_HEIGHT = 310


def bare_figure(y_title: str, x_title: str) -> go.Figure:
    """Return an empty figure in the style of the report, with the titles of its axes."""
    import plotly.graph_objects as go

    axis: dict[str, Any] = {"gridcolor": "rgba(138,145,156,.25)", "zeroline": False, "linecolor": GREY}
    return go.Figure(
        layout={
            "template": "none",
            "height": _HEIGHT,
            "margin": {"l": 60, "r": 16, "t": 40, "b": 52},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": GREY},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11}},
            "hoverlabel": {"align": "left"},
            "xaxis": {**axis, "title": {"text": escape(x_title)}},
            "yaxis": {**axis, "title": {"text": escape(y_title)}},
        }
    )


def add_band(figure: go.Figure, x: Sequence[float], scores: Sequence[Interval], colour: str) -> None:
    """Add shaded intervals around a line.

    Args:
        figure: The figure.
        x: The places of the points.
        scores: Their intervals.
        colour: The line's, as `#rrggbb`.
    """
    import plotly.graph_objects as go

    edge: dict[str, Any] = {
        "mode": "lines",
        "line": {"width": 0, "color": colour},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    figure.add_trace(go.Scatter(x=x, y=[s.low for s in scores], **edge))
    fill = {"fill": "tonexty", "fillcolor": _faint(colour, ".13")}
    figure.add_trace(go.Scatter(x=x, y=[s.high for s in scores], **fill, **edge))


def error_bars(scores: Sequence[Interval], colour: str) -> dict[str, Any]:
    """Return intervals as plotly's error bars.

    Args:
        scores: The intervals.
        colour: Of the points, as `#rrggbb`.
    """
    return {
        "type": "data",
        "symmetric": False,
        "array": [s.high - s.mean for s in scores],
        "arrayminus": [s.mean - s.low for s in scores],
        "color": _faint(colour, ".45"),
        "thickness": 1.2,
        "width": 3,
    }


def interval_text(score: Interval, *, signed: bool = False) -> str:
    """Format an interval as `0.712 [0.680, 0.744]`, with signs where it is a difference."""
    if signed:
        return f"{score.mean:+.3f} [{score.low:+.3f}, {score.high:+.3f}]"
    return f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]"


def hover_text(*lines: str) -> str:
    """Return the lines of a text under the pointer, without what plotly would read as HTML."""
    return "<br>".join(escape(line) for line in lines)


def _faint(colour: str, opacity: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
