"""Counting the health of a run's samples: from the samples in the store and the stages' parsers alone.

What is stored are samples and the results that name them, and an event for answers that are no samples, so
that a search that goes on, a resumed one and a report come to the same figures. Samples on the test split are
not counted: it is sealed until everything is decided.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from agenttts.blocking import run_blocking
from agenttts.results.events import stored_events
from agenttts.results.health import SampleHealth
from agenttts.results.spec_bank import attach_spec_bank
from datastore.errors import StoreError
from datastore.keynumbers import KeyNumbers
from datastore.records import StageResult
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.dataset.splits import load_examples
from pipelines.errors import PipelineError
from pipelines.examples import Example
from pipelines.policy import Policy
from pipelines.reading.noanswer import NoAnswer
from pipelines.reading.thinking import NOTHING_AFTER
from pipelines.spec.models import SamplingSpec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.policyfile import policy_from_json
from pipelines.spec.stage import StageSpec
from pipelines.spec.variants import ParserSpec
from pipelines.stages.parsers import Parsed, parse

EVENT = "sample_health"
"""The kind of the stored event that holds the shares of a stage and model when they became notable."""
TEXTLESS = "answers_without_text"
"""The kind of the stored events that count answers which are no samples, trial by trial."""
_HEALTH = TypeAdapter(SampleHealth)
_MOST_REASONS = 100  # told apart; some hold a part of the sample


@dataclass(frozen=True, kw_only=True)
class TextlessAnswers:
    """Answers of a trial that are no samples, since they have no text: refusals, nothing but reasoning, …

    Attributes:
        stage: The stage.
        model: The model.
        n: How many.
        cut: How many of them ended at the token limit.
        reason: Why most of them have no text.
    """

    stage: str
    model: str
    n: int
    cut: int
    reason: str


_TEXTLESS = TypeAdapter(TextlessAnswers)


def load_textless(store: Store, run_id: str) -> list[TextlessAnswers]:
    """Return the answers without a text that the trials of a run have met, as the run stored them.

    Args:
        store: The database, open for reading.
        run_id: The run.
    """
    return list(stored_events(store, run_id, TEXTLESS, _TEXTLESS))


class _Prompts:
    """What was counted of each prompt: a bit for each index, and whether all texts are the first one's."""

    def __init__(self) -> None:
        self._numbers = KeyNumbers()
        self._indices: list[int] = []
        self._first = array("q")  # hash of the first text
        self._is_equal = bytearray()
        self._same: dict[int, int] = {}  # most prompts have the same indices, which are stored once

    def indices(self, prompt_key: str) -> int:
        """Return the bits of the indices that were counted."""
        number = self._numbers.find(prompt_key)
        return 0 if number is None else self._indices[number]

    def add(self, prompt_key: str, index: int, text: str) -> tuple[int, int] | None:
        """Count a sample.

        Args:
            prompt_key: What tells its prompt from others.
            index: The number of the sample.
            text: Its text.

        Returns:
            By how much it raises the number of prompts with several samples, and of those whose samples are
            all one text; None for a sample that was counted before.
        """
        number = self._numbers.add(prompt_key)
        if number == len(self._indices):
            self._indices.append(0)
            self._first.append(hash(text))
            self._is_equal.append(1)
        indices, was_equal = self._indices[number], self._is_equal[number]
        if indices >> index & 1:
            return None
        now = indices | 1 << index
        self._indices[number] = self._same.setdefault(now, now)
        if not indices:
            return 0, 0
        was_several = indices.bit_count() > 1
        is_equal = was_equal and hash(text) == self._first[number]
        self._is_equal[number] = is_equal
        return not was_several, is_equal - (was_several and was_equal)


class SampleCounts:
    """Counts the samples of one stage and model.

    Args:
        stage: The stage.
        model: The model's key in the spec.
        sampling: How the model is sampled there.
    """

    def __init__(self, stage: StageSpec, model: str, sampling: SamplingSpec) -> None:
        self._stage = stage
        self._model = model
        self._sampling = sampling
        self._n = self._empty = self._cut = self._unparsed = self._several = self._equal = 0
        self._reasons: Counter[str] = Counter()
        self._textless: Counter[str] = Counter()
        self._prompts = _Prompts()

    def has(self, prompt_key: str, n: int) -> bool:
        """Return whether the first n samples of a prompt were counted."""
        first_n = (1 << n) - 1
        return self._prompts.indices(prompt_key) & first_n == first_n

    def add(self, prompt_key: str, index: int, text: str, finish_reason: str, example: Example) -> None:
        """Count a sample, unless it was counted before.

        Args:
            prompt_key: What tells its prompt from others.
            index: The number of the sample among those of its prompt.
            text: What the model wrote.
            finish_reason: Why it ended, as the server says.
            example: The example that the prompt was made from.
        """
        counted = self._prompts.add(prompt_key, index, text)
        if counted is None:
            return
        self._several += counted[0]
        self._equal += counted[1]
        self._n += 1
        self._cut += finish_reason == "length"
        value = _value(self._stage.parser, text, example)
        if value is None or value == NOTHING_AFTER:
            self._empty += 1
        elif isinstance(value, NoAnswer):
            self._unparsed += 1
            if value.reason in self._reasons or len(self._reasons) < _MOST_REASONS:
                self._reasons[value.reason] += 1

    def add_textless(self, n: int, cut: int, reason: str) -> None:
        """Count answers without a text, which are no samples.

        Args:
            n: How many.
            cut: How many of them ended at the token limit.
            reason: Why there is no text.
        """
        self._n += n
        self._empty += n
        self._cut += cut
        self._textless[reason] += n

    @property
    def health(self) -> SampleHealth:
        """The shares of what was counted."""
        n, several = self._n, 0 if self._sampling.temperature == 0 else self._several
        return SampleHealth(
            stage=self._stage.name,
            model=self._model,
            n_samples=n,
            empty=self._empty / n if n else 0.0,
            empty_because=commonest(self._textless),
            cut=self._cut / n if n else 0.0,
            unparsed=self._unparsed / n if n else 0.0,
            unparsed_because=commonest(self._reasons),
            n_prompts=several,
            identical=self._equal / several if several else None,
            max_tokens=self._sampling.max_tokens,
            temperature=self._sampling.temperature,
        )


def commonest(reasons: Mapping[str, int]) -> str | None:
    """Return the reason of the largest count; None without any.

    Args:
        reasons: Counts by reason.
    """
    return min(reasons, key=lambda reason: (-reasons[reason], reason), default=None)


def _value(parser: ParserSpec, text: str, example: Example) -> Parsed | NoAnswer | None:
    """What the parser makes of a text; None where there is no text."""
    if not text or text.isspace():
        return None
    try:
        return parse(parser, text, example)
    except PipelineError as error:  # the user's parser raised, which is reported as a missing result
        return NoAnswer(str(error))


def allocations_of(allocation: Allocation, policy: Policy | None) -> list[Allocation]:
    """Return what a trial may draw: its allocation, or those of its policy's rungs.

    Args:
        allocation: The trial's allocation.
        policy: The policy that was run; None when the allocation was.
    """
    return [allocation] if policy is None else [rung.allocation for rung in policy.rungs]


class SampleMeter:
    """The health of the samples that the trials of a run rest on.

    Args:
        spec: The pipeline.
        store: The database, which has the samples.
        examples: The examples of the search split; results on others are left out.
    """

    def __init__(self, spec: PipelineSpec, store: Store, examples: Iterable[Example]) -> None:
        self._spec = spec
        self._store = store
        self._examples = {example.id: example for example in examples}
        self._counts: dict[tuple[str, str], SampleCounts] = {}
        self._short: list[tuple[SampleCounts, str, StageResult]] = []

    async def add(self, ran: Sequence[Allocation], results: Iterable[StageResult]) -> None:
        """Count the samples of results of a trial; those that were counted before are not counted again.

        Args:
            ran: The trial's allocation; of a policy's trial those of its rungs.
            results: The results, as the store has them.
        """
        models = {
            (stage, self._spec.model_key(choice.model)): choice.model
            for allocation in reversed(ran)
            for stage, choice in allocation.items()
            if self._spec.stage(stage).python is None
        }
        wanted = [
            (self._of(result.stage, models[result.stage, result.model_key]), result.prompt_key, result)
            for result in results
            if result.prompt_key is not None
            and result.example_id in self._examples
            and (result.stage, result.model_key) in models
        ]
        await self._count(wanted)

    async def catch_up(self) -> None:
        """Count what was drawn since for results that had fewer samples than they asked for."""
        await self._count(self._short)

    async def _count(self, uses: Sequence[tuple[SampleCounts, str, StageResult]]) -> None:
        new = [(c, key, r) for c, key, r in uses if not c.has(key, r.n_samples)]
        samples = await self._store.get_samples(list({key: None for _, key, _ in new}))
        for counts, key, result in new:
            example = self._examples[result.example_id]
            for sample in samples[key]:
                if sample.index < result.n_samples:
                    counts.add(key, sample.index, sample.text, sample.finish_reason, example)
        every = {(r.stage, key, r.n_samples): (c, key, r) for c, key, r in (*self._short, *new)}
        self._short = [(c, key, r) for c, key, r in every.values() if not c.has(key, r.n_samples)]

    def health(self, ran: Sequence[Allocation] | None = None) -> tuple[SampleHealth, ...]:
        """Return the shares by stage and model, in the order of the spec.

        Args:
            ran: Restricts them to the models of these allocations; None: all.
        """
        return tuple(
            self._counts[stage.name, model].health
            for stage in self._spec.stages
            for model in stage.models
            if (stage.name, model) in self._counts
            and (ran is None or any(allocation[stage.name].model == model for allocation in ran))
        )

    def add_textless(self, answers: TextlessAnswers) -> None:
        """Count answers without a text."""
        self._of(answers.stage, answers.model).add_textless(answers.n, answers.cut, answers.reason)

    def _of(self, stage_name: str, model: str) -> SampleCounts:
        key = (stage_name, model)
        if key not in self._counts:
            stage = self._spec.stage(stage_name)
            sampling = self._spec.models[model].sampled(stage.sampling)
            self._counts[key] = SampleCounts(stage, model, sampling)
        return self._counts[key]


def load_health(
    store: Store, run_id: str, spec: PipelineSpec, examples: Sequence[Example] | None = None
) -> tuple[SampleHealth, ...]:
    """Compute the health of a run's samples from the store.

    Args:
        store: The database, open for reading; the spec's bank is attached to it where the file exists.
        run_id: The run.
        spec: The run's pipeline.
        examples: The examples of the search split; None to read the spec's dataset.

    Returns:
        The shares by stage and model, of the samples in the store and the bank. Of a live snapshot, which has
        no samples, and where dataset or bank can't be read: those that were notable when the run stored them.
    """
    if store.as_of is not None:
        return warned(store, run_id)
    try:
        examples = load_examples(spec, "search") if examples is None else examples
        attach_spec_bank(spec, store)
    except (PipelineError, StoreError, OSError):
        return warned(store, run_id)
    meter = SampleMeter(spec, store, examples)
    for answers in load_textless(store, run_id):
        meter.add_textless(answers)
    run_blocking(_add_all(meter, store, run_id))
    return meter.health()


async def _add_all(meter: SampleMeter, store: Store, run_id: str) -> None:
    for trial in store.trials(run_id):
        if trial.split != "test":
            policy = None if trial.policy is None else policy_from_json(trial.policy)
            ran = allocations_of(Allocation.from_json(trial.allocation), policy)
            await meter.add(ran, store.stage_results(trial.trial_id))


def warned(store: Store, run_id: str) -> tuple[SampleHealth, ...]:
    """Return the shares that a run has warned of, as they were then; one for each stage and model.

    Args:
        store: The database, open for reading.
        run_id: The run.
    """
    stored = {(health.stage, health.model): health for health in stored_events(store, run_id, EVENT, _HEALTH)}
    return tuple(stored.values())
