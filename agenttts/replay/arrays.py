"""What a pipeline's stages make of each example, as arrays: the scores of many allocations at once.

A node is one example with the upstream outputs that matter from its stage on; each node has, for every option
and every number of samples n, the node of the next stage that its output leads to (at the last stage: the
score). Walking these arrays scores an allocation without rendering, parsing or voting again. How the arrays
are filled is left to `bank_outcomes` (recorded samples) and `landscapes` (simulated pipelines).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.allocation import Allocation, StageOption

UNKNOWN = -1  # the samples were never drawn
FAILED = -2  # drawn, and missing for an error

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class StageOutcomes:
    """One stage. `n` counts from 1, at index n - 1.

    options: those along axis 1. leads_to: node of the next stage, UNKNOWN or FAILED,
    [node, option, n]; at the last stage 0 for a score. flops: of the samples 0 to n - 1 with their prompt,
    [node, option, n]. stage_score: by the stage's own metric, NaN without one, [node, option, n].
    """

    name: str
    options: tuple[StageOption, ...]
    leads_to: npt.NDArray[np.int32]
    flops: npt.NDArray[np.float32]
    stage_score: npt.NDArray[np.floating] | None = None


@dataclass(frozen=True, kw_only=True)
class Walk:
    """What the arrays say of allocations: [allocation, example].

    scores: NaN where the example is missing or not known. known: all of its samples are there.
    """

    scores: _Floats
    known: _Bools


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """All stages. Example i starts at node i of the first; `scores` are the last one's, [node, option, n]."""

    example_ids: tuple[str, ...]
    stages: tuple[StageOutcomes, ...]
    scores: npt.NDArray[np.floating]

    def walk(
        self,
        allocations: Sequence[Allocation],
        drawn: Sequence[npt.NDArray[np.integer]] | None = None,
        examples: slice = slice(None),
    ) -> Walk:
        """The scores of allocations. drawn: samples reckoned with, by stage [node, option]; None: all."""
        count = len(self.example_ids[examples])
        node = np.broadcast_to(np.arange(len(self.example_ids))[examples], (len(allocations), count))
        known = np.ones(node.shape, dtype=bool)
        failed = np.zeros(node.shape, dtype=bool)
        scores = np.full(node.shape, np.nan)
        for k, stage in enumerate(self.stages):
            option, n = self._choices(stage, allocations)
            if drawn is not None:
                known &= failed | (drawn[k][node, option[:, None]] >= n[:, None])
            leads_to = stage.leads_to[node, option[:, None], n[:, None] - 1]
            known &= failed | (leads_to != UNKNOWN)
            if k + 1 == len(self.stages):
                last_scores = self.scores[node, option[:, None], n[:, None] - 1]
                scores = np.where(known & ~failed & (leads_to != FAILED), last_scores, np.nan)
            failed |= leads_to == FAILED
            node = np.maximum(leads_to, 0)
        return Walk(scores=scores, known=known)

    def path(self, allocation: Allocation, examples: slice = slice(None)) -> list[_Ints]:
        """The node of each example at each stage; FAILED or UNKNOWN after an error or the end of samples."""
        node: _Ints = np.arange(len(self.example_ids))[examples]
        nodes = []
        for stage in self.stages:
            nodes.append(node)
            (option,), (n,) = self._choices(stage, [allocation])
            node = np.where(node >= 0, stage.leads_to[np.maximum(node, 0), option, n - 1], node)
        return nodes

    def choice(self, k: int, allocation: Allocation) -> tuple[int, int]:
        """Index of the option at stage k, and n."""
        (option,), (n,) = self._choices(self.stages[k], [allocation])
        return int(option), int(n)

    @staticmethod
    def _choices(stage: StageOutcomes, allocations: Sequence[Allocation]) -> tuple[_Ints, _Ints]:
        where = {option: i for i, option in enumerate(stage.options)}
        options = np.array([where[a[stage.name].option] for a in allocations], dtype=np.int64)
        return options, np.array([a[stage.name].n_samples for a in allocations], dtype=np.int64)


class Bank:
    """Which samples a search has paid for, of those that `outcomes` knows; starts empty.

    Stands in for the store where a search is simulated.
    """

    def __init__(self, outcomes: Outcomes) -> None:
        self.outcomes = outcomes
        self.drawn = [np.zeros(s.leads_to.shape[:2], dtype=np.int16) for s in outcomes.stages]
        self.flops = 0.0

    def answer(self, allocations: Sequence[Allocation]) -> Walk:
        """What the samples paid for say of allocations, without a draw."""
        return self.outcomes.walk(allocations, self.drawn)

    def buy(self, allocation: Allocation, examples: slice = slice(None)) -> tuple[_Floats, float]:
        """Draw what is missing: the examples' scores (NaN: missing), and the FLOPs that it took."""
        spent = 0.0
        for k, nodes in enumerate(self.outcomes.path(allocation, examples)):
            stage, (option, n) = self.outcomes.stages[k], self.outcomes.choice(k, allocation)
            new = np.unique(nodes[nodes >= 0])
            had = self.drawn[k][new, option].astype(np.int64)
            new, had = new[had < n], had[had < n]
            before = np.where(had > 0, stage.flops[new, option, np.maximum(had, 1) - 1], 0.0)
            spent += float((stage.flops[new, option, n - 1] - before).sum())
            self.drawn[k][new, option] = n
        self.flops += spent
        return self.outcomes.walk([allocation], examples=examples).scores[0], spent
