"""Trials as a data frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agenttts.results.trials import TrialResult

if TYPE_CHECKING:
    import pandas as pd

_FIRST_COLUMNS = (
    "number",
    "purpose",
    "split",
    "proposer",
    "status",
    "score",
    "n_scored",
    "n_missing",
    "budget_units",
)
_LAST_COLUMNS = ("flops_per_query", "samples_drawn", "samples_reused", "reason", "error")


def data_frame(trials: Iterable[TrialResult]) -> pd.DataFrame:
    """Return a row for each trial, in the order of their numbers.

    Args:
        trials: The trials; see `SearchResult.to_df` for the columns.
    """
    import pandas as pd

    rows = []
    for trial in sorted(trials, key=lambda trial: trial.number):
        choices: dict[str, str | int] = {}
        for stage, choice in trial.allocation.items():
            choices |= {f"{stage}.model": str(choice.option), f"{stage}.n_samples": choice.n_samples}
        scores = {f"{stage}.score": score for stage, score in trial.stage_scores.items() if score is not None}
        first, last = (
            {name: getattr(trial, name) for name in names} for names in (_FIRST_COLUMNS, _LAST_COLUMNS)
        )
        policy = {"policy": None if trial.policy is None else str(trial.policy)}
        rows.append(first | choices | scores | policy | last)
    return pd.DataFrame(rows)
