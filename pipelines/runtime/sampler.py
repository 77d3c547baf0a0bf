"""Samples for a prompt, from the bank first: only indices that nobody has drawn yet are drawn, and once.

Samples are nested: n samples are the indices 0 to n-1. Whoever asks for the same prompt at the same time
waits for the same draw, and a sample counts as drawn when the store has it on disk. What becomes of the texts
is the runtime's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from weakref import WeakValueDictionary

from datastore.keys import make_prompt, well_formed
from datastore.records import Prompt, Sample
from pipelines.content import Content
from pipelines.costs import estimated_tokens, prompt_tokens_bound
from pipelines.errors import DrawFailed, ReplayMiss
from pipelines.servers.clients import ModelClients
from pipelines.servers.wire import Draw
from pipelines.spec.pipeline import PipelineSpec, SamplingSpec


class SampleBank(Protocol):
    """What is asked of `datastore.store.Store` here."""

    async def get_samples(self, prompt_keys: Sequence[str]) -> dict[str, list[Sample]]: ...

    async def get_prompt(self, key: str) -> Prompt | None: ...

    async def put_samples(self, prompt: Prompt, samples: Sequence[Sample]) -> None: ...


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

    samples: indices 0 to n-1 in order; fewer when `failure` says why the rest could not be drawn.
    prompt_tokens: as the server counted them, else an estimate from the length.
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
        self._prompt_tokens: dict[str, int | None] = {}  # of the prompts met so far
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def prompt(self, model: str, content: Content, sampling: SamplingSpec) -> Prompt:
        """The Prompt that identifies these samples."""
        return make_prompt(self._keys[model], content, sampling.model_dump(mode="json"))

    async def samples(
        self, stage: str, model: str, content: Content, sampling: SamplingSpec, n: int
    ) -> Samples:
        """Samples 0 to n-1 of a prompt. `stage` is for messages.

        Raises ConfigurationError, SpendRefused and ReplayMiss; what failed for good is in `failure`.
        """
        prompt = self.prompt(model, content, sampling)
        lock = self._locks.setdefault(prompt.key, asyncio.Lock())
        async with lock:
            banked = (await self._bank.get_samples([prompt.key])).get(prompt.key, ())
            have = {sample.index: sample for sample in banked if sample.index < n}
            missing = [index for index in range(n) if index not in have]
            if not missing:
                prompt = replace(prompt, prompt_tokens=await self._known_prompt_tokens(prompt.key))
                return self._complete(prompt, have, 0, 0, None)
            if self._clients is None:
                miss = ReplayMiss(
                    f"stage {stage!r}: the bank has {len(have)} of the {n} samples of {model!r} for prompt "
                    f"{prompt.key}; run without --replay, or attach a bank that has them"
                )
                miss.available = missing[0]
                raise miss
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
        """Draw the missing indices, in as many requests at once as the server's largest n asks for."""
        size = self._models[model].max_n or len(missing)
        parts = [_Part(indices=missing[i : i + size]) for i in range(0, len(missing), size)]
        draws = [self._draw_part(prompt, model, content, sampling, part) for part in parts]
        if len(draws) == 1:
            await draws[0]
        else:
            for ending in await asyncio.gather(*draws, return_exceptions=True):
                if ending is not None:
                    raise ending
        for part in parts:
            have.update((sample.index, sample) for sample in part.samples)
            if part.prompt_tokens is not None:
                prompt = replace(prompt, prompt_tokens=part.prompt_tokens)
                self._prompt_tokens[prompt.key] = part.prompt_tokens
        n_drawn = sum(len(part.samples) for part in parts)
        failure = next((part.failure for part in parts if part.failure is not None), None)
        return self._complete(prompt, have, n_drawn, sum(part.calls for part in parts), failure)

    async def _draw_part(
        self, prompt: Prompt, model: str, content: Content, sampling: SamplingSpec, part: _Part
    ) -> None:
        """Draw and bank until the part is whole, or a request has failed for good."""
        while len(part.samples) < len(part.indices):
            rest = part.indices[len(part.samples) :]
            try:
                draw = await self._paid_draw(prompt, model, content, sampling, len(rest))
            except DrawFailed as failure:
                part.failure = failure
                return
            part.calls += 1
            if draw.prompt_tokens is not None:
                part.prompt_tokens = draw.prompt_tokens
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
                for index, sample in zip(rest, draw.samples, strict=False)
            ]
            await self._bank.put_samples(replace(prompt, prompt_tokens=part.prompt_tokens), drawn)
            part.samples += drawn

    def _complete(
        self, prompt: Prompt, have: dict[int, Sample], n_drawn: int, calls: int, failure: DrawFailed | None
    ) -> Samples:
        tokens = prompt.prompt_tokens
        return Samples(
            prompt=prompt,
            samples=tuple(have[index] for index in sorted(have)),
            prompt_tokens=estimated_tokens(prompt.content) if tokens is None else tokens,
            n_drawn=n_drawn,
            n_reused=len(have) - n_drawn,
            calls=calls,
            failure=failure,
        )

    async def _paid_draw(
        self, prompt: Prompt, model: str, content: Content, sampling: SamplingSpec, n: int
    ) -> Draw:
        """One request, its tokens reserved before and settled after."""
        assert self._clients is not None
        if self._gate is None:
            return await self._clients.draw(model, content, sampling, n)
        bound = prompt_tokens_bound(prompt.content, self._models[model].context_length)
        reservation = await self._gate.reserve(model, bound, n * sampling.max_tokens)
        try:
            draw = await self._clients.draw(model, content, sampling, n)
        except BaseException:
            reservation.settle(0, 0)
            raise
        generated_tokens = sum(sample.generated_tokens for sample in draw.samples)
        reservation.settle(bound if draw.prompt_tokens is None else draw.prompt_tokens, generated_tokens)
        return draw


@dataclass(kw_only=True, slots=True)
class _Part:
    """Some indices of a prompt that one request is to bring, or several when a server answers with fewer."""

    indices: Sequence[int]
    samples: list[Sample] = field(default_factory=list)
    calls: int = 0
    prompt_tokens: int | None = None
    failure: DrawFailed | None = None
