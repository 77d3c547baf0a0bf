"""The outcomes of a pipeline's stages on each example, as arrays that score many allocations at once.

A node is one example with the upstream outputs that matter from its stage on. For every option and every
number of samples n, a node has the node of the next stage that its output leads to (at the last stage: the
score). Walking these arrays scores an allocation without rendering, parsing or voting again. The arrays are
filled from recorded samples in `agenttts.replay.bank`, and from simulated pipelines in
`agenttts.compare.landscapes`.
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
    """The outcomes of one stage. Arrays are of shape [node, option, n]; n counts from 1, at index n - 1.

    Attributes:
        name: The name of the stage.
        options: The options along axis 1.
        leads_to: The node of the next stage, UNKNOWN or FAILED; at the last stage 0 where there is a score.
        flops: The FLOPs of the samples 0 to n - 1 with their prompt; US dollars where parameters are unknown.
        stage_score: The score by the stage's own metric, NaN where there is none; None without such a metric.
    """

    name: str
    options: tuple[StageOption, ...]
    leads_to: npt.NDArray[np.int32]
    flops: npt.NDArray[np.float32]
    stage_score: npt.NDArray[np.floating] | None = None


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The scores of allocations, each field of shape [allocation, example].

    Attributes:
        scores: The scores; NaN where the example is missing or not known.
        known: Whether all samples of the example are there.
    """

    scores: _Floats
    known: _Bools


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """The outcomes of all stages. Example i starts at node i of the first stage.

    Attributes:
        example_ids: The ids of the examples.
        stages: The stages in order.
        scores: The scores after the last stage, of shape [node, option, n].
    """

    example_ids: tuple[str, ...]
    stages: tuple[StageOutcomes, ...]
    scores: npt.NDArray[np.floating]

    def walk(
        self,
        allocations: Sequence[Allocation],
        drawn: Sequence[npt.NDArray[np.integer]] | None = None,
        examples: slice = slice(None),
    ) -> Walk:
        """Score allocations.

        Args:
            allocations: The allocations to score.
            drawn: For each stage the numbers of samples to assume as drawn, of shape [node, option]; None:
                all.
            examples: The range of the examples to score on.

        Returns:
            The scores, and whether they are known.
        """
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
        """Follow an allocation through the stages.

        Args:
            allocation: The allocation.
            examples: The range of the examples to follow.

        Returns:
            For each stage the nodes of the examples, of shape [example]; FAILED after an error, UNKNOWN after
            a sample that was never drawn.
        """
        node: _Ints = np.arange(len(self.example_ids))[examples]
        nodes = []
        for stage in self.stages:
            nodes.append(node)
            (option,), (n,) = self._choices(stage, [allocation])
            node = np.where(node >= 0, stage.leads_to[np.maximum(node, 0), option, n - 1], node)
        return nodes

    def choice(self, k: int, allocation: Allocation) -> tuple[int, int]:
        """Return the choice of an allocation at stage k, as the index of the option and the number of
        samples.
        """
        (option,), (n,) = self._choices(self.stages[k], [allocation])
        return int(option), int(n)

    @staticmethod
    def _choices(stage: StageOutcomes, allocations: Sequence[Allocation]) -> tuple[_Ints, _Ints]:
        where = {option: i for i, option in enumerate(stage.options)}
        options = np.array([where[a[stage.name].option] for a in allocations], dtype=np.int64)
        return options, np.array([a[stage.name].n_samples for a in allocations], dtype=np.int64)


class Bank:
    """The samples that a simulated search has paid for, in the place of the store. It starts empty.

    Args:
        outcomes: The outcomes that samples are drawn from.

    Attributes:
        outcomes: The outcomes that samples are drawn from.
        drawn: For each stage the numbers of samples paid for, of shape [node, option].
        flops: The FLOPs spent so far.
    """

    def __init__(self, outcomes: Outcomes) -> None:
        self.outcomes = outcomes
        self.drawn = [np.zeros(s.leads_to.shape[:2], dtype=np.int16) for s in outcomes.stages]
        self.flops = 0.0

    def answer(self, allocations: Sequence[Allocation]) -> Walk:
        """Score allocations on the samples paid for, without drawing any.

        Args:
            allocations: The allocations to score.

        Returns:
            The scores, and whether they are known.
        """
        return self.outcomes.walk(allocations, self.drawn)

    def buy(self, allocation: Allocation, examples: slice = slice(None)) -> tuple[_Floats, float]:
        """Draw the samples that an allocation still needs, and score it.

        Args:
            allocation: The allocation to run.
            examples: The range of the examples to run it on.

        Returns:
            The scores of shape [example], NaN where the example is missing, and the FLOPs that the samples
            took.
        """
        spent = 0.0
        for k, nodes in enumerate(self.outcomes.path(allocation, examples)):
            stage, (option, n) = self.outcomes.stages[k], self.outcomes.choice(k, allocation)
            new = np.unique(nodes[nodes >= 0])
            n_before = self.drawn[k][new, option].astype(np.int64)
            new, n_before = new[n_before < n], n_before[n_before < n]
            flops_before = np.where(n_before > 0, stage.flops[new, option, np.maximum(n_before, 1) - 1], 0.0)
            spent += float((stage.flops[new, option, n - 1] - flops_before).sum())
            self.drawn[k][new, option] = n
        self.flops += spent
        return self.outcomes.walk([allocation], examples=examples).scores[0], spent
