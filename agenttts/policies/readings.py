"""What the plans of a stage come to on recorded samples, as arrays by order of the samples and node.

A node is one example with the upstream outputs that matter from its stage on. Its samples are counted by the
same `Ballots` as in live execution and read in several orders, so that a plan's stop falls where it would
fall live.
"""

from __future__ import annotations

from asyncio import gather
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np

from agenttts.policies.nodes import NOTHING, Bools, Drawn, Node, Reading
from agenttts.policies.orders import sample_order
from agenttts.policies.rates import Rates
from pipelines.allocation import StageOption
from pipelines.costs import estimated_tokens
from pipelines.errors import CustomCodeFailed, ReplayMiss
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.policy import StagePlan, Vote
from pipelines.reading.comparing import vote_key
from pipelines.runtime import Runtime
from pipelines.runtime.sampler import SampleBank
from pipelines.spec.fields import StageSpec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.stages import metrics, parsers, prompts
from pipelines.stages.ballots import SET_FEATURES, VALUE_FEATURES, Ballots
from pipelines.stages.candidates import Candidate
from pipelines.stages.counts import Count

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
        nodes: Its nodes so far.
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
        self.nodes: list[Node] = []
        self.readings: dict[StagePlan, Reading] = {}
        self._spec, self._store, self._rates, self._orders, self._after = spec, store, rates, orders, after
        self._needed = {name for later in spec.stages[position:] for name in later.input_names}
        self._numbers: dict[str, int] = {}
        self._answers: dict[tuple[str, str], int] = {}
        self._counts: dict[StagePlan, Count | None] = {}
        self._runtime = Runtime(spec, store, None, run_id=None, replay=True)
        self._drawn: dict[tuple[int, StageOption], Drawn] = {}

    def node(self, example: Example, outputs: Mapping[str, JSON]) -> int:
        """Return the number of a node, which is added when it is new."""
        inputs = {name: value for name, value in outputs.items() if name in self._needed}
        key = f"{example.id}\0{inputs!r}"  # values are JSON-able: repr tells any two apart
        if key not in self._numbers:
            self._numbers[key] = len(self.nodes)
            self.nodes.append(Node(example, inputs))
        return self._numbers[key]

    def feature_names(self, plan: StagePlan) -> tuple[str, ...]:
        """Return the names of a plan's features; none where its outputs are not voted on."""
        count = self._count(plan)
        if count is None:
            return ()
        names = VALUE_FEATURES if count.threshold is None else SET_FEATURES
        return tuple(f"{self.stage.name}.{name}" for name in names)

    def _count(self, plan: StagePlan) -> Count | None:
        if plan not in self._counts:
            self._counts[plan] = Count.of(self.stage.aggregator_for(plan.choice.option), plan.vote)
        return self._counts[plan]

    async def read(self, wanted: Mapping[StagePlan, Bools]) -> None:
        """Read plans at nodes.

        Args:
            wanted: For each plan where it is wanted, of shape [order, node]. What was read before is not
                read again.
        """
        todo: dict[tuple[int, int, StageOption], list[StagePlan]] = defaultdict(list)
        for plan, where in wanted.items():
            reading = self.readings.get(plan)
            if reading is None:
                n_features = len(self.feature_names(plan))
                reading = Reading.empty(len(self._orders), len(self.nodes), n_features)
            self.readings[plan] = reading = reading.grown(len(self.nodes))
            for r, number in zip(*np.nonzero(where & (reading.n_samples == 0)), strict=True):
                todo[int(number), int(r), plan.choice.option].append(plan)
        await self._load({(number, option) for number, _, option in todo})
        for (number, r, option), plans in todo.items():
            voted = [(plan, count) for plan in plans if (count := self._count(plan)) is not None]
            if voted:
                self._count_votes(number, r, self._drawn[number, option], voted)
            for plan in plans:
                if self._count(plan) is None:
                    await self._run(number, r, plan)

    def weighable(self) -> bool:
        """Return whether most prompts read so far have samples whose votes can be weighed."""
        weighed = Vote(kind="weighted")
        able = list[bool]()
        for (number, option), drawn in islice(self._drawn.items(), _PROBED):
            count = Count.of(self.stage.aggregator_for(option), weighed) if self._votes(option) else None
            if count is not None and count.kind == "weighted":
                ballots = Ballots.of(self.stage, count, self.nodes[number].example)
                ballots.add_all(drawn.candidates)
                able.append(ballots.n_ballots > 0 and not ballots.steps_back(count))
        return sum(able) > len(able) / 2

    def _votes(self, option: StageOption) -> bool:
        return Count.of(self.stage.aggregator_for(option)) is not None

    async def _load(self, cells: Iterable[tuple[int, StageOption]]) -> None:
        prompt_of = {}
        contents = {}
        for number, option in cells:
            if (number, option) not in self._drawn:
                node = self.nodes[number]
                if number not in contents:
                    contents[number] = prompts.render(self.stage, node.example, node.outputs)
                sampler = self._runtime.sampler
                prompt = sampler.prompt(option.model, contents[number], self.stage.sampling)
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

    def _count_votes(
        self, number: int, r: int, drawn: Drawn, voted: Sequence[tuple[StagePlan, Count]]
    ) -> None:
        """Read the samples once, in one order, and note each plan's outcome where it stops."""
        ballots = Ballots.of(self.stage, voted[0][1], self.nodes[number].example)
        asked: dict[int, list[tuple[StagePlan, Count]]] = defaultdict(list)  # by the number of samples
        for plan, count in voted:
            asked[ballots.next_check(count, plan.stop, plan.choice.n_samples)].append((plan, count))
        rates, option = self._rates, voted[0][0].choice.option
        cost = rates.prompt[option.model] * drawn.prompt_tokens
        order = sample_order(drawn.key, self._orders[r], len(drawn.candidates))
        for n, index in enumerate(order.tolist(), start=1):
            candidate = drawn.candidates[index]
            ballots.add(candidate)
            cost += rates.generated[option.model] * candidate.generated_tokens
            results: dict[Count, tuple[int, float, tuple[float, ...]]] = {}
            for plan, count in asked.pop(n, ()):
                n_max = plan.choice.n_samples
                if not ballots.stops(count, plan.stop, n_max):
                    asked[ballots.next_check(count, plan.stop, n_max)].append((plan, count))
                    continue
                if count not in results:
                    to, score = self._result(number, ballots.output(count))
                    results[count] = (to, score, ballots.features(count))
                self._note(plan, r, number, n, cost, *results[count])
            if not asked:
                return

    def _note(
        self,
        plan: StagePlan,
        r: int,
        number: int,
        n_samples: int,
        cost: float,
        leads_to: int,
        score: float,
        features: tuple[float, ...],
    ) -> None:
        reading = self.readings[plan]
        at = (r, number)
        reading.n_samples[at], reading.leads_to[at] = n_samples, leads_to
        reading.cost[at], reading.score[at], reading.features[at] = cost, score, features

    async def _run(self, number: int, r: int, plan: StagePlan) -> None:
        """Note the outcome of a plan without a vote; the order of its samples is the bank's own."""
        node = self.nodes[number]
        try:
            outcome = await self._runtime.stage_outcome(
                self.stage, plan.choice, node.example, node.outputs, with_score=False
            )
        except ReplayMiss:
            return
        if outcome.status == "error":
            return
        cost = self._rates.cost(outcome)
        self._note(plan, r, number, plan.choice.n_samples, cost, *self._result(number, outcome.value), ())

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
