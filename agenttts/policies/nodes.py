"""What is known of the nodes of a stage: their samples, and what plans come to at them.

A node is one example with the upstream outputs that matter from its stage on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.policy import StagePlan
from pipelines.stages.candidates import Candidate
from pipelines.stages.counts import Count

UNKNOWN = -1
"""The node or answer after samples that were never drawn."""
NOTHING = -2
"""The answer that is none: no sample parsed."""

Outcome: TypeAlias = tuple[int, float, tuple[float, ...]]
"""Where an output leads, its score, and its features."""
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(kw_only=True)
class Reading:
    """What one plan comes to. Arrays are of shape [order, node].

    Attributes:
        plan: The plan.
        count: How its votes are counted; None where its outputs are not voted on.
        n_samples: Samples drawn; 0 where the plan was not read.
        leads_to: The node of the next stage or, at the last stage, the number of the answer, or NOTHING;
            UNKNOWN where the plan was not read or samples are missing.
        cost: Of the prompt and the samples.
        score: The score at the last stage, NaN before it and where the example has none.
        features: What a calibrated confidence reads, of shape [order, node, feature].
    """

    plan: StagePlan
    count: Count | None
    n_samples: Ints
    leads_to: Ints
    cost: Floats
    score: Floats
    features: Floats

    @classmethod
    def empty(
        cls, plan: StagePlan, count: Count | None, n_orders: int, n_nodes: int, n_features: int
    ) -> Reading:
        """Return a reading of nothing yet, with room for at least one node."""
        shape = (n_orders, max(1, n_nodes))
        return cls(
            plan=plan,
            count=count,
            n_samples=np.zeros(shape, np.int64),
            leads_to=np.full(shape, UNKNOWN),
            cost=np.zeros(shape),
            score=np.full(shape, np.nan),
            features=np.zeros((*shape, n_features)),
        )

    def grown(self, n_nodes: int) -> Reading:
        """Return the reading with room for more nodes."""
        n_orders, n_before = self.leads_to.shape
        if n_before >= n_nodes:
            return self
        larger = Reading.empty(self.plan, self.count, n_orders, n_nodes, self.features.shape[2])
        for name in ("n_samples", "leads_to", "cost", "score", "features"):
            getattr(larger, name)[:, :n_before] = getattr(self, name)
        return larger

    def note(self, at: tuple[int, int], n_samples: int, cost: float, outcome: Outcome) -> None:
        """Note what the plan comes to at an order and a node."""
        self.n_samples[at], self.cost[at] = n_samples, cost
        self.leads_to[at], self.score[at], self.features[at] = outcome


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The recorded samples of a node and an option.

    Attributes:
        key: The key of the prompt.
        prompt_tokens: The tokens of the prompt.
        candidates: The samples from index 0 on, without a gap.
    """

    key: str
    prompt_tokens: int
    candidates: tuple[Candidate, ...]


@dataclass
class Node:
    """One example with the upstream outputs that matter at a stage and after it."""

    example: Example
    outputs: Mapping[str, JSON]
    values: dict[str, JSON] = field(default_factory=dict)  # by text
    results: dict[str, tuple[int, float]] = field(default_factory=dict)  # by output
