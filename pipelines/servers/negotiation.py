"""Finding out, once for each model of a server and before the crowd, on which terms it draws samples.

A field that is refused is left out, or sent otherwise, until the request is accepted; what came of it holds
for all later requests. A refusal that no field explains is judged: does it concern one prompt, or all? How a
request is sent is the caller's affair; which terms follow from a refusal is in `terms`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pipelines.errors import ConfigurationError
from pipelines.servers import refusals, terms
from pipelines.servers.refusals import Refusal
from pipelines.servers.wire import Ask, Draw, Fault, Negotiated, PromptRefused, Terms

_MOST_TERMS = 16  # requests that one negotiation may take
_RECENT_S = 10.0


class FieldRefused(Exception):
    """A field, or something unknown, is refused; on which terms the request was sent is the caller's."""

    def __init__(self, refusal: Refusal, body: Mapping[str, Any]) -> None:
        super().__init__(refusal.quoted)
        self.refusal = refusal
        self.body = body


class Negotiator:
    """Draws from one model on the terms that its server accepts.

    Args:
        where: The model and its server, for messages.
        model: The model's name in requests.
        send: Sends a request on given terms; FieldRefused when it is refused.
        tell: Called for each term that is not the usual one.
        key_env: The variable that the API key came from.
    """

    def __init__(
        self,
        where: str,
        model: str,
        send: Callable[[Ask, Terms], Awaitable[Draw]],
        tell: Callable[[Negotiated], None],
        key_env: str | None,
    ) -> None:
        self.where = where
        self.terms = Terms()
        self._model = model
        self._send = send
        self._tell = tell
        self._key_env = key_env
        self._lock = asyncio.Lock()
        self._accepted_at: dict[tuple[object, ...], float] = {}  # shapes that need not be tried alone

    async def draw(self, ask: Ask) -> Draw:
        """One try on the terms that are known, or, of a shape that was not tried yet, on any."""
        shape = ask.shape
        if shape not in self._accepted_at:
            async with self._lock:
                if shape not in self._accepted_at:
                    return await self._first(ask, shape)
        known = self.terms
        try:
            return await self._sent(ask, known)
        except FieldRefused as refused:
            async with self._lock:
                if self.terms is known:
                    return await self._negotiate(ask, refused)
        return await self.draw(ask)

    async def probe(self, ask: Ask) -> None:
        """Ask for one sample of a prompt that does no harm; raises as `draw` does."""
        await self._sent(replace(ask, content=_harmless(ask.content), n=1, stream=None), self.terms)

    async def _first(self, ask: Ask, shape: tuple[object, ...]) -> Draw:
        """A try while all others of its shape wait, so that refusals are met by this one alone."""
        try:
            return await self._sent(ask, self.terms)
        except FieldRefused as refused:
            return await self._negotiate(ask, refused)
        except Fault as fault:
            if fault.kind != "overload":
                self._accepted_at[shape] = -math.inf
            raise

    async def _negotiate(self, ask: Ask, refused: FieldRefused) -> Draw:
        """Change the terms until the request is accepted; what helped is kept and reported.

        Where a change makes no difference to the server's words it is taken back before the next is tried,
        and at last all that the words name are made at once.
        """
        first_words, changes = refused, list[tuple[terms.Change, str]]()
        current, n_sent = self.terms, 0
        while n_sent < _MOST_TERMS:
            self._raise_if_final(ask, refused)
            options = list(terms.changes(refused.refusal, refused.body, current))
            if not options:
                break
            for change in options:
                n_sent += 1
                outcome = await self._tried(ask, change.terms)
                if isinstance(outcome, Draw):
                    return self._accepted([*changes, (change, refused.refusal.quoted)], outcome)
                if len(options) == 1 or not terms.same_words(outcome.refusal, refused.refusal):
                    changes.append((change, refused.refusal.quoted))
                    current, refused = change.terms, outcome
                    break
            else:
                n_sent += 1
                together = terms.together(refused.refusal, refused.body, current)
                changes += [(change, refused.refusal.quoted) for change in together]
                current = together[-1].terms
                outcome = await self._tried(ask, current)
                if isinstance(outcome, Draw):
                    return self._accepted(changes, outcome)
                refused = outcome
        return await self._judged(ask, first_words)

    async def _sent(self, ask: Ask, agreed: Terms) -> Draw:
        draw = await self._send(ask, agreed)
        self._accepted_at[ask.shape] = time.monotonic()
        return draw if agreed.most_n is None else replace(draw, most_n=agreed.most_n)

    async def _tried(self, ask: Ask, other: Terms) -> Draw | FieldRefused:
        try:
            return await self._sent(ask, other)
        except FieldRefused as refused:
            return refused

    def _raise_if_final(self, ask: Ask, refused: FieldRefused) -> None:
        """ConfigurationError where the user's own field, or a value, is what the server refuses."""
        where, words = self.where, refused.refusal.status_and_words
        own = terms.refused_field(refused.refusal, ask.fields, refused.body)
        if own is not None:
            raise ConfigurationError(
                f"{where}: the server refuses {own} ({words}), which the model's request sets; correct it, "
                "or leave it out"
            )
        value = terms.value_refused(refused.refusal, refused.body)
        if value is not None:
            raise ConfigurationError(
                f"{where}: the server refuses {value} = {refused.body[value]!r} ({words}); correct it in "
                "sampling, of the stage or of the model"
            )

    def _accepted(self, changes: list[tuple[terms.Change, str]], draw: Draw) -> Draw:
        self.terms = changes[-1][0].terms
        by_field = {change.field: change.negotiated(self._model, words) for change, words in changes}
        for negotiated in by_field.values():
            self._tell(negotiated)
        return replace(draw, most_n=self.terms.most_n)

    async def _judged(self, ask: Ask, refused: FieldRefused) -> Draw:
        """For a refusal that no field explains: does it concern this prompt, or all?

        The prompt alone where others are answered, or a request of the same shape with a harmless prompt is.
        Else it is tried without what servers most often lack.
        """
        where, refusal = self.where, refused.refusal
        if refusals.concerns_all(refusal):
            raise refusals.unexplained(refusal, where, self._key_env)
        if time.monotonic() - self._accepted_at.get(ask.shape, -math.inf) > _RECENT_S:
            probe: Draw | None = None
            with suppress(FieldRefused, PromptRefused):
                harmless = replace(ask, content=_harmless(ask.content), stream=None)
                probe = await self._sent(harmless, self.terms)
            if probe is None:
                return await self._guessed(ask, refused)
        raise PromptRefused(refusal.message(where, "the prompt is refused"))

    async def _guessed(self, ask: Ask, refused: FieldRefused) -> Draw:
        if refused.refusal.status in (400, 422, 501):
            for change in terms.guesses(refused.body, self.terms):
                outcome = await self._tried(ask, change.terms)
                if isinstance(outcome, Draw):
                    return self._accepted([(change, refused.refusal.quoted)], outcome)
        raise refusals.unexplained(refused.refusal, self.where, self._key_env)


def _harmless(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with prompts that no filter refuses, and that fit any context."""
    text = "Answer with the JSON {}." if "response_format" in content else "Answer with OK."
    if "messages" not in content:
        return {**content, "prompt" if "prompt" in content else "classify": text}
    return {**content, "messages": [{**message, "content": text} for message in content["messages"]]}
