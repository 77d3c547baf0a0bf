"""Drawing samples from OpenAI-compatible servers: connections, limits, retries.

One `openai` client for each server, with connections kept open and answers decoded without a class for each
part, which would cost more than the rest of the run together. What a request and an answer look like is in
`wire`; what is drawn, and that it is kept, is the runtime's affair.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import httpx2

from pipelines.content import Content
from pipelines.errors import ConfigurationError, DrawFailed, ServerError
from pipelines.servers.limiter import AdaptiveLimiter
from pipelines.servers.wire import (
    CLASSIFY,
    Draw,
    Fault,
    LogprobsRefused,
    read_classes,
    read_draw,
    refusal,
    request_body,
)
from pipelines.spec.pipeline import ModelSpec, PipelineSpec, SamplingSpec

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

LONGEST_WAIT_S = 60.0  # between two tries, whatever a server asks for


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What a server says of a model. max_model_len: tokens, None when it does not say."""

    names: tuple[str, ...]
    max_model_len: int | None


class ServerClient:
    """One server. Draws samples with at most `max_in_flight` requests at once.

    timeout_s: for a whole answer. retries: after the first try, of faults that may pass.
    backoff_s: the wait before retry k = 0, 1, ... is uniform from 0 to backoff_s · 2^k ("full jitter"), or
    what the server asks for in Retry-After where that is longer; 60 seconds at most.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        rng: random.Random,
        key_env: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 4,
        max_in_flight: int = 64,
        backoff_s: float = 0.5,
    ) -> None:
        import openai  # half a second of CPU, which a replay and a report do without

        from pipelines.servers.transport import PlainHttpClient

        self._base_url = base_url.rstrip("/")
        self.address = without_credentials(base_url)
        self._root = self._base_url.removesuffix("/v1")
        self.limiter = AdaptiveLimiter(start=min(32, max_in_flight), most=max_in_flight)
        self._key = api_key
        self._key_env = key_env
        self._rng = rng
        self._timeout_s = timeout_s
        self._retries = retries
        self._backoff_s = backoff_s
        self._without_logprobs: set[str] = set()
        self._openai = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "none",
            max_retries=0,
            timeout=timeout_s,
            http_client=PlainHttpClient(connections=max_in_flight + 4, timeout_s=timeout_s),
        )

    async def draw(self, served_name: str, content: Content, sampling: SamplingSpec, n: int) -> Draw:
        """From 1 to n samples of one prompt, in one request.

        DrawFailed when retries do not help; ConfigurationError when the server will never answer this.
        """
        where = f"model {served_name!r} at {self.address}"
        reason = ""
        for attempt in range(self._retries + 1):
            try:
                return await self._draw_once(served_name, content, sampling, n, where)
            except Fault as fault:
                reason = fault.reason
                logger.debug("%s: try %d of %d: %s", where, attempt + 1, self._retries + 1, reason)
                if attempt < self._retries:
                    await asyncio.sleep(self._wait_s(attempt, fault.retry_after_s))
        raise DrawFailed(f"{where}: {reason}, {self._retries + 1} tries", transient=True)

    async def get(self, path: str) -> Any:
        """The JSON of a GET, tried once. ServerError when it fails."""
        try:
            async with asyncio.timeout(min(self._timeout_s, 30.0)):
                response = await self._openai.get(path, cast_to=httpx2.Response)
            return json.loads(response.content)
        except Exception as error:
            raise ServerError(f"{self.address}: {_reason(error)}") from error

    async def count_tokens(self, served_name: str, content: Content) -> int | None:
        """Tokens of a prompt by vLLM's /tokenize; None where the server has no such thing."""
        url = self._root + "/tokenize"
        body = {"model": served_name, **content}
        try:
            async with asyncio.timeout(min(self._timeout_s, 30.0)):
                response = await self._openai.post(url, cast_to=httpx2.Response, body=body)
            return int(json.loads(response.content)["count"])
        except Exception as error:
            logger.debug("%s: no token count: %s", self.address, _reason(error))
            return None

    async def refusal_of(self, path: str, body: Mapping[str, object]) -> str | None:
        """What the server says against a request; None when it accepts it. ServerError on a fault."""
        import openai

        try:
            async with asyncio.timeout(min(self._timeout_s, 30.0)):
                await self._openai.post(path, cast_to=httpx2.Response, body=dict(body))
        except openai.APIStatusError as error:
            return self._clean(_message(error))
        except Exception as error:
            raise ServerError(f"{self.address}: {_reason(error)}") from error
        return None

    async def aclose(self) -> None:
        await self._openai.close()

    async def _draw_once(
        self, served_name: str, content: Content, sampling: SamplingSpec, n: int, where: str
    ) -> Draw:
        """One try; a server that refuses log-probabilities is asked without them, from then on."""
        if "classify" in content:
            path, body = request_body(served_name, content, sampling, n, logprobs=False)
            return read_classes(await self._answer(path, body, where))
        if served_name not in self._without_logprobs:
            path, body = request_body(served_name, content, sampling, n, logprobs=True)
            try:
                return read_draw(await self._answer(path, body, where), n)
            except LogprobsRefused:
                self._without_logprobs.add(served_name)
        path, body = request_body(served_name, content, sampling, n, logprobs=False)
        try:
            return read_draw(await self._answer(path, body, where), n)
        except LogprobsRefused as refused:
            raise ConfigurationError(f"{where}: the server refuses the request ({refused})") from refused

    async def _answer(self, path: str, body: dict[str, object], where: str) -> Any:
        async with self.limiter as epoch:
            try:
                async with asyncio.timeout(self._timeout_s):
                    base = self._root if path == CLASSIFY else self._base_url
                    response = await self._openai.post(base + path, cast_to=httpx2.Response, body=body)
                answer = json.loads(response.content)
            except Exception as error:
                meaning = self._meaning(error, where)
                if isinstance(meaning, Fault) and meaning.overload:
                    self.limiter.overloaded(epoch, meaning.retry_after_s)
                raise meaning from error
            self.limiter.answered()
            return answer

    def _meaning(self, error: Exception, where: str) -> Exception:
        """The Fault or ConfigurationError that an exception of the client, or of decoding, stands for."""
        import openai

        if isinstance(error, openai.APIStatusError):
            wait_s = _retry_after_s(error.response.headers.get("retry-after"))
            message = self._clean(_message(error))
            return refusal(
                error.status_code, message, where=where, key_env=self._key_env, retry_after_s=wait_s
            )
        return Fault(_reason(error), overload=isinstance(_root(error), TimeoutError))

    def _clean(self, message: str) -> str:
        return message.replace(self._key, "***") if self._key else message

    def _wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        jittered = self._rng.uniform(0, self._backoff_s * 2.0**attempt)
        return min(LONGEST_WAIT_S, max(jittered, retry_after_s or 0.0))


class ModelClients:
    """The models of a spec, each at its server; those at one address with one key share connections.

    environ: where API keys are read from; ConfigurationError when a variable that the spec names is not set.
    Use it on one event loop, and close it there.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        *,
        rng: random.Random,
        timeout_s: float = 120.0,
        retries: int = 4,
        max_in_flight: int = 64,
        backoff_s: float = 0.5,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._models = dict(spec.models)
        self._servers: dict[tuple[str, str | None], ServerClient] = {}
        for name, model in spec.models.items():
            place = (model.base_url, _api_key(name, model, environ))
            if place not in self._servers:
                self._servers[place] = ServerClient(
                    *place,
                    key_env=model.api_key_env,
                    rng=rng,
                    timeout_s=timeout_s,
                    retries=retries,
                    max_in_flight=max_in_flight,
                    backoff_s=backoff_s,
                )
        self._by_model = {
            name: self._servers[model.base_url, _api_key(name, model, environ)]
            for name, model in self._models.items()
        }

    def server(self, model: str) -> ServerClient:
        return self._by_model[model]

    def served_name(self, model: str) -> str:
        return self._models[model].served_name or model

    async def draw(self, model: str, content: Content, sampling: SamplingSpec, n: int) -> Draw:
        """From 1 to n samples in one request; see `ServerClient.draw`. `model` is the key in the spec."""
        return await self._by_model[model].draw(self.served_name(model), content, sampling, n)

    async def served(self, model: str) -> ServedModel:
        """What the model's server serves, and this model's context length. ServerError on a fault."""
        server = self._by_model[model]
        answer = await server.get("/models")
        try:
            lengths = {str(entry["id"]): entry.get("max_model_len") for entry in answer["data"]}
        except (TypeError, KeyError, AttributeError) as error:
            raise ServerError(f"{server.address}: /models is not a list of models") from error
        return ServedModel(names=tuple(lengths), max_model_len=lengths.get(self.served_name(model)))

    async def aclose(self) -> None:
        for server in self._servers.values():
            await server.aclose()


def without_credentials(url: str) -> str:
    """The URL without a user, password, query or fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _api_key(name: str, model: ModelSpec, environ: Mapping[str, str]) -> str | None:
    if model.api_key_env is None:
        return None
    key = environ.get(model.api_key_env)
    if not key:
        raise ConfigurationError(f"models.{name}.api_key_env: {model.api_key_env} is not set; export it")
    return key


def _retry_after_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header; a date, or nonsense, counts as absent."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return min(LONGEST_WAIT_S, seconds) if seconds >= 0 else None


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, Mapping):
        return f"{body.get('code') or ''} {body.get('message') or ''}".strip() or json.dumps(body)
    return str(body or error.response.text)


def _reason(error: Exception) -> str:
    """A few words that hold neither prompt nor key."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return f"status {error.status_code}"
    if isinstance(error, ValueError):
        return "an answer that is not JSON"
    root = _root(error)
    return (
        "no answer in time"
        if isinstance(root, TimeoutError)
        else f"connection failed ({type(root).__name__})"
    )


def _root(error: BaseException) -> BaseException:
    """What it all began with: the clients in between call every broken connection a time-out."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
