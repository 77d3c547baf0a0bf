"""What searches on a recorded table come to, against brute force, which takes every cell of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from agenttts.compare.matrix import Matrix

if TYPE_CHECKING:
    import pandas as pd

NEAR = 0.005
"""Half a point: a search with a smaller regret counts as having found the best."""


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """The searches of one proposer.

    Attributes:
        proposer: The name of the proposer.
        searches: The number of its searches.
        near: The share that ends within half a point of the best.
        best: The share that ends with the best.
        regret: The mean regret at the end.
        cells: The mean number of cells at the end.
        cells_until_near: The number of cells after which the mean regret stays within half a point; None when
            it never does.
        usd: The mean dollars at the end; None without costs.
        saved: The share of the dollars, or without costs of the cells, that brute force takes beyond that.
    """

    proposer: str
    searches: int
    near: float
    best: float
    regret: float
    cells: float
    cells_until_near: int | None
    usd: float | None
    saved: float

    def to_json_dict(self) -> dict[str, object]:
        """Return the row as JSON-able data."""
        return asdict(self)


def summarise_matrix(
    moments: pd.DataFrame, proposers: Sequence[str], matrix: Matrix, holdout: float
) -> tuple[MatrixRow, ...]:
    """Summarise searches on a table.

    Args:
        moments: A row for each SearchMoment.
        proposers: The names of the proposers.
        matrix: The table.
        holdout: The share of the examples that no search sees; brute force does not take them either.

    Returns:
        A row for each proposer.
    """
    all_cells = (1 - holdout) * float((~np.isnan(matrix.scores)).sum())
    all_usd = None if matrix.costs is None else (1 - holdout) * float(np.nansum(matrix.costs))
    rows = []
    for name in proposers:
        searches = [
            rows.sort_values("trial") for _, rows in moments[moments["proposer"] == name].groupby("seed")
        ]
        ends = [search.iloc[-1] for search in searches]
        cells = fmean(float(end["cells"]) for end in ends)
        usd = None if all_usd is None else fmean(float(end["flops"]) for end in ends)
        rows.append(
            MatrixRow(
                proposer=name,
                searches=len(ends),
                near=fmean(float(end["regret"]) <= NEAR + 1e-9 for end in ends),
                best=fmean(float(end["regret"]) <= 1e-9 for end in ends),
                regret=fmean(float(end["regret"]) for end in ends),
                cells=cells,
                cells_until_near=_until_near(searches),
                usd=usd,
                saved=1 - (cells / all_cells if usd is None or not all_usd else usd / all_usd),
            )
        )
    return tuple(rows)


def _until_near(searches: Sequence[pd.DataFrame]) -> int | None:
    """Return from which number of cells on the mean regret is within half a point."""
    grid = sorted({int(cells) for search in searches for cells in search["cells"]})
    curves = []
    for search in searches:
        at = np.searchsorted(search["cells"].to_numpy(), grid, side="right") - 1
        regrets = search["regret"].to_numpy(dtype=float)
        curves.append(np.where(at >= 0, regrets[np.maximum(at, 0)], regrets.max()))
    far = np.flatnonzero(np.mean(curves, axis=0) > NEAR)
    first = 0 if not len(far) else int(far[-1]) + 1
    return grid[first] if first < len(grid) else None
