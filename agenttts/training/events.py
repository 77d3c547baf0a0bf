"""What a training reports while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, kw_only=True)
class TuneStep:
    """The training reached a step at which it logs its loss.

    Attributes:
        step: The number of optimiser steps that are done.
        steps: The number of steps of the whole training.
        loss: The mean training loss since the last report, in nats.
        seconds_left: The expected time until the last step.
    """

    step: int
    steps: int
    loss: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class TuneScore:
    """The model was scored on held-out rows or texts at the end of an epoch.

    Attributes:
        step: The number of optimiser steps that are done.
        score: From 0 to 1: the mean score of the sub-tasks, or the macro-F1 of a classifier.
    """

    step: int
    score: float


TuneEvent: TypeAlias = TuneStep | TuneScore
OnTuneEvent: TypeAlias = Callable[[TuneEvent], None]
