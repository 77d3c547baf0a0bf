"""Asking the agent's endpoint, through the sample bank, so that no question is paid for twice.

An answer is a Sample of a Prompt whose model key is `agent:` and the model's name. A server that refuses
structured output (400) is asked for plain JSON from then on. The key stays in the client: it is neither
stored nor in messages. What to ask, and what an answer means, is left to `agent`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import openai

from agenttts.proposers.choice import AgentSettings
from datastore.keys import make_prompt
from datastore.records import Prompt, Sample
from datastore.store import Store
from pipelines.costs import estimated_tokens, prompt_tokens_bound
from pipelines.sampler import SpendGate

logger = logging.getLogger(__name__)

_RETRIES = 2
_LONGEST_ANSWER = 200_000  # characters


class EndpointFailed(Exception):
    """No answer after retries. The message holds neither the key nor the prompt."""


class _SchemaRefused(Exception):
    """The server does not take this response format."""


class AgentChat:
    """One endpoint and one model. `run_id`: the run that pays (None: none does). `gate`: None limits nothing.
    In a replay only the bank answers.

    Raises SpendRefused when a limit leaves no room for a question.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        store: Store,
        run_id: str | None,
        gate: SpendGate | None,
        replay: bool = False,
    ) -> None:
        self.model_key = f"agent:{settings.model}"
        self._settings = settings
        self._store = store
        self._run_id = run_id
        self._gate = gate
        self._replay = replay
        self._structured = True
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=settings.api_key or "none",
            timeout=settings.timeout_s,
            max_retries=_RETRIES,
        )

    async def ask(self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> str:
        """The answer's text, from the bank where it is there. EndpointFailed when there is none to be had."""
        prompts = {structured: self._prompt(messages, structured) for structured in (True, False)}
        banked = await self._store.get_samples([prompt.key for prompt in prompts.values()])
        for structured, prompt in prompts.items():
            if banked[prompt.key]:
                self._structured = structured
                return banked[prompt.key][0].text
        if self._replay:
            raise EndpointFailed("a replay asks no agent, and the bank has no answer to this question")
        if self._structured:
            try:
                return await self._draw(prompts[True], messages, schema)
            except _SchemaRefused:
                logger.info("the agent's server takes no JSON schema: asked for plain JSON from now on")
                self._structured = False
        return await self._draw(prompts[False], messages, None)

    async def aclose(self) -> None:
        await self._client.close()

    def _prompt(self, messages: Sequence[Mapping[str, str]], structured: bool) -> Prompt:
        sampling = {
            "max_tokens": self._settings.max_tokens,
            "response_format": "json_schema" if structured else "text",
        }
        return make_prompt(self.model_key, {"messages": [dict(m) for m in messages]}, sampling)

    async def _draw(
        self, prompt: Prompt, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any] | None
    ) -> str:
        reservation = None
        if self._gate is not None:
            bound = prompt_tokens_bound(prompt.content, None)
            reservation = await self._gate.reserve(self.model_key, bound, self._settings.max_tokens)
        prompt_tokens = generated_tokens = 0
        try:
            answer = await self._answer(messages, schema)
            text, finish_reason = _choice(answer)
            usage = answer.get("usage") or {}
            prompt_tokens = int(usage.get("prompt_tokens") or estimated_tokens(prompt.content))
            generated_tokens = int(usage.get("completion_tokens") or estimated_tokens(text))
        finally:
            if reservation is not None:
                reservation.settle(prompt_tokens, generated_tokens)
        sample = Sample(
            prompt_key=prompt.key,
            index=0,
            text=text,
            generated_tokens=generated_tokens,
            mean_logprob=None,
            finish_reason=finish_reason,
            run_id=self._run_id,
            request_id=None,
        )
        await self._store.put_samples(replace(prompt, prompt_tokens=prompt_tokens), [sample])
        return text

    async def _answer(
        self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        body: dict[str, Any] = {"max_tokens": self._settings.max_tokens}
        if schema is not None:
            named = {"name": "turn", "strict": True, "schema": dict(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        try:
            found = await self._client.chat.completions.create(
                model=self._settings.model,
                messages=[dict(m) for m in messages],  # type: ignore[misc]
                **body,
            )
            return found.to_dict()
        except openai.BadRequestError as error:
            if schema is not None:
                raise _SchemaRefused from error
            raise EndpointFailed("the agent's endpoint refuses the request (400)") from error
        except openai.APIStatusError as error:
            raise EndpointFailed(f"the agent's endpoint answers with status {error.status_code}") from error
        except openai.APIConnectionError as error:
            raise EndpointFailed(f"the agent's endpoint does not answer ({type(error).__name__})") from error
        except Exception as error:
            raise EndpointFailed(f"the agent's endpoint answers garbage ({type(error).__name__})") from error


def _choice(answer: Mapping[str, Any]) -> tuple[str, str]:
    try:
        choice = answer["choices"][0]
        text, finish_reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise EndpointFailed("the agent's endpoint answers without a choice") from error
    if not isinstance(text, str) or not text.strip():
        raise EndpointFailed("the agent's endpoint answers with an empty text")
    return text[:_LONGEST_ANSWER], str(finish_reason or "stop")
