"""Reading the examples of a trial from a store: what each stage read, what its samples say, how they voted.

Scores and costs are those that the trial stored; values and votes are read from the samples by the parsers
and tallies that the search used. A live snapshot has no prompts and no samples, so while a search runs only
outputs and scores are there, and what the spec's own bank holds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import get_args

from agenttts.blocking import run_blocking
from agenttts.errors import UserError
from agenttts.results.examples import ReadSample, ReadStage, Show, TrialExample, VoteCount, value_text
from agenttts.results.spec_bank import attach_spec_bank
from agenttts.results.trials import QueryCost, TrialResult, trial_id
from datastore import records
from datastore.errors import StoreError
from datastore.store import Store
from pipelines.allocation import StageOption
from pipelines.dataset.splits import load_examples
from pipelines.errors import PipelineError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.policy import Vote
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.variants import BuiltinMetric, MetricSpec
from pipelines.stages.candidates import Candidate
from pipelines.stages.counts import Count
from pipelines.stages.parsers import Parsed, parse
from pipelines.stages.tallies import Tallies


class TrialReader:
    """Reads the examples of the trials of one run.

    Args:
        store: The database, open for reading; the spec's bank is attached to it where the file exists.
        run_id: The run.
        spec: The run's pipeline; None where it can't be restored: then samples have no values.
        examples: The examples of the search split; None to read the spec's dataset.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        spec: PipelineSpec | None,
        examples: Sequence[Example] | None = None,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._spec = spec
        self._given = examples
        self._by_split = dict[str, Mapping[str, Example]]()
        if spec is not None:
            with suppress(StoreError):  # the samples of the store itself are still there
                attach_spec_bank(spec, store)

    def ids(self, trial: TrialResult, show: Show = "all", other: TrialResult | None = None) -> list[str]:
        """Return the ids of a trial's examples in order, those with a score below 1 from the lowest score up.

        Shorter ids come first, so that `test-9` stands before `test-10`, however the trial came to them.

        Args:
            trial: The trial.
            show: Which examples.
            other: The trial that `changed` compares with.

        Raises:
            UserError: There is no such choice, or `changed` lacks the other trial.
        """
        scores = dict(sorted(trial.scores.items(), key=lambda item: (len(item[0]), item[0])))
        match show:
            case "all":
                return list(scores)
            case "wrong":
                wrong = [(score, key) for key, score in scores.items() if score is not None and score < 1]
                return [key for _, key in sorted(wrong, key=lambda pair: pair[0])]
            case "missing":
                return [key for key, score in scores.items() if score is None]
            case "cut":
                cut = run_blocking(self._cut(trial))
                return [key for key in scores if key in cut]
            case "changed" if other is not None:
                both = [key for key in scores if key in other.scores]
                return [key for key in both if scores[key] != other.scores[key]]
        raise UserError(
            f"examples are shown by one of {', '.join(get_args(Show))}, changed with another trial to "
            f"compare with, got {show!r}"
        )

    def read(self, trial: TrialResult, ids: Collection[str] | None = None) -> tuple[TrialExample, ...]:
        """Read examples of a trial, in the order of the ids.

        Args:
            trial: The trial.
            ids: The examples; None for all.
        """
        return run_blocking(self._read(trial, self.ids(trial) if ids is None else list(ids)))

    async def _read(self, trial: TrialResult, ids: Sequence[str]) -> tuple[TrialExample, ...]:
        rows: dict[str, list[records.StageResult]] = {key: [] for key in ids}
        for row in self._store.stage_results(trial_id(self._run_id, trial.number)):
            if row.example_id in rows:
                rows[row.example_id].append(row)
        keys = {row.prompt_key for of_example in rows.values() for row in of_example if row.prompt_key}
        samples = await self._store.get_samples(list(keys))
        prompts = dict(zip(keys, await asyncio.gather(*map(self._store.get_prompt, keys)), strict=True))
        reasons = self._store.scores(trial_id(self._run_id, trial.number))
        votes = self._votes(trial)
        examples = self._examples(trial.split)
        return tuple(
            TrialExample(
                trial=trial.number,
                example_id=key,
                fields=examples[key].fields if key in examples else {},
                gold=None if self._spec is None else _gold(self._spec.metric, examples.get(key)),
                score=trial.scores.get(key),
                reason=reasons[key].reason if key in reasons else None,
                stages=tuple(
                    self._stage(
                        trial,
                        row,
                        prompts.get(row.prompt_key or ""),
                        samples.get(row.prompt_key or "", []),
                        examples.get(key),
                        votes.get((key, row.stage)),
                    )
                    for row in self._in_order(of_example)
                ),
                cost=QueryCost.of(of_example),
            )
            for key, of_example in rows.items()
        )

    def _stage(
        self,
        trial: TrialResult,
        row: records.StageResult,
        prompt: records.Prompt | None,
        drawn: Sequence[records.Sample],
        example: Example | None,
        of_rung: tuple[StageOption, Vote] | None,
    ) -> ReadStage:
        option, vote = (trial.allocation[row.stage].option, None) if of_rung is None else of_rung
        stage = None if self._spec is None else self._spec.stage(row.stage)
        used = [sample for sample in drawn if sample.index < row.n_samples]
        samples = [_read_sample(stage, sample, example) for sample in used]
        return ReadStage(
            stage=row.stage,
            source=str(option) if of_rung is not None or trial.policy is None else row.model_key,
            n_samples=row.n_samples,
            prompt=() if prompt is None else _messages(prompt.content),
            samples=tuple(samples),
            votes=()
            if stage is None or example is None
            else _counted(stage, option, vote, used, samples, example),
            output=None if row.output is None else json.loads(row.output),
            gold=None if stage is None or stage.metric is None else _gold(stage.metric, example),
            score=row.score,
            status=row.status,
            reason=row.reason,
            prompt_tokens=row.prompt_tokens,
            generated_tokens=row.generated_tokens,
            cost=QueryCost(row.flops, row.cost_usd),
            samples_drawn=row.samples_drawn,
            samples_reused=row.samples_reused,
        )

    def _in_order(self, rows: Sequence[records.StageResult]) -> list[records.StageResult]:
        if self._spec is None:
            return list(rows)
        order = {stage.name: position for position, stage in enumerate(self._spec.stages)}
        return sorted(rows, key=lambda row: order[row.stage])

    def _votes(self, trial: TrialResult) -> dict[tuple[str, str], tuple[StageOption, Vote]]:
        """By example and stage: the option and the vote of the policy's rung whose outcome stands."""
        if trial.policy is None:
            return {}
        results = self._store.policy_results(trial_id(self._run_id, trial.number))
        return {
            (result.example_id, stage): (plan.choice.option, plan.vote)
            for result in results
            for stage, plan in trial.policy.rungs[result.rung].items()
        }

    def _examples(self, split: str) -> Mapping[str, Example]:
        if split not in self._by_split:
            self._by_split[split] = {example.id: example for example in self._load(split)}
        return self._by_split[split]

    def _load(self, split: str) -> Sequence[Example]:
        if self._given is not None and split != "test":
            return self._given
        if self._spec is None:
            return ()
        try:
            return load_examples(self._spec, "test" if split == "test" else "search")
        except (PipelineError, OSError):
            return ()

    async def _cut(self, trial: TrialResult) -> set[str]:
        """The ids of the examples of which a sample ended at the token limit."""
        rows = self._store.stage_results(trial_id(self._run_id, trial.number))
        used = [(row.prompt_key, row) for row in rows if row.prompt_key is not None]
        samples = await self._store.get_samples(list({key for key, _ in used}))
        cut = {key: [s.index for s in drawn if s.finish_reason == "length"] for key, drawn in samples.items()}
        return {row.example_id for key, row in used if any(index < row.n_samples for index in cut[key])}


def _read_sample(stage: StageSpec | None, sample: records.Sample, example: Example | None) -> ReadSample:
    value: JSON = None
    problem: str | None = None
    if stage is not None and example is not None and stage.python is None:
        try:
            result = parse(stage.parser, sample.text, example)
        except PipelineError as error:
            problem = str(error)
        else:
            if isinstance(result, Parsed):
                value = result.value
            else:
                problem = result.reason
    return ReadSample(
        index=sample.index,
        text=sample.text,
        value=value,
        problem=problem,
        generated_tokens=sample.generated_tokens,
        finish_reason=sample.finish_reason,
    )


def _counted(
    stage: StageSpec,
    option: StageOption,
    vote: Vote | None,
    drawn: Sequence[records.Sample],
    samples: Sequence[ReadSample],
    example: Example,
) -> tuple[VoteCount, ...]:
    count = Count.of(stage.aggregator_for(option), vote)
    if count is None or not samples:
        return ()
    tallies = Tallies.of(stage, count, example)
    tallies.add_all(
        Candidate(sample.index, sample.text, sample.value, row.mean_logprob, row.generated_tokens)
        for sample, row in zip(samples, drawn, strict=True)
    )
    weights, total = tallies.weights(count) if tallies.n_ballots else ({}, 1.0)
    counts = [
        VoteCount(value=tallies.tallies[key].value, votes=tallies.tallies[key].votes, share=weight / total)
        for key, weight in weights.items()
    ]
    return tuple(sorted(counts, key=lambda counted: -counted.share))


def _gold(metric: MetricSpec, example: Example | None) -> JSON:
    if example is None or not isinstance(metric, BuiltinMetric):
        return None
    gold: JSON = example.get(metric.label)
    return gold


def _messages(content: str) -> tuple[tuple[str, str], ...]:
    """The texts of a prompt by role; of a plain completion `prompt`, of a function's call each argument."""
    data = json.loads(content)
    if "messages" in data:
        return tuple((message["role"], message["content"]) for message in data["messages"])
    if "call" in data:
        return tuple((name, value_text(value)) for name, value in data["call"].items())
    return tuple((kind, data[kind]) for kind in ("prompt", "classify") if kind in data)
