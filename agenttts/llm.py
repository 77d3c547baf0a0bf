"""Asking an LLM through the sample bank, so that no question is paid for twice.

An answer is a Sample of a Prompt whose model key is `agent:` and the model's name. Requests are those of the
pipeline's models: what the server refuses of them is negotiated, faults are tried again, and an answer
without a text is none. The API key stays in the client: it is neither stored nor in messages. `AgentChat`
gives the text of an answer, `JsonChat` a value that fits a JSON schema.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, TypeAlias

from agenttts.errors import UserError
from datastore.keys import make_prompt
from datastore.records import Prompt, Sample
from datastore.store import Store
from pipelines.content import Content
from pipelines.costs import estimated_tokens, prompt_tokens_bound
from pipelines.errors import ConfigurationError, DrawFailed
from pipelines.jsonvalues import JSON
from pipelines.reading.readers import json_value, required, strip_thinking
from pipelines.runtime.payments import SpendGate, enter, reserved, sample_of
from pipelines.servers.billing import Bill
from pipelines.servers.grace import end_if_cancelled
from pipelines.servers.keys import key_in
from pipelines.servers.patience import Patience
from pipelines.servers.server import ServerClient
from pipelines.servers.wire import PromptRefused
from pipelines.spec import SamplingSpec
from pipelines.spec.rules import address_law, without_password

AGENT_SHARE = 1 / 3
"""The default share of the trials that an LLM proposes itself."""
AT_ONCE = 8
"""How many questions of a chat are asked and not yet in the bank at most."""
_ENVIRON = "AGENTTTS_AGENT_"
_API_KEY = f"{_ENVIRON}API_KEY"
_RETRY_S = 5.0
_OVERLOADED_S = 180.0  # longer than a limit of requests a minute asks to wait

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
        temperature: The temperature of the answers; None sends none, and the server's own holds.
        key_env: The environment variable that the key was read from, for messages.

    Raises:
        UserError: The address is none, or a number is out of range.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0
    max_tokens: int = 4096
    share: float = AGENT_SHARE
    temperature: float | None = None
    key_env: str = _API_KEY

    def __post_init__(self) -> None:
        law = address_law(self.base_url)
        if law is not None:
            raise UserError(
                f"the address of the LLM's endpoint {law}, got {without_password(self.base_url)!r}"
            )
        if not 0 < self.share <= 1:
            raise UserError(f"the agent's share of the trials is above 0 and at most 1, got {self.share}")
        if not (self.timeout_s > 0 and math.isfinite(self.timeout_s)):
            raise UserError(f"the agent's timeout is a number of seconds above 0, got {self.timeout_s:g}")
        if self.max_tokens < 1:
            raise UserError(f"the agent's answers have 1 token or more, got {self.max_tokens}")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise UserError(f"the agent's temperature is 0 or more, got {self.temperature:g}")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> AgentSettings | None:
        """Read AGENTTTS_AGENT_BASE_URL, _MODEL and _API_KEY, and where they are given _KEY_ENV, _TIMEOUT,
        _MAX_TOKENS, _SHARE and _TEMPERATURE.

        Args:
            environ: The environment variables.

        Returns:
            The settings, or None when there is no address.

        Raises:
            UserError: There is an address without a model, or a number is none or out of range.
        """
        base_url = environ.get(f"{_ENVIRON}BASE_URL")
        if not base_url:
            return None
        model = environ.get(f"{_ENVIRON}MODEL")
        if not model:
            raise UserError(
                "AGENTTTS_AGENT_BASE_URL needs AGENTTTS_AGENT_MODEL beside it; export the model's name"
            )
        key_env = environ.get(f"{_ENVIRON}KEY_ENV") or _API_KEY
        temperature = environ.get(f"{_ENVIRON}TEMPERATURE")
        return cls(
            base_url=base_url,
            model=model,
            api_key=key_in(environ, key_env),
            timeout_s=_number(environ, "TIMEOUT", cls.timeout_s),
            max_tokens=int(_number(environ, "MAX_TOKENS", cls.max_tokens)),
            share=_number(environ, "SHARE", cls.share),
            temperature=_number(environ, "TEMPERATURE", 0.0) if temperature else None,
            key_env=key_env,
        )


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    """Read a number from an environment variable; the default where it is not set."""
    text = environ.get(_ENVIRON + name)
    try:
        return float(text) if text else default
    except ValueError:
        raise UserError(f"{_ENVIRON}{name} is a number, got {text!r}") from None


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
    """There is no answer after the retries. The message has the server's words, neither key nor prompt."""


class QuestionFailed(EndpointFailed):
    """This question has no answer, others may: the model or a filter refuses it, or it has no text."""


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
        n_tokens: The tokens of all questions and answers so far, those from the bank included.
        n_answers: The number of these answers.

    Raises:
        ConfigurationError: The environment names a proxy that can't be used.
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
        self.n_tokens = 0
        self.n_answers = 0
        self._model = settings.model
        self._sampling = SamplingSpec(
            temperature=settings.temperature, top_p=None, max_tokens=settings.max_tokens
        )
        self._max_tokens = settings.max_tokens
        self._store = store
        self._run_id = run_id
        self._gate = gate
        self._replay = replay
        self._server = ServerClient(
            settings.base_url,
            settings.api_key,
            key_env=settings.key_env,
            rng=random.Random(0),  # spreads waits
            patience=Patience(timeout_s=settings.timeout_s, retry_s=_RETRY_S, longest_outage_s=_OVERLOADED_S),
            holds=False,  # others answer in its place
            max_in_flight=AT_ONCE,
        )

    async def ask(self, messages: Sequence[Message], schema: Mapping[str, JSON]) -> str:
        """Return the bank's answer to a question where there is one, else ask the server.

        Args:
            messages: The chat up to the answer.
            schema: A JSON schema that the server is to follow, if it can. The answer is not checked against
                it.

        Returns:
            The answer's text.

        Raises:
            EndpointFailed: The server gives no answer, or the bank has none in a replay; QuestionFailed where
                it may answer other questions.
            SpendRefused: A limit leaves no room for the question.
        """
        form: dict[str, JSON] = {"name": "turn", "strict": True, "schema": dict(schema)}
        content: Content = {
            "messages": [dict(message) for message in messages],
            "response_format": {"type": "json_schema", "json_schema": form},
        }
        prompt = make_prompt(self.model_key, content, self._sampling.model_dump(mode="json"))
        banked = (await self._store.get_samples([prompt.key]))[prompt.key]
        if banked:
            known = await self._store.get_prompt(prompt.key)
            self._count(prompt if known is None else known, banked[0])
            return banked[0].text
        if self._replay:
            raise EndpointFailed("a replay asks no agent, and the bank has no answer to this question")
        return await self._paid_answer(prompt, content)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._server.aclose()

    def _count(self, prompt: Prompt, answer: Sample) -> None:
        read = estimated_tokens(prompt.content) if prompt.prompt_tokens is None else prompt.prompt_tokens
        self.n_tokens += read + answer.generated_tokens
        self.n_answers += 1

    async def _paid_answer(self, prompt: Prompt, content: Content) -> str:
        """Draw one answer, its tokens reserved before and settled after, and put it into the bank."""
        bill, samples = Bill(), list[Sample]()
        bounds = prompt_tokens_bound(prompt.content, None), self._max_tokens
        try:
            async with reserved(self._gate, self.model_key, bounds, 1, bill):
                draw = await self._server.draw(
                    self._model, content, self._sampling, 1, logprobs=False, bill=bill
                )
            prompt = replace(prompt, prompt_tokens=draw.prompt_tokens or estimated_tokens(prompt.content))
            if not draw.samples:
                raise QuestionFailed(f"the agent's endpoint: model {self._model!r}: {draw.missing[0]}")
            drawn = replace(draw.samples[0], mean_logprob=None)
            samples = [sample_of(prompt.key, 0, drawn, draw, self._run_id)]
            self._count(prompt, samples[0])
        except DrawFailed as failure:
            kind = QuestionFailed if isinstance(failure, PromptRefused) else EndpointFailed
            raise kind(f"the agent's endpoint: {failure}") from failure
        except ConfigurationError as error:
            raise EndpointFailed(f"the agent's endpoint: {error}") from error
        finally:
            await enter(self._store, self._run_id, prompt, samples, bill, bounds)
            end_if_cancelled()
        return samples[0].text


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

    @property
    def n_questions(self) -> int:
        """The number of questions that were answered so far, by the server or the bank."""
        return self._chat.n_answers

    @property
    def n_tokens(self) -> int:
        """The tokens of these questions and answers."""
        return self._chat.n_tokens

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
            ValueError: The second answer does not match the schema either, or the model gives none to this
                question.
            UserError: The endpoint gives no answer.
        """
        chat = [dict(message) for message in messages]
        for attempt in range(2):
            try:
                async with self._slots:
                    text = await self._chat.ask(chat, schema)
            except QuestionFailed as error:
                raise ValueError(str(error)) from None
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
