"""Draws that a search awaits from its client processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.errors import ConfigurationError, DrawFailed, PipelineError, ServerDown, ServerError
from pipelines.runtime.spool import DrawAnswer, DrawRequest
from pipelines.servers.billing import Bill
from pipelines.servers.wire import ContextOverflow, Draw, PromptRefused

_BY_NAME = {kind.__name__: kind for kind in (PromptRefused, ContextOverflow, ServerDown, ConfigurationError)}


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class PendingDraw:
    """A request that is not answered yet.

    Attributes:
        request: The request.
        bill: Gets what the server bills.
        draw: Gets the draw, or the error.
    """

    request: DrawRequest
    bill: Bill
    draw: asyncio.Future[Draw]

    async def result(self) -> Draw:
        """Return the draw, or raise the error, once the request is answered."""
        return await self.draw

    def take(self, answer: DrawAnswer) -> None:
        """Add the bill of an answer, and pass its draw or its error on to who awaits it, if anybody does."""
        self.bill.include(answer.bill)
        if self.draw.done():
            return
        if answer.draw is not None:
            self.draw.set_result(answer.draw)
        elif answer.error == "CancelledError":
            self.draw.cancel()
        else:
            self.draw.set_exception(_error(answer.error or "", answer.message))


def fail_all(draws: Iterable[PendingDraw], error: PipelineError) -> None:
    """Raise an error in all who still await one of these draws."""
    for pending in draws:
        if not pending.draw.done():
            pending.draw.set_exception(error)


def _error(name: str, message: str) -> PipelineError:
    """The error that a process had, by the name of its class."""
    if name == "DrawFailed":
        return DrawFailed(message, transient=True)
    return _BY_NAME.get(name, ServerError)(message)
