"""Tokens that a server's usage lacks, or gives wrongly: counted by /tokenize where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from pipelines.servers.wire import Ask, Draw, Negotiated

Count = Callable[[str, Mapping[str, Any]], Awaitable[int | None]]


class Usage:
    """Completes draws whose tokens the server did not count. Told once for each model.

    Args:
        count: Tokens of a content for a model's name in requests; None where the server does not count.
        tell: Called with what a user should know.
    """

    def __init__(self, count: Count, tell: Callable[[Negotiated], None]) -> None:
        self._count = count
        self._tell = tell
        self._counts = True  # until the server turns out not to
        self._reported: set[str] = set()

    async def completed(self, ask: Ask, draw: Draw) -> Draw:
        """The draw with counted tokens where they can be counted, else as it is."""
        content = {name: part for name, part in ask.content.items() if name in ("messages", "prompt")}
        if not content:
            return draw  # a classifier's
        counted = False
        if self._counts and draw.prompt_tokens is None:
            draw = replace(draw, prompt_tokens=await self._count(ask.served_name, content))
            self._counts = counted = draw.prompt_tokens is not None
        if self._counts and draw.estimated:
            texts = [{"prompt": sample.text, "add_special_tokens": False} for sample in draw.samples]
            counts = await asyncio.gather(*(self._count(ask.served_name, text) for text in texts))
            known = [count + 1 for count in counts if count is not None]  # and the token that ends a text
            if len(known) == len(texts):
                samples = tuple(
                    replace(sample, generated_tokens=count)
                    for sample, count in zip(draw.samples, known, strict=True)
                )
                draw, counted = replace(draw, samples=samples, estimated=bool(draw.missing)), True
        if ask.served_name not in self._reported:
            self._reported.add(ask.served_name)
            self._tell(_notice(ask.served_name, counted))
        return draw


def _notice(model: str, counted: bool) -> Negotiated:
    instead = "/tokenize counts in its place" if counted else "lengths of texts stand in"
    return Negotiated(
        model=model,
        field="usage",
        action="counted" if counted else "estimated",
        consequence=f"the server's count of tokens is absent or can't be right; {instead}, and the "
        "ledger and its limits take the most that a request can use for what is not counted",
        warning=not counted,
    )
