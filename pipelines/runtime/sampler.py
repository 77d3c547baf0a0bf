"""Samples for a prompt, from the bank first: only indices that nobody has drawn yet are drawn, and once.

Samples are nested: n samples are the indices 0 to n-1. Whoever asks for the same prompt at the same time
waits for the same draw, and a sample counts as drawn when the store has it on disk. What becomes of the texts
is the runtime's affair.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

from datastore.keys import make_prompt
from datastore.records import Prompt, Sample
from pipelines.content import Content
from pipelines.costs import estimated_tokens, generated_tokens_bound, prompt_tokens_bound
from pipelines.errors import DrawFailed, ReplayMiss
from pipelines.runtime.payments import SampleBank, SpendGate, enter, reserved, sample_of
from pipelines.servers.billing import Bill
from pipelines.servers.clients import ModelClients
from pipelines.servers.grace import end_if_cancelled
from pipelines.servers.streamed import TextStream
from pipelines.servers.wire import PromptRefused
from pipelines.spec.models import SamplingSpec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.request_fields import sent_fields

_MOST_PROMPTS = 1 << 15


@dataclass(slots=True)
class Textless:
    """Answers that brought no text and are no samples, of one stage and model.

    Attributes:
        n: How many.
        cut: How many of them ended at the token limit.
        reasons: Why, with counts.
    """

    n: int = 0
    cut: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """The samples of one prompt and what it took to have them.

    Attributes:
        samples: Indices 0 to n-1 in order; fewer when `failure` says why the rest could not be drawn.
        prompt_tokens: Of the prompt, once, as the server counted them, else an estimate from the length.
        n_drawn: Samples that were drawn now.
        n_reused: Samples from the bank.
        calls: Requests that the server answered and billed now, those that brought no text included.
    """

    prompt: Prompt
    samples: tuple[Sample, ...]
    prompt_tokens: int
    n_drawn: int
    n_reused: int
    calls: int
    failure: DrawFailed | None

    @property
    def generated_tokens(self) -> int:
        return sum(sample.generated_tokens for sample in self.samples)


class Sampler:
    """Draws for one run. With clients None, or in replay, a missing sample raises ReplayMiss instead."""

    def __init__(
        self,
        spec: PipelineSpec,
        bank: SampleBank,
        clients: ModelClients | None,
        *,
        run_id: str | None,
        replay: bool,
        gate: SpendGate | None,
    ) -> None:
        self._models = spec.models
        self._bank = bank
        self._clients = None if replay else clients
        self._run_id = run_id
        self._gate = gate
        self._keys = {name: spec.model_key(name) for name in spec.models}
        self._sent = {
            name: {field: value for field, value in sent_fields(model.request).items() if field != "logprobs"}
            for name, model in spec.models.items()
        }
        self._textless: dict[tuple[str, str], Textless] = {}
        self._most_n: dict[str, int] = {}  # as their servers were found to limit it
        self._prompt_tokens: dict[str, int | None] = {}  # of the prompts met so far
        self._refused: dict[str, PromptRefused] = {}  # prompts that need not be asked again
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def most_in_flight(self) -> int:
        """Requests that all servers together may have in flight; 0 where nothing is drawn."""
        return 0 if self._clients is None else self._clients.most_in_flight

    def prompt(self, model: str, content: Content, sampling: SamplingSpec) -> Prompt:
        """The Prompt that identifies these samples: all that is asked for, the model's own settings included.

        What a server refuses of it is no part: a replay, which asks no server, must find the samples.
        """
        return self._prompt(model, content, self._sampling(model, content, sampling))

    def _sampling(self, model: str, content: Content, sampling: SamplingSpec) -> SamplingSpec:
        return sampling if "classify" in content else self._models[model].sampled(sampling)

    def _prompt(self, model: str, content: Content, sampling: SamplingSpec) -> Prompt:
        parameters = sampling.model_dump(mode="json")
        if self._sent[model] and "classify" not in content:
            parameters["request"] = self._sent[model]
        return make_prompt(self._keys[model], content, parameters)

    async def look_up(self, model: str, contents: Iterable[Content], sampling: SamplingSpec) -> None:
        """Have the bank look up the samples of prompts, which it keeps at hand for a while."""
        keys = list({self.prompt(model, content, sampling).key: None for content in contents})
        await self._bank.get_samples(keys)
        await asyncio.gather(*map(self._known_prompt_tokens, keys))

    async def samples(
        self,
        stage: str,
        model: str,
        content: Content,
        sampling: SamplingSpec,
        n: int,
        stream: TextStream | None = None,
    ) -> Samples:
        """Samples 0 to n-1 of a prompt. `stage` is for messages; of one sample, `stream` gets the text as it
        is drawn, and nothing where the bank has it.

        Raises ConfigurationError, SpendRefused and ReplayMiss; what failed for good is in `failure`.
        """
        sampling = self._sampling(model, content, sampling)
        prompt = self._prompt(model, content, sampling)
        lock = self._locks.setdefault(prompt.key, asyncio.Lock())
        async with lock:
            banked = (await self._bank.get_samples([prompt.key])).get(prompt.key, ())
            present = {sample.index: sample for sample in banked if sample.index < n}
            missing = [index for index in range(n) if index not in present]
            if not missing:
                prompt = replace(prompt, prompt_tokens=await self._known_prompt_tokens(prompt.key))
                return self._complete(prompt, present)
            if self._clients is None:
                miss = ReplayMiss(
                    f"stage {stage!r}: the bank has {len(present)} of the {n} samples of {model!r} for "
                    f"prompt {prompt.key}; run without --replay, or attach a bank that has them"
                )
                miss.available = missing[0]
                raise miss
            if prompt.key in self._refused:
                return self._complete(prompt, present, _Drawing(prompt, failure=self._refused[prompt.key]))
            drawing = _Drawing(prompt, stage, stream=stream if n == 1 else None)
            return await self._fill(drawing, model, content, sampling, present, missing)

    def take_textless(self) -> dict[tuple[str, str], Textless]:
        """Return the answers without a text since the last call, by stage and model."""
        textless, self._textless = self._textless, {}
        return textless

    async def _known_prompt_tokens(self, key: str) -> int | None:
        if key not in self._prompt_tokens:
            banked = await self._bank.get_prompt(key)
            if banked is None:
                return None  # it may be drawn yet
            self._keep_prompt_tokens(key, banked.prompt_tokens)
        return self._prompt_tokens[key]

    def _keep_prompt_tokens(self, key: str, tokens: int | None) -> None:
        if len(self._prompt_tokens) > _MOST_PROMPTS:
            self._prompt_tokens.clear()  # the bank has them
        self._prompt_tokens[key] = tokens

    async def _fill(
        self,
        drawing: _Drawing,
        model: str,
        content: Content,
        sampling: SamplingSpec,
        present: dict[int, Sample],
        missing: Sequence[int],
    ) -> Samples:
        """Draw the missing indices, in as many requests at once as the server's largest n asks for.

        What a round of requests did not bring is drawn in the next, until all are there or one has failed.
        """
        while missing and drawing.failure is None:
            size = min(filter(None, (self._models[model].max_n, self._most_n.get(model), len(missing))))
            parts = [missing[i : i + size] for i in range(0, len(missing), size)]
            draws = [self._draw_part(drawing, model, content, sampling, part) for part in parts]
            if len(draws) == 1:
                await draws[0]
            else:
                for ending in await asyncio.gather(*draws, return_exceptions=True):
                    if ending is not None:
                        raise ending
            missing = [index for index in missing if index not in drawing.samples]
        present.update(drawing.samples)
        return self._complete(drawing.prompt, present, drawing)

    async def _draw_part(
        self,
        drawing: _Drawing,
        model: str,
        content: Content,
        sampling: SamplingSpec,
        indices: Sequence[int],
    ) -> None:
        """One request for these indices; what it brings is banked, why it brings nothing is kept."""
        assert self._clients is not None
        prompt, bill, n = drawing.prompt, Bill(), len(indices)
        window = self._models[model].context_length
        bounds = (
            prompt_tokens_bound(prompt.content, window),
            generated_tokens_bound(sampling, window),
        )
        try:
            async with reserved(self._gate, model, bounds, n, bill):
                draw = await self._clients.draw(
                    model, content, sampling, n, first=indices[0], bill=bill, stream=drawing.stream
                )
        except BaseException as error:
            drawing.calls += bill.calls
            await enter(self._bank, self._run_id, prompt, (), bill, bounds)
            if not isinstance(error, DrawFailed):
                raise
            drawing.failure = error
            if isinstance(error, PromptRefused):
                if len(self._refused) > _MOST_PROMPTS:
                    self._refused.clear()  # they are asked once more
                self._refused[prompt.key] = error
            return
        if draw.most_n is not None:
            self._most_n[model] = draw.most_n
        if draw.prompt_tokens is not None:
            drawing.prompt = replace(prompt, prompt_tokens=draw.prompt_tokens)
            self._keep_prompt_tokens(prompt.key, draw.prompt_tokens)
        if draw.missing:
            textless = self._textless.setdefault((drawing.stage, model), Textless())
            textless.n += len(draw.missing)
            textless.cut += draw.missing_cut
            textless.reasons.update(draw.missing)
        drawn = [
            sample_of(prompt.key, index, sample, draw, self._run_id)
            for index, sample in zip(indices, draw.samples, strict=False)
        ]
        if not drawn:
            drawing.failure = DrawFailed(f"model {model!r}: {draw.missing[0]}", transient=False)
        drawing.calls += bill.calls
        await enter(self._bank, self._run_id, drawing.prompt, drawn, bill, bounds)
        end_if_cancelled()
        drawing.samples.update((sample.index, sample) for sample in drawn)

    def _complete(
        self,
        prompt: Prompt,
        present: Mapping[int, Sample],
        drawing: _Drawing | None = None,
    ) -> Samples:
        tokens = prompt.prompt_tokens
        drawing = drawing or _Drawing(prompt)
        n_drawn = len(drawing.samples)
        return Samples(
            prompt=prompt,
            samples=tuple(present[index] for index in sorted(present)),
            prompt_tokens=estimated_tokens(prompt.content) if tokens is None else tokens,
            n_drawn=n_drawn,
            n_reused=len(present) - n_drawn,
            calls=drawing.calls,
            failure=drawing.failure,
        )


@dataclass(slots=True)
class _Drawing:
    """What the requests for one prompt have brought so far."""

    prompt: Prompt
    stage: str = ""
    stream: TextStream | None = None
    samples: dict[int, Sample] = field(default_factory=dict)
    calls: int = 0
    failure: DrawFailed | None = None
