"""Asking an LLM through the sample bank, so that no question is paid for twice.

An answer is a Sample of a Prompt whose model key is `agent:` and the model's name. After a server has refused
structured output (400), requests to it are for plain JSON. The API key stays in the client: it is neither
stored nor in messages. `AgentChat` gives the text of an answer, `JsonChat` a value that fits a JSON schema.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias

from agenttts.errors import UserError
from datastore.keys import make_prompt
from datastore.records import Payment, Prompt, Sample
from datastore.store import Store
from pipelines.costs import estimated_tokens, prompt_tokens_bound
from pipelines.jsonvalues import JSON
from pipelines.reading.readers import json_value, required, strip_thinking
from pipelines.runtime.sampler import SpendGate

logger = logging.getLogger(__name__)

AGENT_SHARE = 1 / 3
"""The default share of the trials that an LLM proposes itself."""
AT_ONCE = 8
"""How many questions of a JsonChat are in flight at most."""
_RETRIES = 2
_LONGEST_ANSWER = 200_000  # characters

Message: TypeAlias = Mapping[str, str]
"""One message of a chat: its `role` and its `content`."""


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """An OpenAI-compatible endpoint and its model.

    Attributes:
        base_url: The endpoint's address, such as `https://api.example.org/v1`.
        model: The name that the endpoint knows the model by.
        api_key: The key that the endpoint asks for; None sends none. It is neither stored nor printed.
        timeout_s: How long an answer may take, in seconds.
        max_tokens: The longest answer.
        share: The share of a search's trials that the LLM proposes itself, above 0 to 1. The solver proposes
            the others.

    Raises:
        UserError: The share is out of range.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0
    max_tokens: int = 4096
    share: float = AGENT_SHARE

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(f"the agent's share of the trials is above 0 and at most 1, got {self.share}")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> AgentSettings | None:
        """Read AGENTTTS_AGENT_BASE_URL, AGENTTTS_AGENT_MODEL and AGENTTTS_AGENT_API_KEY.

        Args:
            environ: The environment variables.

        Returns:
            The settings, or None when there is no address.

        Raises:
            UserError: There is an address without a model.
        """
        base_url = environ.get("AGENTTTS_AGENT_BASE_URL")
        if not base_url:
            return None
        model = environ.get("AGENTTTS_AGENT_MODEL")
        if not model:
            raise UserError(
                "AGENTTTS_AGENT_BASE_URL needs AGENTTTS_AGENT_MODEL beside it; export the model's name"
            )
        return cls(base_url=base_url, model=model, api_key=environ.get("AGENTTTS_AGENT_API_KEY") or None)


def require_llm(settings: AgentSettings | None, what: str, instead: str = "") -> AgentSettings:
    """Return the settings, or raise an error that says that an LLM is needed.

    Args:
        settings: The endpoint; None where none is configured.
        what: The beginning of the error message, such as `--judge needs`.
        instead: The end of the error message: what a person can do without an LLM.

    Raises:
        UserError: There are no settings.
    """
    if settings is None:
        raise UserError(f"{what} an LLM: export AGENTTTS_AGENT_BASE_URL and AGENTTTS_AGENT_MODEL{instead}")
    return settings


class EndpointFailed(Exception):
    """There is no answer after the retries. The message holds neither the key nor the prompt."""


class _SchemaRefused(Exception):
    """The server does not take this response format."""


class AgentChat:
    """One endpoint and one model that answer questions with text.

    Args:
        settings: The endpoint and its model.
        store: The sample bank, which answers are read from and written to.
        run_id: The run that pays for the answers; None where no run does.
        gate: Limits what is spent; None limits nothing.
        replay: Whether only the bank answers.

    Attributes:
        model_key: The key of the model in the bank: `agent:` and the model's name.
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
        import openai  # takes a while to import

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

    async def ask(self, messages: Sequence[Message], schema: Mapping[str, object]) -> str:
        """Return the bank's answer to a question where there is one, else ask the server.

        Args:
            messages: The chat up to the answer.
            schema: A JSON schema that the server is to follow. The answer is not checked against it.

        Returns:
            The answer's text, cut after 200,000 characters.

        Raises:
            EndpointFailed: The server gives no answer, or the bank has none in a replay.
            SpendRefused: A limit leaves no room for the question.
        """
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
                logger.info("the agent's server takes no JSON schema: further requests are for plain JSON")
                self._structured = False
        return await self._draw(prompts[False], messages, None)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _prompt(self, messages: Sequence[Message], structured: bool) -> Prompt:
        sampling = {
            "max_tokens": self._settings.max_tokens,
            "response_format": "json_schema" if structured else "text",
        }
        return make_prompt(self.model_key, {"messages": [dict(m) for m in messages]}, sampling)

    async def _draw(
        self, prompt: Prompt, messages: Sequence[Message], schema: Mapping[str, object] | None
    ) -> str:
        reservation = None
        if self._gate is not None:
            bound = prompt_tokens_bound(prompt.content, None)
            reservation = await self._gate.reserve(self.model_key, bound, self._settings.max_tokens)
        payment = None
        try:
            answer = await self._answer(messages, schema)
            payment = self._payment(prompt, answer)
        finally:
            if reservation is not None:
                used = (0, 0) if payment is None else (payment.prompt_tokens, payment.generated_tokens)
                reservation.settle(*used)
        paid = payment if self._run_id is not None else None
        try:
            text, finish_reason = _first_choice(answer)
        except EndpointFailed:
            if paid is not None:
                await self._store.put_payment(replace(paid, samples_drawn=0))
            raise
        sample = Sample(
            prompt_key=prompt.key,
            index=0,
            text=text,
            generated_tokens=payment.generated_tokens,
            mean_logprob=None,
            finish_reason=finish_reason,
            run_id=self._run_id,
            request_id=None,
        )
        prompt = replace(prompt, prompt_tokens=payment.prompt_tokens)
        await self._store.put_samples(prompt, [sample], paid)
        return text

    def _payment(self, prompt: Prompt, answer: Mapping[str, Any]) -> Payment:
        """What an answer was billed; lengths of texts stand in for tokens that the server did not count."""
        usage = answer.get("usage") or {}
        return Payment(
            run_id=self._run_id or "",
            model_key=self.model_key,
            prompt_key=prompt.key,
            calls=1,
            samples_drawn=1,
            prompt_tokens=int(usage.get("prompt_tokens") or estimated_tokens(prompt.content)),
            generated_tokens=int(usage.get("completion_tokens") or estimated_tokens(_text(answer) or "")),
        )

    async def _answer(
        self, messages: Sequence[Message], schema: Mapping[str, object] | None
    ) -> Mapping[str, Any]:
        import openai

        body: dict[str, Any] = {"max_tokens": self._settings.max_tokens}
        if schema is not None:
            named = {"name": "turn", "strict": True, "schema": dict(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        try:
            completion = await self._client.chat.completions.create(
                model=self._settings.model,
                messages=[dict(m) for m in messages],  # type: ignore[misc]
                **body,
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


class JsonChat:
    """One endpoint and one model that answer questions with JSON objects.

    No run pays for the answers, and nothing limits what is spent. Use it as `async with JsonChat(settings,
    store) as chat:`.

    Args:
        settings: The endpoint and its model.
        store: The sample bank, which answers are read from and written to.

    Attributes:
        model: The model's name.
    """

    def __init__(self, settings: AgentSettings, store: Store) -> None:
        self.model = settings.model
        self._chat = AgentChat(settings, store=store, run_id=None, gate=None)
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def ask(
        self,
        messages: Sequence[Message],
        schema: Mapping[str, JSON],
        accept: Mapping[str, JSON] | None = None,
    ) -> Mapping[str, JSON]:
        """Ask for a JSON object.

        After an answer that does not match the schema, the question is repeated once, with the error.

        Args:
            messages: The chat up to the answer.
            schema: The JSON schema of the object, sent to the server.
            accept: A laxer schema that the answer is checked against instead, where its parts are judged one
                by one; None checks it against `schema`.

        Returns:
            The object.

        Raises:
            ValueError: The second answer does not match the schema either.
            UserError: The endpoint gives no answer.
        """
        chat = [dict(message) for message in messages]
        async with self._slots:
            for attempt in range(2):
                try:
                    text = await self._chat.ask(chat, schema)
                except EndpointFailed as error:
                    raise UserError(
                        f"{error}; run the same command again, earlier answers are in the sample bank"
                    ) from None
                try:
                    value = required(json_value(required(strip_thinking(text)), accept or schema))
                    if not isinstance(value, Mapping):
                        raise ValueError("must be an object")
                    return value
                except ValueError as error:
                    if attempt:
                        raise ValueError(f"malformed answer: {error!s:.200}") from None
                    repair = f"Not of the form asked for: {error!s:.200}. Answer again, JSON only."
                    chat += [{"role": "assistant", "content": text}, {"role": "user", "content": repair}]
        raise AssertionError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._chat.aclose()


def prompt_text(value: object) -> str:
    """Format a value for a prompt.

    Args:
        value: A text, or a value that can be written as JSON.

    Returns:
        A text as it is, anything else as JSON.
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _first_choice(answer: Mapping[str, Any]) -> tuple[str, str]:
    """The text and the finish reason of a completion's first choice."""
    text = _text(answer)
    if text is None:
        raise EndpointFailed("the agent's endpoint answers without a choice")
    if not text.strip():
        raise EndpointFailed("the agent's endpoint answers with an empty text")
    return text[:_LONGEST_ANSWER], str(answer["choices"][0].get("finish_reason") or "stop")


def _text(answer: Mapping[str, Any]) -> str | None:
    """The text of a completion's first choice, "" where it has none; None where there is no choice."""
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return content if isinstance(content, str) else ""
