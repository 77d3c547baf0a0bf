"""Asking an LLM for JSON, through the sample bank: what was asked before is not asked again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jsonschema

from agenttts.errors import UserError
from agenttts.llm import AgentChat, EndpointFailed
from agenttts.proposers import AgentSettings
from datastore.store import Store
from pipelines.jsonvalues import first_value

AT_ONCE = 8


class JsonChat:
    """One endpoint; an answer that breaks the schema is asked for once more, with what is wrong."""

    def __init__(self, settings: AgentSettings, store: Store) -> None:
        self.model = settings.model
        self._chat = AgentChat(settings, store=store, run_id=None, gate=None)
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        schema: Mapping[str, Any],
        accept: Mapping[str, Any] | None = None,
    ) -> Any:
        """The value. ValueError when the second answer breaks the schema too; UserError without an answer.

        accept: a laxer schema for what is taken, where parts are judged one by one.
        """
        asked = [dict(message) for message in messages]
        async with self._slots:
            for attempt in range(2):
                try:
                    text = await self._chat.ask(asked, schema)
                except EndpointFailed as error:
                    raise UserError(
                        f"{error}; run the same command again, what was answered is kept"
                    ) from None
                try:
                    value = first_value(text)
                    jsonschema.validate(value, accept or schema)
                    return value
                except (ValueError, jsonschema.ValidationError) as error:
                    problem = getattr(error, "message", str(error))
                    if attempt:
                        raise ValueError(f"malformed answer: {problem:.200}") from None
                    repair = f"Not of the form asked for: {problem:.200}. Answer again, JSON only."
                    asked += [{"role": "assistant", "content": text}, {"role": "user", "content": repair}]
        raise AssertionError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._chat.aclose()


def require_llm(settings: AgentSettings | None, what: str, instead: str = "") -> AgentSettings:
    """The settings. UserError where there are none: `what` says who "needs", `instead` what else would do."""
    if settings is None:
        raise UserError(f"{what} an LLM: export AGENTTTS_AGENT_BASE_URL and AGENTTTS_AGENT_MODEL{instead}")
    return settings


def shown(value: Any) -> str:
    """A value as a prompt shows it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
