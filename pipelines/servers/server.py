"""One OpenAI-compatible server: drawing samples from it within its limits, and trying again.

Which terms it draws them on is found out in `negotiation`; what is drawn, and that it is kept, is the
runtime's affair.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
from pydantic import JsonValue

from datastore.keys import well_formed
from pipelines.errors import ConfigurationError, DrawFailed, ServerError
from pipelines.servers import refusals
from pipelines.servers.answers import bill_unread, read_classes, read_draw
from pipelines.servers.billing import Bill
from pipelines.servers.condition import Condition, WentDown
from pipelines.servers.grace import GRACE_S, Grace
from pipelines.servers.health import ServerHealth
from pipelines.servers.identity import SameServer
from pipelines.servers.limiter import AdaptiveLimiter
from pipelines.servers.negotiation import FieldRefused, Negotiator
from pipelines.servers.oddities import not_json, surplus
from pipelines.servers.patience import Patience
from pipelines.servers.refusals import Refusal, read_refusal
from pipelines.servers.retrying import Tries
from pipelines.servers.streamed import TextStream
from pipelines.servers.transport import Answer, Transport
from pipelines.servers.usage import Usage
from pipelines.servers.waiting import retry_after_s
from pipelines.servers.wire import CLASSIFY, Ask, Draw, Fault, Negotiated, Terms, request_body
from pipelines.spec import SamplingSpec

logger = logging.getLogger(__name__)

MOST_BYTES = 16 * 2**20  # of an answer, beside what log-probabilities take
_BYTES_PER_TOKEN = 256
_UNLIMITED_TOKENS = 131_072
_SECONDS_PER_TOKEN = 0.05
_MOST_EXTRA_S = 600.0
_HIDDEN_PROMPT_TOKENS = 20_000  # a server may add to a prompt

OnNegotiated = Callable[[Negotiated], None]
OnNotice = Callable[[str], None]


class StatusError(ServerError):
    """A server answers, but with a status that is no success."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ServerClient:
    """One server. Draws samples with at most `max_in_flight` requests at once.

    Args:
        base_url: Of the API, usually ending in /v1.
        api_key: Sent as a bearer token; None for none.
        rng: Spreads the waits.
        key_env: The variable that the key came from, for messages.
        patience: How long an answer, a fault and an outage are waited for.
        holds: Whether requests are held while the server is down. Else they fail: at once after `retry_s`,
            and after `longest_outage_s` where it is overloaded and answers nothing.
        max_in_flight: Requests at once, at the very most; fewer while the server is overloaded.
        backoff_s: Scales the waits between tries, and twice that between probes of a server that is down.
        most_bytes: Longer answers fail; 256 bytes for each token that may come are added.
        environ: Where proxies are looked for.
        on_negotiated: Called once for each thing that a user should know; see `negotiated`.
        on_notice: Called with a line when the server is down, when it is back, and when a run that stops
            awaits requests.
        grace: Of all servers of a run; None: this one has its own.

    Raises:
        ConfigurationError: The environment names a proxy that can't be used.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        rng: random.Random,
        key_env: str | None = None,
        patience: Patience = Patience(),  # noqa: B008 -- frozen
        holds: bool = True,
        max_in_flight: int = 64,
        backoff_s: float = 0.5,
        most_bytes: int = MOST_BYTES,
        environ: Mapping[str, str] = os.environ,
        on_negotiated: OnNegotiated | None = None,
        on_notice: OnNotice | None = None,
        grace: Grace | None = None,
    ) -> None:
        self.on_negotiated = on_negotiated
        self._key = api_key
        self._key_env = key_env
        self._patience = patience
        self._holds = holds
        self._most_bytes = most_bytes
        self._on_notice = on_notice
        self._negotiators: dict[str, Negotiator] = {}
        self._same: dict[str, SameServer] = {}
        self._surplus = set[str]()  # models whose answers were told to have more choices than asked for
        self._negotiated: list[Negotiated] = []
        self._transport = Transport(base_url, api_key=api_key, connections=max_in_flight + 4, environ=environ)
        self.address = self._transport.address
        self.grace = grace or Grace(GRACE_S, self._notice)
        self._condition = Condition(
            self.address,
            max_in_flight=max_in_flight,
            longest_outage_s=patience.longest_outage_s,
            holds=holds,
            backoff_s=backoff_s,
            rng=rng,
            notify=self._notice,
        )
        self._usage = Usage(self.count_tokens, self.tell)

    @property
    def negotiated(self) -> tuple[Negotiated, ...]:
        """What was found out about the server, in the order in which it was reported."""
        return tuple(self._negotiated)

    def health(self, models: tuple[str, ...]) -> ServerHealth:
        """Return how the server is doing.

        Args:
            models: Keys in the spec of the models that it serves.
        """
        return self._condition.health(models)

    @property
    def limiter(self) -> AdaptiveLimiter:
        """What holds requests back while the server is overloaded."""
        return self._condition.limiter

    def most_n(self, served_name: str) -> int | None:
        """Samples that one request may ask for; None while no limit is known."""
        return self._negotiator(served_name).terms.most_n

    async def draw(
        self,
        served_name: str,
        content: Mapping[str, Any],
        sampling: SamplingSpec,
        n: int,
        *,
        first: int = 0,
        fields: Mapping[str, JsonValue] | None = None,
        logprobs: bool = True,
        context_length: int | None = None,
        bill: Bill | None = None,
        stream: TextStream | None = None,
    ) -> Draw:
        """At most n samples of one prompt, in one request; see `Ask` for the arguments.

        Raises:
            DrawFailed: Retries do not help, or the server refuses this prompt (PromptRefused).
            ServerDown: The server is down, and has been for too long.
            ConfigurationError: The server will never answer this.
        """
        ask = Ask(
            served_name=served_name,
            content=content,
            sampling=sampling,
            n=n,
            first=first,
            fields=fields or {},
            logprobs=logprobs,
            context_length=context_length,
            bill=Bill() if bill is None else bill,
            stream=stream,
        )
        negotiator = self._negotiator(served_name)
        tries = Tries(self._where(served_name), self._patience, self._holds, self._condition.jittered_s)
        while True:
            self.grace.check()
            try:
                async with self._condition.passing() as probing:
                    if not probing:
                        return await negotiator.draw(ask)
                    probe = replace(ask, probing=True)
                    if tries.is_suspect:
                        await negotiator.probe(probe)
                        tries.alone_since = tries.alone_since or time.monotonic()
                    return await negotiator.draw(probe)
            except WentDown:
                continue
            except Fault as fault:
                logger.debug("%s: try %d: %s", tries.where, tries.n_faults + 1, fault.reason)
                if stream is not None and stream.has_begun:  # another try would give another text
                    law = f"{tries.where}: {fault.reason}, in the middle of its text"
                    raise DrawFailed(law, transient=True) from fault
                wait_s = tries.wait_s(
                    fault,
                    is_down=self._condition.is_down,
                    overloaded_s=self._condition.overloaded_s,
                )
            if wait_s:
                await asyncio.sleep(wait_s)

    async def get(self, path: str) -> Any:
        """The JSON of a GET, tried once. ServerError when it fails, StatusError for a refusal."""
        try:
            async with asyncio.timeout(min(self._patience.timeout_s, 30.0)):
                answer = await self._transport.get(self._transport.url(path), self._most_bytes)
            if answer.status >= 300:
                words = self._refusal(answer).status_and_words
                raise StatusError(f"{self.address}: status {words}", answer.status)
            try:
                return json.loads(answer.content)
            except ValueError:
                raise ServerError(f"{self.address}: {not_json(answer, self._key)}") from None
        except ServerError:
            raise
        except Exception as error:
            raise ServerError(f"{self.address}: {self._reason(error)}") from error

    async def count_tokens(self, served_name: str, content: Mapping[str, Any]) -> int | None:
        """Tokens of a prompt by vLLM's /tokenize; None where the server has no such thing."""
        body = _encoded({"model": served_name, **content})
        try:
            async with asyncio.timeout(min(self._patience.timeout_s, 30.0)):
                url = self._transport.url("/tokenize", root=True)
                answer = await self._transport.post(url, body, self._most_bytes)
            return int(json.loads(answer.content)["count"])
        except Exception as error:
            logger.debug("%s: no token count: %s", self.address, self._reason(error))
            return None

    async def aclose(self) -> None:
        await self._transport.aclose()

    def tell(self, negotiated: Negotiated) -> None:
        """Keep it, log it and hand it to `on_negotiated`."""
        self._negotiated.append(negotiated)
        logger.log(
            logging.WARNING if negotiated.warning else logging.INFO, "%s: %s", self.address, negotiated
        )
        if self.on_negotiated is not None:
            self.on_negotiated(negotiated)

    def _negotiator(self, served_name: str) -> Negotiator:
        known = self._negotiators.get(served_name)
        if known is None:
            where = self._where(served_name)
            known = Negotiator(where, served_name, self._send, self.tell, self._key_env)
            self._negotiators[served_name] = known
            self._same[served_name] = SameServer(served_name)
        return known

    def _where(self, served_name: str) -> str:
        return f"model {served_name!r} at {self.address}"

    async def _send(self, ask: Ask, agreed: Terms) -> Draw:
        """One request. Raises FieldRefused, Fault, PromptRefused or ConfigurationError."""
        if ask.stream is not None:
            try:
                return await self._sent(ask, agreed)
            except FieldRefused as refused:
                if ask.stream.has_begun:
                    raise Fault("a refusal") from refused
                ask = replace(ask, stream=None)  # to stream may be what is refused
        return await self._sent(ask, agreed)

    async def _sent(self, ask: Ask, agreed: Terms) -> Draw:
        body = request_body(ask, agreed)
        n, encoded = int(body.get("n", 1)), _encoded(body)
        answer = await self._exchange(ask, body, encoded, n)
        if isinstance(answer, dict):
            changed = self._same[ask.served_name].add(answer)
            if changed is not None:
                self.tell(changed)
            beyond = surplus(ask.served_name, answer, n)
            if beyond is not None and ask.served_name not in self._surplus:
                self._surplus.add(ask.served_name)
                self.tell(beyond)
        draw = _read(ask, agreed, answer, n, len(encoded))
        if draw.prompt_tokens is None or draw.estimated:
            draw = await self._usage.completed(ask, draw)
        draw.billed_to(ask.bill)
        return draw

    async def _exchange(self, ask: Ask, body: Mapping[str, Any], encoded: bytes, n: int) -> Any:
        """The JSON of an answer of n samples, with a place of the limiter held."""
        max_tokens = ask.sampling.max_tokens or _UNLIMITED_TOKENS
        timeout_s = self._patience.timeout_s + min(_MOST_EXTRA_S, max_tokens * _SECONDS_PER_TOKEN)
        url = self._transport.url(ask.path, root=ask.path == CLASSIFY)
        most_bytes = self._most_bytes + n * max_tokens * _BYTES_PER_TOKEN
        async with self._condition.place(probing=ask.probing) as epoch:
            if not ask.probing:
                self.grace.check()
            try:
                answer = await self.grace.awaited(
                    self._posted(url, encoded, most_bytes, timeout_s, ask.stream)
                )
            except ConfigurationError:
                raise
            except aiohttp.InvalidURL as error:
                raise ConfigurationError(f"{self.address} is no URL; correct base_url") from error
            except DrawFailed as failure:
                raise DrawFailed(
                    f"{self._where(ask.served_name)}: {failure.reason}", transient=False
                ) from failure
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self._condition.trouble(self._fault(error), epoch, probing=ask.probing)
            if answer.status < 300:
                try:
                    read = _decoded(answer.content)
                except ValueError:
                    fault = Fault(not_json(answer, self._key), outage=True)
                    self._condition.trouble(fault, epoch, probing=ask.probing)
                if not isinstance(read, dict) or not read.get("error") or read.get("choices"):
                    self._condition.answered(in_full=True)
                    return read
                answer = _as_refused(answer, read["error"])
            refusal = self._refusal(answer)
            meaning = refusals.meaning(refusal, body, self._where(ask.served_name), self._key_env)
            if isinstance(meaning, Fault):
                self._condition.trouble(meaning, epoch, probing=ask.probing)
            self._condition.answered()
            if meaning is not None:
                raise meaning
        if refusal.status in refusals.NEGOTIABLE:
            raise FieldRefused(refusal, body)
        raise refusals.unexplained(refusal, self._where(ask.served_name), self._key_env)

    async def _posted(
        self, url: str, body: bytes, most_bytes: int, timeout_s: float, stream: TextStream | None
    ) -> Answer:
        async with asyncio.timeout(timeout_s):
            return await self._transport.post(url, body, most_bytes, stream)

    def _notice(self, line: str) -> None:
        logger.warning("%s", line)
        if self._on_notice is not None:
            self._on_notice(line)

    def _fault(self, error: Exception) -> Fault:
        reason = self._reason(error)
        return Fault(reason, "slow" if isinstance(error, TimeoutError) else "fault", outage=True)

    def _reason(self, error: BaseException) -> str:
        """A few words that hold neither prompt nor key."""
        if isinstance(error, ConfigurationError | DrawFailed):
            return str(error)
        through = "" if self._transport.proxy is None else f" through {self._transport.proxy}"
        if isinstance(error, TimeoutError):
            return f"no answer in time{through}"
        root = getattr(error, "os_error", None) or error
        return f"connection failed ({type(root).__name__}){through}"

    def _refusal(self, answer: Answer) -> Refusal:
        wait_s = retry_after_s(answer.headers, time.time())
        return read_refusal(answer.status, answer.content, secret=self._key, retry_after_s=wait_s)


def _read(ask: Ask, agreed: Terms, answer: Any, n: int, n_bytes: int) -> Draw:
    """What an answer to a request of so many bytes holds. Raises Fault, after the answer is billed."""
    window, max_tokens = ask.context_length, ask.sampling.max_tokens or _UNLIMITED_TOKENS
    most_tokens = window if agreed.limit is None else min(2 * max_tokens + 16, window or 10**9)
    most_prompt_tokens = window or n_bytes + _HIDDEN_PROMPT_TOKENS
    try:
        if ask.path == CLASSIFY:
            return read_classes(answer)
        stop = ask.sampling.stop if "stop" in agreed.dropped else ()
        return read_draw(answer, n, stop=stop, most_tokens=most_tokens, most_prompt_tokens=most_prompt_tokens)
    except Fault:
        bill_unread(ask.bill, answer, n, most_tokens=most_tokens, most_prompt_tokens=most_prompt_tokens)
        raise


def _decoded(content: bytes) -> Any:
    """JSON by a parser that takes a third of the time, which with log-probabilities is most of a request's.

    What it refuses, such as NaN and lone surrogates, is left to the tolerant one. No garbage is collected
    meanwhile: thousands of new dicts would set it off, and all of them are in use. ValueError for no JSON.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content)
    finally:
        if collecting:
            gc.enable()


def _encoded(body: Mapping[str, Any]) -> bytes:
    return well_formed(json.dumps(body, ensure_ascii=False, separators=(",", ":"))).encode()


def _as_refused(answer: Answer, error: Any) -> Answer:
    """An answer of status 200 that holds an error, with the status that the error names."""
    code = error.get("code") if isinstance(error, Mapping) else None
    code = int(code) if isinstance(code, int | str) and str(code).isdecimal() else 200
    return replace(answer, status=code if 400 <= code < 600 else 200)
