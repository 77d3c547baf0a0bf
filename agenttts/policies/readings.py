"""What the plans of a stage come to on recorded samples, as arrays by order of the samples and node.

A node is one example with the upstream outputs that matter from its stage on. Its samples are counted by the
same `Ballots` as in live execution and read in several orders, so that a plan's stop falls where it would
fall live.
"""

from __future__ import annotations

from asyncio import gather
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from agenttts.policies.nodes import NOTHING, Bools, Drawn, Node, Outcome, Reading
from agenttts.policies.orders import sample_order
from agenttts.policies.rates import Rates
from agenttts.replay.nodes import NodeIndex
from pipelines.allocation import StageOption
from pipelines.costs import estimated_tokens
from pipelines.errors import CustomCodeFailed, ReplayMiss
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.policy import StagePlan
from pipelines.reading.comparing import vote_key
from pipelines.runtime import Runtime
from pipelines.runtime.payments import SampleBank
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.stages import metrics, parsers, prompts
from pipelines.stages.ballots import Ballots
from pipelines.stages.candidates import Candidate
from pipelines.stages.counts import Count
from pipelines.stages.plans import stage_feature_names

_PROBED = 500  # prompts that say whether a stage's votes can be weighed


class StageReadings:
    """Reads the plans of one stage.

    Args:
        spec: The pipeline.
        position: Which of its stages.
        store: The store, with the banks attached.
        rates: What tokens cost.
        orders: The numbers of the orders in which samples are read.
        after: The readings of the next stage, whose nodes the outputs lead to; None at the last stage.

    Attributes:
        stage: The stage.
        readings: By plan.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        position: int,
        store: SampleBank,
        rates: Rates,
        orders: Sequence[int],
        after: StageReadings | None,
    ) -> None:
        self.stage: StageSpec = spec.stages[position]
        self.readings: dict[StagePlan, Reading] = {}
        self._spec, self._store, self._rates, self._orders, self._after = spec, store, rates, orders, after
        self._index = NodeIndex(spec, position, Node)
        self._answers: dict[tuple[str, str], int] = {}
        self._runtime = Runtime(spec, store, None, run_id=None, replay=True)
        self._drawn: dict[tuple[int, StageOption], Drawn] = {}

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes so far, by number."""
        return self._index.nodes

    def node(self, example: Example, outputs: Mapping[str, JSON]) -> int:
        """Return the number of a node, which is added when it is new."""
        return self._index.number(example, outputs)

    def _count(self, plan: StagePlan) -> Count | None:
        return Count.of(self.stage.aggregator_for(plan.choice.option), plan.vote)

    async def read(self, wanted: Mapping[StagePlan, Bools]) -> None:
        """Read plans at nodes.

        Args:
            wanted: For each plan where it is wanted, of shape [order, node]. What was read before is not
                read again.
        """
        todo: dict[tuple[int, int, StageOption], list[Reading]] = defaultdict(list)
        for plan, where in wanted.items():
            reading = self._reading(plan)
            for r, number in zip(*np.nonzero(where & (reading.n_samples == 0)), strict=True):
                todo[int(number), int(r), plan.choice.option].append(reading)
        unvoted: dict[tuple[int, StagePlan], list[int]] = defaultdict(list)
        await self._load({(number, option) for number, _, option in todo})
        for (number, r, option), readings in todo.items():
            voted = [(reading, reading.count) for reading in readings if reading.count is not None]
            if voted:
                self._count_votes(number, r, self._drawn[number, option], voted)
            for reading in readings:
                if reading.count is None:
                    unvoted[number, reading.plan].append(r)
        for (number, plan), rows in unvoted.items():
            await self._run(number, rows, self.readings[plan])

    def _reading(self, plan: StagePlan) -> Reading:
        """The reading of a plan, with room for all nodes."""
        reading = self.readings.get(plan)
        if reading is None:
            n_features = len(stage_feature_names(self.stage, plan))
            reading = Reading.empty(plan, self._count(plan), len(self._orders), len(self.nodes), n_features)
        self.readings[plan] = reading.grown(len(self.nodes))
        return self.readings[plan]

    def weighable(self) -> bool:
        """Return whether most prompts read so far have samples whose votes can be weighed."""
        able = list[bool]()
        drawn_samples = (cell for cell in self._drawn.items() if cell[1].candidates)
        for (number, option), drawn in islice(drawn_samples, _PROBED):
            aggregator = self.stage.aggregator_for(option)
            own = Count.of(aggregator)
            if own is not None and own.kind != "length_weighted":
                count = replace(own, kind="weighted")
                ballots = Ballots.of(self.stage, count, self.nodes[number].example)
                ballots.add_all(drawn.candidates)
                able.append(ballots.n_ballots > 0 and not ballots.steps_back(count))
        return sum(able) > len(able) / 2

    async def _load(self, cells: Iterable[tuple[int, StageOption]]) -> None:
        prompt_of = {}
        contents = {}
        for number, option in cells:
            if (number, option) not in self._drawn:
                if self.stage.python is not None:
                    continue
                node, cell = self.nodes[number], (number, option.prompt)
                if cell not in contents:
                    stage = self.stage.prompted(option.prompt)
                    contents[cell] = prompts.render(stage, node.example, node.outputs)
                sampler = self._runtime.sampler
                prompt = sampler.prompt(option.model, contents[cell], self.stage.sampling)
                prompt_of[number, option] = prompt
        recorded = await self._store.get_samples([prompt.key for prompt in prompt_of.values()])
        banked = await gather(*(self._store.get_prompt(prompt.key) for prompt in prompt_of.values()))
        for ((number, option), prompt), known in zip(prompt_of.items(), banked, strict=True):
            samples = recorded[prompt.key]
            tokens = None if known is None else known.prompt_tokens
            whole = [sample for index, sample in enumerate(samples) if sample.index == index]
            self._drawn[number, option] = Drawn(
                key=prompt.key,
                prompt_tokens=estimated_tokens(prompt.content) if tokens is None else tokens,
                candidates=tuple(
                    Candidate(
                        s.index, s.text, self._value(number, s.text), s.mean_logprob, s.generated_tokens
                    )
                    for s in whole
                ),
            )

    def _value(self, number: int, text: str) -> JSON:
        node = self.nodes[number]
        if text not in node.values:
            parsed = parsers.parse(self.stage.parser, text, node.example)
            node.values[text] = parsed.value if isinstance(parsed, parsers.Parsed) else None
        return node.values[text]

    def _count_votes(self, number: int, r: int, drawn: Drawn, voted: Sequence[tuple[Reading, Count]]) -> None:
        """Read the samples once, in one order, and note each plan's outcome where it stops."""
        ballots = Ballots.of(self.stage, voted[0][1], self.nodes[number].example)
        due: dict[int, list[tuple[Reading, Count]]] = defaultdict(list)  # by the number of samples
        chunks: dict[StagePlan, list[int]] = defaultdict(list)
        for reading, count in voted:
            plan = reading.plan
            due[ballots.next_check(count, plan.stop, plan.choice.n_samples)].append((reading, count))
        model = voted[0][0].plan.choice.model
        cost, per_token = self._rates.prompt[model] * drawn.prompt_tokens, self._rates.generated[model]
        order = sample_order(drawn.key, self._orders[r], len(drawn.candidates))
        for n, index in enumerate(order.tolist(), start=1):
            ballots.add(drawn.candidates[index])
            cost += per_token * drawn.candidates[index].generated_tokens
            outcomes: dict[Count, Outcome] = {}
            for reading, count in due.pop(n, ()):
                stop, n_max = reading.plan.stop, reading.plan.choice.n_samples
                chunks[reading.plan].append(n)
                if not ballots.stops(count, stop, n_max):
                    due[ballots.next_check(count, stop, n_max)].append((reading, count))
                    continue
                if count not in outcomes:
                    result = self._result(number, ballots.output(count))
                    outcomes[count] = (*result, ballots.features(count))
                again = self._rates.further_prompts(model, drawn.prompt_tokens, chunks[reading.plan])
                reading.note((r, number), n, cost + again, outcomes[count])
            if not due:
                return

    async def _run(self, number: int, rows: Sequence[int], reading: Reading) -> None:
        """Note the outcome of a plan without a vote, which is that of the bank's own order in all."""
        node, choice = self.nodes[number], reading.plan.choice
        try:
            outcome = await self._runtime.stage_outcome(
                self.stage, choice, node.example, node.outputs, with_score=False
            )
        except ReplayMiss:
            return
        if outcome.status != "error":
            result = self._result(number, outcome.value)
            for r in rows:
                reading.note((r, number), choice.n_samples, self._rates.cost(outcome), (*result, ()))

    def _result(self, number: int, output: JSON) -> tuple[int, float]:
        """Return the next node or the number of the answer, and the score."""
        node = self.nodes[number]
        key = repr(output)
        if key not in node.results:
            if self._after is not None:
                outputs = {**node.outputs, self.stage.name: output}
                node.results[key] = (self._after.node(node.example, outputs), np.nan)
            else:
                node.results[key] = (self._answer(node.example, output), self._score(node.example, output))
        return node.results[key]

    def _answer(self, example: Example, output: JSON) -> int:
        key = vote_key(output)
        return NOTHING if key is None else self._answers.setdefault((example.id, key), len(self._answers))

    def _score(self, example: Example, output: JSON) -> float:
        try:
            score = metrics.score(self._spec.metric, output, example)
        except CustomCodeFailed:
            return np.nan
        return np.nan if score is None else score
