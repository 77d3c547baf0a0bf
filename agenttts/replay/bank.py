"""Recorded samples as arrays (`agenttts.replay.arrays`): the outcome of every prefix of a prompt's samples.

Each sample is parsed once and each prefix aggregated once; no model is called. Prompts that were never drawn
stay UNKNOWN, so that an incomplete bank still answers what it can.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from agenttts.replay.arrays import FAILED, UNKNOWN, Outcomes, StageOutcomes, Walk
from agenttts.replay.nodes import NodeIndex
from agenttts.results.trials import REPLAYED, TrialResult, mean
from agenttts.space.measure import Measure
from datastore.store import Store
from pipelines.allocation import Allocation, StageOption
from pipelines.errors import CustomCodeFailed, ReplayMiss
from pipelines.examples import Example
from pipelines.runtime.runtime import Runtime
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.stages import metrics

_READ_AT_ONCE = 1024  # nodes of a trial; the store's cache holds the samples of as many


@dataclass
class _Node:
    """One example with the upstream outputs that matter at a stage and after it."""

    example: Example
    outputs: Mapping[str, Any]


@dataclass
class _Stage:
    """The nodes of a stage, and how many samples were read for each node and option."""

    spec: StageSpec
    index: NodeIndex[_Node]
    seen: dict[tuple[int, int], int] = field(default_factory=dict)
    leads_to: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0, 0), np.int32))
    flops: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    stage_score: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 0)))
    scores: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 0)))

    def __post_init__(self) -> None:
        self._grow(1)

    @property
    def nodes(self) -> Sequence[_Node]:
        """The nodes, by number."""
        return self.index.nodes

    def node(self, example: Example, outputs: Mapping[str, Any]) -> int:
        """Return the number of the node, which is added when it is new."""
        number = self.index.number(example, outputs)
        if number >= len(self.leads_to):
            self._grow(max(256, 2 * len(self.nodes)))
        return number

    def _grow(self, size: int) -> None:
        shape = (size, len(self.spec.options), self.spec.max_samples)
        for name, empty in (("leads_to", UNKNOWN), ("flops", 0), ("stage_score", np.nan), ("scores", np.nan)):
            old = getattr(self, name)
            new = np.full(shape, empty, dtype=old.dtype)
            if len(old):
                new[: len(old)] = old
            setattr(self, name, new)


class BankOutcomes:
    """The outcomes of recorded samples; scores allocations as the bank of a proposer's view.

    `add` reads the samples of a search's own trials, whatever else the store has: a resumed search, or one on
    a larger bank, decides as an undisturbed one. `replay` reads what one allocation needs, `add_all` the
    whole bank.

    Args:
        spec: The pipeline that the samples were recorded for.
        store: The store, with the banks attached.
        examples: The examples to score on.
        measure: The measure of planned amounts; None: that of the spec's budget.
    """

    def __init__(
        self, spec: PipelineSpec, store: Store, examples: Sequence[Example], measure: Measure | None = None
    ) -> None:
        self.spec = spec
        self.measure = Measure.of(spec) if measure is None else measure
        self._in_flops = all(spec.models[name].active_params is not None for name in spec.used_models)
        self._examples = tuple(examples)
        self._runtime = Runtime(spec, store, None, run_id=None, replay=True)
        self._stages = [_Stage(stage, NodeIndex(spec, k, _Node)) for k, stage in enumerate(spec.stages)]
        for example in self._examples:
            self._stages[0].node(example, {})

    @property
    def outcomes(self) -> Outcomes:
        """The outcomes of all samples read so far."""
        return Outcomes(
            example_ids=tuple(example.id for example in self._examples),
            stages=tuple(
                StageOutcomes(
                    name=stage.spec.name,
                    options=stage.spec.options,
                    leads_to=stage.leads_to,
                    flops=stage.flops,
                    stage_score=stage.stage_score,
                )
                for stage in self._stages
            ),
            scores=self._stages[-1].scores,
        )

    def answer(self, allocations: Sequence[Allocation]) -> Walk:
        """Score allocations on the samples read so far.

        Args:
            allocations: The allocations to score.

        Returns:
            The scores, and whether they are known.
        """
        return self.outcomes.walk(allocations)

    async def add(self, allocation: Allocation, example_ids: Collection[str]) -> None:
        """Read the samples of a trial.

        Args:
            allocation: The allocation of the trial.
            example_ids: The ids of the examples to read; others are left out.
        """
        nodes = [i for i, example in enumerate(self._examples) if example.id in example_ids]
        for k, stage in enumerate(self._stages):
            choice = allocation[stage.spec.name]
            m = stage.spec.options.index(choice.option)
            for first in range(0, len(nodes), _READ_AT_ONCE):
                some = nodes[first : first + _READ_AT_ONCE]
                if len(nodes) > _READ_AT_ONCE:
                    await self._read_ahead(
                        stage.spec, choice.option, [stage.nodes[number] for number in some]
                    )
                for number in some:
                    await self._read(k, number, m, choice.n_samples)
            after = stage.leads_to[nodes, m, choice.n_samples - 1]
            nodes = [int(node) for node in after if node >= 0]

    async def add_all(self) -> None:
        """Read the whole bank, as far as its outputs lead to prompts that were drawn."""
        for k, stage in enumerate(self._stages):
            number = 0
            while number < len(stage.nodes):
                for m in range(len(stage.spec.options)):
                    await self._read(k, number, m, stage.spec.max_samples)
                number += 1

    async def replay(self, allocation: Allocation) -> TrialResult | None:
        """Run an allocation on recorded samples, without calling a model.

        Args:
            allocation: The allocation to run.

        Returns:
            A trial with the number REPLAYED; None when a sample that it needs was never drawn.
        """
        ids = [example.id for example in self._examples]
        await self.add(allocation, set(ids))
        walk = self.answer([allocation])
        if not walk.known.all():
            return None
        scores = {i: None if np.isnan(s) else float(s) for i, s in zip(ids, walk.scores[0], strict=True)}
        present = [score for score in scores.values() if score is not None]
        return TrialResult(
            number=REPLAYED,
            allocation=allocation,
            purpose="search",
            split="search",
            proposer="",
            reason="",
            status="complete",
            score=mean(present),
            scores=scores,
            n_scored=len(present),
            n_missing=len(scores) - len(present),
            budget_units=self.measure.planned(allocation),
            flops_per_query=None,
            prompt_tokens=0,
            generated_tokens=0,
            cost_usd=None,
            samples_drawn=0,
            samples_reused=0,
            calls=0,
            stage_scores=self._stage_scores(allocation),
        )

    def _stage_scores(self, allocation: Allocation) -> dict[str, float | None]:
        means: dict[str, float | None] = {}
        outcomes = self.outcomes
        for k, nodes in enumerate(outcomes.path(allocation)):
            model, n = outcomes.choice(k, allocation)
            scores = self._stages[k].stage_score[nodes[nodes >= 0], model, n - 1]
            present = scores[~np.isnan(scores)]
            means[self._stages[k].spec.name] = mean(present)
        return means

    def unknown_options(self) -> list[tuple[str, StageOption]]:
        """Return the stages and options for which no sample was recorded."""
        return [
            (stage.spec.name, option)
            for stage in self._stages
            for m, option in enumerate(stage.spec.options)
            if stage.nodes and (stage.leads_to[: len(stage.nodes), m] == UNKNOWN).all()
        ]

    async def _read_ahead(self, stage: StageSpec, option: StageOption, nodes: Sequence[_Node]) -> None:
        """Have the store look the samples of many nodes up at once: one by one each may be a query."""
        if stage.python is None:
            await self._runtime.look_up(stage, option, [(node.example, node.outputs) for node in nodes])

    async def _read(self, k: int, number: int, m: int, n: int) -> None:
        """Read the outcomes of one node and option for up to n samples, or for as many as were drawn."""
        stage = self._stages[k]
        before = stage.seen.get((number, m), 0)
        if n <= before and stage.leads_to[number, m, n - 1] != UNKNOWN:
            return
        node = stage.nodes[number]
        choice = stage.spec.options[m].with_samples(n)
        try:
            first = min(before + 1, n)  # n is at or below `before` where only some prefixes have an outcome
            outcomes = await self._runtime.prefixes(stage.spec, choice, node.example, node.outputs, first)
        except ReplayMiss as miss:
            if miss.available > before:
                await self._read(k, number, m, miss.available)
            return
        stage.seen[(number, m)] = max(before, n)
        last = k + 1 == len(self._stages)
        for outcome in outcomes:
            at = (number, m, outcome.n_samples - 1)
            stage.flops[at] = outcome.flops if self._in_flops else outcome.cost_usd
            stage.stage_score[at] = np.nan if outcome.score is None else outcome.score
            if outcome.status == "error":
                stage.leads_to[at] = FAILED
            elif not last:
                outputs = {**node.outputs, stage.spec.name: outcome.value}
                stage.leads_to[at] = self._stages[k + 1].node(node.example, outputs)
            else:
                score = self._score(outcome.value, node.example)
                stage.leads_to[at] = FAILED if score is None else 0
                stage.scores[at] = np.nan if score is None else score

    def _score(self, output: Any, example: Example) -> float | None:
        try:
            return metrics.score(self.spec.metric, output, example)
        except CustomCodeFailed:
            return None
