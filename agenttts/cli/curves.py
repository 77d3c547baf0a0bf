"""The course of a training as one line: blocks whose height is the loss or the score."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agenttts.training.weights import CurvePoint

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDEST = 40  # characters


def curves(points: Sequence[CurvePoint]) -> str:
    """Draw what a training logged: training loss, evaluation loss and score, each from first to last.

    Args:
        points: The logged figures, by step.

    Returns:
        One line, such as `loss 2.31 █▅▂▁ 0.12, score 0.10 ▁▆█ 0.83, at step 75`; empty without figures.
    """
    named = {
        "loss": [point.loss for point in points if point.loss is not None],
        "evaluation loss": [point.eval_loss for point in points if point.eval_loss is not None],
        "score": [point.score for point in points if point.score is not None],
    }
    drawn = [
        f"{name} {values[0]:.3g} {_blocks(values)} {values[-1]:.3g}"
        for name, values in named.items()
        if values
    ]
    return f"{', '.join(drawn)}, at step {points[-1].step}" if drawn else ""


def _blocks(values: Sequence[float]) -> str:
    """A block for each value; of many values, for the mean of as many as share a place."""
    width = min(len(values), _WIDEST)
    edges = [len(values) * i // width for i in range(width + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    lowest, spread = min(means), max(means) - min(means)
    steps = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round(steps * (mean - lowest) / spread) if spread else 0] for mean in means)
