"""Samples for a prompt, from the bank first: only indices that nobody has drawn yet are drawn, and once.

Samples are nested: n samples are the indices 0 to n-1. Whoever asks for the same prompt at the same time
waits for the same draw, and a sample counts as drawn when the store has it on disk. What becomes of the texts
is the runtime's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from weakref import WeakValueDictionary

from datastore.keys import make_prompt, well_formed
from datastore.records import Payment, Prompt, Sample
from pipelines.content import Content
from pipelines.costs import estimated_tokens, generated_tokens_bound, prompt_tokens_bound
from pipelines.errors import DrawFailed, ReplayMiss
from pipelines.servers.billing import Bill
from pipelines.servers.clients import ModelClients
from pipelines.servers.identity import EqualTexts
from pipelines.servers.wire import Draw, PromptRefused
from pipelines.spec.pipeline import PipelineSpec, SamplingSpec
from pipelines.spec.request_fields import sent_fields


class SampleBank(Protocol):
    """What is asked of `datastore.store.Store` here."""

    async def get_samples(self, prompt_keys: Sequence[str]) -> dict[str, list[Sample]]: ...

    async def get_prompt(self, key: str) -> Prompt | None: ...

    async def put_samples(
        self, prompt: Prompt, samples: Sequence[Sample], payment: Payment | None = None
    ) -> None: ...

    async def put_payment(self, payment: Payment) -> None: ...


class Reservation(Protocol):
    """Tokens set aside for one request."""

    def settle(self, prompt_tokens: int, generated_tokens: int) -> None:
        """Replace what was set aside by what was used; called once."""


class SpendGate(Protocol):
    """Decides whether a request may be paid for."""

    async def reserve(self, model: str, prompt_tokens_bound: int, generated_tokens_bound: int) -> Reservation:
        """Set aside as many tokens as the request can use; SpendRefused when a limit leaves no room."""


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
        self._most_n: dict[str, int] = {}  # as their servers were found to limit it
        self._equal_texts = {name: EqualTexts(name) for name in spec.models}
        self._prompt_tokens: dict[str, int | None] = {}  # of the prompts met so far
        self._refused: dict[str, PromptRefused] = {}  # prompts that need not be asked again
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def prompt(self, model: str, content: Content, sampling: SamplingSpec) -> Prompt:
        """The Prompt that identifies these samples: all that is asked for, the model's own settings included.

        What a server refuses of it is no part: a replay, which asks no server, must find the samples.
        """
        return self._prompt(model, content, self._own(model, content, sampling))

    def _own(self, model: str, content: Content, sampling: SamplingSpec) -> SamplingSpec:
        return sampling if "classify" in content else self._models[model].sampled(sampling)

    def _prompt(self, model: str, content: Content, sampling: SamplingSpec) -> Prompt:
        asked = sampling.model_dump(mode="json")
        if self._sent[model] and "classify" not in content:
            asked["request"] = self._sent[model]
        return make_prompt(self._keys[model], content, asked)

    async def samples(
        self, stage: str, model: str, content: Content, sampling: SamplingSpec, n: int
    ) -> Samples:
        """Samples 0 to n-1 of a prompt. `stage` is for messages.

        Raises ConfigurationError, SpendRefused and ReplayMiss; what failed for good is in `failure`.
        """
        sampling = self._own(model, content, sampling)
        prompt = self._prompt(model, content, sampling)
        lock = self._locks.setdefault(prompt.key, asyncio.Lock())
        async with lock:
            banked = (await self._bank.get_samples([prompt.key])).get(prompt.key, ())
            have = {sample.index: sample for sample in banked if sample.index < n}
            missing = [index for index in range(n) if index not in have]
            if not missing:
                prompt = replace(prompt, prompt_tokens=await self._known_prompt_tokens(prompt.key))
                return self._complete(prompt, have)
            if self._clients is None:
                miss = ReplayMiss(
                    f"stage {stage!r}: the bank has {len(have)} of the {n} samples of {model!r} for prompt "
                    f"{prompt.key}; run without --replay, or attach a bank that has them"
                )
                miss.available = missing[0]
                raise miss
            if prompt.key in self._refused:
                return self._complete(prompt, have, _Drawing(prompt, failure=self._refused[prompt.key]))
            return await self._fill(prompt, model, content, sampling, have, missing)

    async def _known_prompt_tokens(self, key: str) -> int | None:
        if key not in self._prompt_tokens:
            banked = await self._bank.get_prompt(key)
            self._prompt_tokens[key] = None if banked is None else banked.prompt_tokens
        return self._prompt_tokens[key]

    async def _fill(
        self,
        prompt: Prompt,
        model: str,
        content: Content,
        sampling: SamplingSpec,
        have: dict[int, Sample],
        missing: Sequence[int],
    ) -> Samples:
        """Draw the missing indices, in as many requests at once as the server's largest n asks for.

        What a round of requests did not bring is drawn in the next, until all are there or one has failed.
        """
        drawing = _Drawing(prompt)
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
        have.update(drawing.samples)
        samples = self._complete(drawing.prompt, have, drawing)
        equal = self._equal_texts[model].add([s.text for s in samples.samples], sampling.temperature)
        if equal is not None:
            assert self._clients is not None
            self._clients.tell(equal)
        return samples

    async def _draw_part(
        self,
        drawing: _Drawing,
        model: str,
        content: Content,
        sampling: SamplingSpec,
        indices: Sequence[int],
    ) -> None:
        """One request for these indices; what it brings is banked, why it brings nothing is kept."""
        prompt, bill = drawing.prompt, Bill()
        window = self._models[model].context_length
        bounds = (
            prompt_tokens_bound(prompt.content, window),
            generated_tokens_bound(sampling, window),
        )
        try:
            draw = await self._reserved_draw(bill, bounds, model, content, sampling, indices)
        except BaseException as error:
            await self._pay(drawing, bill, bounds)
            if not isinstance(error, DrawFailed):
                raise
            drawing.failure = error
            if isinstance(error, PromptRefused):
                self._refused[prompt.key] = error
            return
        if draw.most_n is not None:
            self._most_n[model] = draw.most_n
        if draw.prompt_tokens is not None:
            drawing.prompt = replace(prompt, prompt_tokens=draw.prompt_tokens)
            self._prompt_tokens[prompt.key] = draw.prompt_tokens
        drawn = [
            Sample(
                prompt_key=prompt.key,
                index=index,
                text=well_formed(sample.text),
                generated_tokens=sample.generated_tokens,
                mean_logprob=sample.mean_logprob,
                finish_reason=sample.finish_reason,
                run_id=self._run_id,
                request_id=draw.request_id,
            )
            for index, sample in zip(indices, draw.samples, strict=False)
        ]
        if not drawn:
            why = draw.missing[0] if draw.missing else "an answer without choices"
            drawing.failure = DrawFailed(f"model {model!r}: {why}", transient=False)
        await self._pay(drawing, bill, bounds, drawn)
        drawing.samples.update((sample.index, sample) for sample in drawn)

    def _complete(
        self,
        prompt: Prompt,
        have: Mapping[int, Sample],
        drawing: _Drawing | None = None,
    ) -> Samples:
        tokens = prompt.prompt_tokens
        drawing = drawing or _Drawing(prompt)
        n_drawn = len(drawing.samples)
        return Samples(
            prompt=prompt,
            samples=tuple(have[index] for index in sorted(have)),
            prompt_tokens=estimated_tokens(prompt.content) if tokens is None else tokens,
            n_drawn=n_drawn,
            n_reused=len(have) - n_drawn,
            calls=drawing.calls,
            failure=drawing.failure,
        )

    async def _reserved_draw(
        self,
        bill: Bill,
        bounds: tuple[int, int],
        model: str,
        content: Content,
        sampling: SamplingSpec,
        indices: Sequence[int],
    ) -> Draw:
        """One request, its tokens reserved before and settled after, whatever came of it."""
        assert self._clients is not None
        n, reservation = len(indices), None
        if self._gate is not None:
            reservation = await self._gate.reserve(model, bounds[0], n * bounds[1])
        try:
            return await self._clients.draw(model, content, sampling, n, first=indices[0], bill=bill)
        finally:
            if reservation is not None:
                reservation.settle(
                    bill.prompt_tokens_within(bounds[0]), bill.generated_tokens_within(bounds[1])
                )

    async def _pay(
        self, drawing: _Drawing, bill: Bill, bounds: tuple[int, int], drawn: Sequence[Sample] = ()
    ) -> None:
        """Enter a draw's bill in the run's ledger, together with the samples that it brought."""
        prompt, payment = drawing.prompt, None
        drawing.calls += bill.calls
        if self._run_id is not None and bill.calls:
            payment = Payment(
                run_id=self._run_id,
                model_key=prompt.model_key,
                prompt_key=prompt.key,
                calls=bill.calls,
                samples_drawn=len(drawn),
                prompt_tokens=bill.prompt_tokens_within(bounds[0]),
                generated_tokens=bill.generated_tokens_within(bounds[1]),
            )
        if drawn:
            await self._bank.put_samples(prompt, drawn, payment)
        elif payment is not None:
            await self._bank.put_payment(payment)


@dataclass(slots=True)
class _Drawing:
    """What the requests for one prompt have brought so far."""

    prompt: Prompt
    samples: dict[int, Sample] = field(default_factory=dict)
    calls: int = 0
    failure: DrawFailed | None = None
