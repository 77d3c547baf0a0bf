"""The course of a training as one line."""

from __future__ import annotations

from agenttts.cli.curves import curves
from agenttts.training.weights import CurvePoint


def test_each_figure_from_first_to_last() -> None:
    """The lowest value is the lowest block; figures that were not logged are left out."""
    points = [CurvePoint(step=10, epoch=0.5, loss=2.0), CurvePoint(step=20, epoch=1, loss=1.0, score=0.25)]
    assert curves(points) == "loss 2 █▁ 1, score 0.25 ▁ 0.25, at step 20"
    assert curves([]) == ""


def test_many_points_share_places() -> None:
    """A line is no wider than a terminal, and falls where the loss falls."""
    points = [CurvePoint(step=step, epoch=step, loss=1000 - step) for step in range(1000)]
    blocks = curves(points).split()[2]
    assert len(blocks) == 40 and list(blocks) == sorted(blocks, reverse=True)
