"""Prompts and samples in the form of OpenTelemetry's conventions, for who asks for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from agenttts.blocking import run_blocking
from agenttts.errors import UserError
from datastore.records import Sample
from datastore.store import Store


class Content:
    """What the bank has of prompts.

    Args:
        store: The database, open for reading.

    Raises:
        UserError: It is being written, and what can be read meanwhile has no prompts and samples.
    """

    def __init__(self, store: Store) -> None:
        if store.as_of is not None:
            raise UserError(
                f"{store.path}: prompts and samples can be read when the search or service that writes it "
                "has ended; export then, or leave --content out"
            )
        self._store = store

    def attributes(self, prompt_key: str, n_samples: int) -> dict[str, str]:
        """Return messages and answers as attributes of a span; none where the bank has the prompt no more.

        Args:
            prompt_key: The prompt.
            n_samples: How many of its samples were used, the first ones.
        """
        prompt, samples = run_blocking(self._read(prompt_key))
        if prompt is None:
            return {}
        outputs = [
            {
                "role": "assistant",
                "parts": [{"type": "text", "content": sample.text}],
                "finish_reason": sample.finish_reason,
            }
            for sample in samples[:n_samples]
        ]
        return {
            "gen_ai.input.messages": json.dumps(_messages(json.loads(prompt)), ensure_ascii=False),
            "gen_ai.output.messages": json.dumps(outputs, ensure_ascii=False),
        }

    async def _read(self, prompt_key: str) -> tuple[str | None, Sequence[Sample]]:
        prompt = await self._store.get_prompt(prompt_key)
        samples = await self._store.get_samples([prompt_key])
        return None if prompt is None else prompt.content, samples[prompt_key]


def _messages(content: Mapping[str, object]) -> list[dict[str, object]]:
    messages = content.get("messages")
    if not isinstance(messages, list):
        messages = [{"role": "user", "content": content.get("prompt") or content.get("classify") or ""}]
    return [
        {"role": message["role"], "parts": [{"type": "text", "content": message["content"]}]}
        for message in messages
    ]
