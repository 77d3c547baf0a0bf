"""Asking the agent's endpoint, through the sample bank, so that no question is paid for twice.

An answer is a Sample of a Prompt whose model key is `agent:` and the model's name. A server that refuses
structured output (400) is asked for plain JSON from then on. The key stays in the client: it is neither
stored nor in messages. What to ask, and what an answer means, is left to `agent`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
    """One endpoint and one model.

    Args:
        settings: The endpoint.
        store: Where answers are banked.
        run_id: The run that pays. None: none does.
        gate: Asked before every question that costs something; raises SpendRefused when a limit leaves no
            room. None: nothing is limited.
        replay: Only the bank answers.
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
        import openai

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

    async def ask(self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, object]) -> str:
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
        """Close the connections."""
        await self._client.close()

    def _prompt(self, messages: Sequence[Mapping[str, str]], structured: bool) -> Prompt:
        sampling = {
            "max_tokens": self._settings.max_tokens,
            "response_format": "json_schema" if structured else "text",
        }
        return make_prompt(self.model_key, {"messages": [dict(m) for m in messages]}, sampling)

    async def _draw(
        self, prompt: Prompt, messages: Sequence[Mapping[str, str]], schema: Mapping[str, object] | None
    ) -> str:
        reservation = None
        if self._gate is not None:
            bound = prompt_tokens_bound(prompt.content, None)
            reservation = await self._gate.reserve(self.model_key, bound, self._settings.max_tokens)
        prompt_tokens = generated_tokens = 0
        try:
            reply = _reply(await self._answer(messages, schema))
            prompt_tokens = reply.prompt_tokens or estimated_tokens(prompt.content)
            generated_tokens = reply.generated_tokens or estimated_tokens(reply.text)
        finally:
            if reservation is not None:
                reservation.settle(prompt_tokens, generated_tokens)
        sample = Sample(
            prompt_key=prompt.key,
            index=0,
            text=reply.text,
            generated_tokens=generated_tokens,
            mean_logprob=None,
            finish_reason=reply.finish_reason,
            run_id=self._run_id,
            request_id=None,
        )
        await self._store.put_samples(replace(prompt, prompt_tokens=prompt_tokens), [sample])
        return reply.text

    async def _answer(
        self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, object] | None
    ) -> Mapping[str, object]:
        import openai

        named = {"name": "turn", "strict": True, "schema": schema}
        form = {"type": "json_schema", "json_schema": named}
        try:
            completion = await self._client.chat.completions.create(
                model=self._settings.model,
                messages=[dict(m) for m in messages],  # type: ignore[misc]
                max_tokens=self._settings.max_tokens,
                response_format=openai.omit if schema is None else form,  # type: ignore[arg-type]
            )
            return completion.to_dict()
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


@dataclass(frozen=True, kw_only=True)
class _Reply:
    """What an endpoint answers. Tokens: None where it does not count them."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    generated_tokens: int | None


def _reply(answer: Mapping[str, object]) -> _Reply:
    """The first choice of a chat completion. EndpointFailed when there is none, or when it has no text."""
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, Mapping) else None
    if not isinstance(first, Mapping) or not isinstance(message, Mapping):
        raise EndpointFailed("the agent's endpoint answers without a choice")
    text, usage = message.get("content"), answer.get("usage")
    if not isinstance(text, str) or not text.strip():
        raise EndpointFailed("the agent's endpoint answers with an empty text")
    counts = usage if isinstance(usage, Mapping) else {}
    return _Reply(
        text=text[:_LONGEST_ANSWER],
        finish_reason=str(first.get("finish_reason") or "stop"),
        prompt_tokens=_count(counts.get("prompt_tokens")),
        generated_tokens=_count(counts.get("completion_tokens")),
    )


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None
