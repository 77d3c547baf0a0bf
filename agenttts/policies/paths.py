"""The paths of rungs through the stages: for every example what a rung answers, scores and costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agenttts.policies.nodes import UNKNOWN, Bools, Floats, Ints
from agenttts.policies.rates import Rates
from agenttts.policies.readings import StageReadings
from pipelines.allocation import StageOption
from pipelines.examples import Example
from pipelines.policy import Rung, StagePlan
from pipelines.runtime.payments import SampleBank
from pipelines.spec.pipeline import PipelineSpec
from pipelines.stages.plans import stage_feature_names


@dataclass(frozen=True, kw_only=True)
class StagePath:
    """Where a rung is at one stage. Arrays are of shape [order, example].

    Attributes:
        option: The option that draws the samples.
        node: The node whose samples are read.
        cost: Of the prompt and the samples.
    """

    option: StageOption
    node: Ints
    cost: Floats


@dataclass(frozen=True, kw_only=True)
class Path:
    """What a rung comes to by itself. Arrays are of shape [order, example].

    Attributes:
        rung: The rung.
        stages: Where it is at each stage.
        answer: The number of the answer, equal for equal answers of an example; NOTHING where no sample
            parsed, UNKNOWN where a sample was never drawn.
        score: The score; NaN where it is not known.
        features: What the rung's confidence reads, of shape [order, example, feature].
        names: The names of the features.
        guessed: Where answer, score and costs are guesses (`guesses.with_guesses`); None: nowhere.
    """

    rung: Rung
    stages: tuple[StagePath, ...]
    answer: Ints
    score: Floats
    features: Floats
    names: tuple[str, ...]
    guessed: Bools | None = None

    @property
    def known(self) -> Bools:
        """Where all samples were drawn and there is a score."""
        there = (self.answer != UNKNOWN) & ~np.isnan(self.score)
        return np.asarray(there if self.guessed is None else there & ~self.guessed)

    def in_orders(self, rows: Sequence[int]) -> Path:
        """Return the path in some of the orders.

        Args:
            rows: Which of the orders, counted from 0 along axis 0.
        """
        at = list(rows)
        stages = tuple(replace(stage, node=stage.node[at], cost=stage.cost[at]) for stage in self.stages)
        return replace(
            self,
            stages=stages,
            answer=self.answer[at],
            score=self.score[at],
            features=self.features[at],
            guessed=None if self.guessed is None else self.guessed[at],
        )

    def further_cost(self, before: Sequence[Path]) -> Floats:
        """Compute what the rung costs after others have run: samples that they drew are not paid again.

        Args:
            before: The paths of the rungs that ran before, for the same examples.
        """
        total = np.zeros(self.score.shape)
        for k, stage in enumerate(self.stages):
            paid = np.zeros(total.shape)
            for other in (path.stages[k] for path in before):
                if other.option == stage.option:
                    same = (other.node == stage.node) & (stage.node != UNKNOWN)
                    paid = np.where(same, np.maximum(paid, other.cost), paid)
            total += np.maximum(stage.cost - paid, 0.0)
        return total


class Tables:
    """The paths of rungs on recorded samples.

    Args:
        spec: The pipeline that the samples were recorded for.
        store: The store, with the banks attached.
        examples: The examples.
        rates: What tokens cost.
        orders: The numbers of the orders in which samples are read (`orders.sample_order`).

    Attributes:
        examples: The examples, along the last axis of every array.
        rates: What tokens cost.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        store: SampleBank,
        examples: Sequence[Example],
        *,
        rates: Rates,
        orders: Sequence[int] = (0, 1, 2),
    ) -> None:
        self.examples = tuple(examples)
        self.rates = rates
        self._n_orders = len(orders)
        after: StageReadings | None = None
        stages = list[StageReadings]()
        for position in reversed(range(len(spec.stages))):
            after = StageReadings(spec, position, store, self.rates, orders, after)
            stages.append(after)
        self._stages = stages[::-1]
        for example in self.examples:
            self._stages[0].node(example, {})

    async def add(self, rungs: Iterable[Rung]) -> None:
        """Read what rungs need.

        Args:
            rungs: The rungs.
        """
        rungs = tuple(dict.fromkeys(rungs))
        for k, stage in enumerate(self._stages):
            needed: dict[StagePlan, Bools] = {}
            for rung in rungs:
                node = self._node(rung, k)
                plan = rung[stage.stage.name]
                where = needed.setdefault(plan, np.zeros((self._n_orders, len(stage.nodes)), bool))
                r, i = np.nonzero(node != UNKNOWN)
                where[r, node[r, i]] = True
            await stage.read(needed)

    def weighable(self) -> frozenset[str]:
        """Return the stages whose samples have log-probabilities and repeat, by what was read so far."""
        return frozenset(stage.stage.name for stage in self._stages if stage.weighable())

    def path(self, rung: Rung) -> Path:
        """Return the path of a rung that was added.

        Args:
            rung: The rung.
        """
        stages, features, names = [], [], list[str]()
        node = self._node(rung, 0)
        score = np.full(node.shape, np.nan)
        for stage in self._stages:
            plan = rung[stage.stage.name]
            reading, r = stage.readings[plan], np.arange(self._n_orders)[:, None]
            at = (r, np.maximum(node, 0))
            there = node != UNKNOWN
            cost = np.where(there, reading.cost[at], 0.0)
            stages.append(StagePath(option=plan.choice.option, node=node, cost=cost))
            features.append(reading.features[at])
            names += stage_feature_names(stage.stage, plan)
            score = np.where(there, reading.score[at], np.nan)
            node = np.where(there, reading.leads_to[at], UNKNOWN)
        return Path(
            rung=rung,
            stages=tuple(stages),
            answer=node,
            score=score,
            features=np.concatenate(features, axis=-1),
            names=tuple(names),
        )

    def _node(self, rung: Rung, position: int) -> Ints:
        """The nodes of the examples at a stage, after the stages before it were read."""
        node: Ints = np.broadcast_to(np.arange(len(self.examples)), (self._n_orders, len(self.examples)))
        for stage in self._stages[:position]:
            reading = stage.readings[rung[stage.stage.name]]
            there = reading.leads_to[np.arange(self._n_orders)[:, None], np.maximum(node, 0)]
            node = np.where(node == UNKNOWN, UNKNOWN, there)
        return node
