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
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import aiohttp
import orjson
from pydantic import JsonValue

from datastore.keys import well_formed
from pipelines.errors import ConfigurationError, DrawFailed, ServerError
from pipelines.servers import refusals
from pipelines.servers.answers import bill_unread, read_classes, read_draw
from pipelines.servers.billing import Bill
from pipelines.servers.identity import SameServer
from pipelines.servers.limiter import AdaptiveLimiter
from pipelines.servers.negotiation import FieldRefused, Negotiator
from pipelines.servers.refusals import Refusal, read_refusal
from pipelines.servers.transport import Answer, Transport
from pipelines.servers.usage import Usage
from pipelines.servers.waiting import retry_after_s
from pipelines.servers.wire import CLASSIFY, Ask, Draw, Fault, Negotiated, Terms, request_body
from pipelines.spec import SamplingSpec

logger = logging.getLogger(__name__)

LONGEST_WAIT_S = 60.0  # between two tries where the server does not say how long
MOST_BYTES = 16 * 2**20  # of an answer, beside what log-probabilities take
_BYTES_PER_TOKEN = 256
_UNLIMITED_TOKENS = 131_072
_SECONDS_PER_TOKEN = 0.05
_MOST_EXTRA_S = 600.0
_MOST_TERMS = 16  # requests that one negotiation may take
_MOST_OVERLOADS = 60  # of one request while others are answered
_RECENT_S = 10.0
_HIDDEN_PROMPT_TOKENS = 20_000  # a server may add to a prompt

OnNegotiated = Callable[[Negotiated], None]


class StatusError(ServerError):
    """A server answers, but with a status that is no success."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class _Trouble:
    """Since when, and when last, a server was overloaded or not there; monotonic seconds."""

    since: float
    last: float


class ServerClient:
    """One server. Draws samples with at most `max_in_flight` requests at once.

    Args:
        base_url: Of the API, usually ending in /v1.
        api_key: Sent as a bearer token; None for none.
        rng: Spreads the waits.
        key_env: The variable that the key came from, for messages.
        timeout_s: For a whole answer, beside 0.05 s for each token that a sample may have, 600 s at most.
        retries: After the first try, of faults that may pass. With 0 nothing is waited out either.
        max_in_flight: Requests at once, at the very most.
        backoff_s: The wait before retry k = 0, 1, … is uniform from 0 to backoff_s · 2^k ("full jitter"), 60
            seconds at most, or what the server asks for.
        overload_patience_s: An overloaded server that answers nothing for longer than this fails its
            requests. While it is overloaded fewer requests are in flight, and none uses up its retries.
        refused_patience_s: The same for a server that nobody listens for, as when it is restarted.
        most_bytes: Longer answers fail; 256 bytes for each token that may come are added.
        environ: Where proxies are looked for.
        on_negotiated: Called once for each thing that a user should know; see `negotiated`.

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
        timeout_s: float = 120.0,
        retries: int = 4,
        max_in_flight: int = 64,
        backoff_s: float = 0.5,
        overload_patience_s: float = 600.0,
        refused_patience_s: float = 60.0,
        most_bytes: int = MOST_BYTES,
        environ: Mapping[str, str] = os.environ,
        on_negotiated: OnNegotiated | None = None,
    ) -> None:
        self.limiter = AdaptiveLimiter(start=min(32, max_in_flight), most=max_in_flight)
        self.on_negotiated = on_negotiated
        self._key = api_key
        self._key_env = key_env
        self._rng = rng
        self._timeout_s = timeout_s
        self._retries = retries
        self._backoff_s = backoff_s
        self._patience_s = {
            "overload": overload_patience_s if retries else 0.0,
            "refused": refused_patience_s if retries else 0.0,
        }
        self._most_bytes = most_bytes
        self._troubles: dict[str, _Trouble] = {}  # by kind; empty once there is an answer
        self._negotiators: dict[str, Negotiator] = {}
        self._same: dict[str, SameServer] = {}
        self._negotiated: list[Negotiated] = []
        self._transport = Transport(base_url, api_key=api_key, connections=max_in_flight + 4, environ=environ)
        self.address = self._transport.address
        self._usage = Usage(self.count_tokens, self.tell)

    @property
    def negotiated(self) -> tuple[Negotiated, ...]:
        """What was found out about the server, in the order in which it was reported."""
        return tuple(self._negotiated)

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
    ) -> Draw:
        """At most n samples of one prompt, in one request; see `Ask` for the arguments.

        Raises:
            DrawFailed: Retries do not help, or the server refuses this prompt (PromptRefused).
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
        )
        tries = overloads = 0
        while True:
            try:
                return await self._negotiator(served_name).draw(ask)
            except Fault as fault:
                where = self._where(served_name)
                if fault.kind in ("overload", "refused"):
                    overloads += 1
                    self._give_up(fault, overloads, where)
                    continue  # the limiter holds it back
                tries += 1
                logger.debug("%s: try %d of %d: %s", where, tries, self._retries + 1, fault.reason)
                if tries > self._retries:
                    raise DrawFailed(f"{where}: {fault.reason}, {tries} tries", transient=True) from fault
                await asyncio.sleep(self._jittered_s(tries - 1))

    async def get(self, path: str) -> Any:
        """The JSON of a GET, tried once. ServerError when it fails, StatusError for a refusal."""
        try:
            async with asyncio.timeout(min(self._timeout_s, 30.0)):
                answer = await self._transport.get(self._transport.url(path), self._most_bytes)
            if answer.status >= 300:
                words = self._refusal(answer).status_and_words
                raise StatusError(f"{self.address}: status {words}", answer.status)
            return json.loads(answer.content)
        except ServerError:
            raise
        except Exception as error:
            raise ServerError(f"{self.address}: {self._reason(error)}") from error

    async def count_tokens(self, served_name: str, content: Mapping[str, Any]) -> int | None:
        """Tokens of a prompt by vLLM's /tokenize; None where the server has no such thing."""
        body = _encoded({"model": served_name, **content})
        try:
            async with asyncio.timeout(min(self._timeout_s, 30.0)):
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
        body = request_body(ask, agreed)
        n, encoded = int(body.get("n", 1)), _encoded(body)
        answer = await self._exchange(ask, body, encoded, n)
        if isinstance(answer, dict):
            changed = self._same[ask.served_name].add(answer)
            if changed is not None:
                self.tell(changed)
        draw = _read(ask, agreed, answer, n, len(encoded))
        if draw.prompt_tokens is None or draw.estimated:
            draw = await self._usage.completed(ask, draw)
        draw.billed_to(ask.bill)
        return draw

    async def _exchange(self, ask: Ask, body: Mapping[str, Any], encoded: bytes, n: int) -> Any:
        """The JSON of an answer of n samples, with a place of the limiter held."""
        max_tokens = ask.sampling.max_tokens or _UNLIMITED_TOKENS
        timeout_s = self._timeout_s + min(_MOST_EXTRA_S, max_tokens * _SECONDS_PER_TOKEN)
        url = self._transport.url(ask.path, root=ask.path == CLASSIFY)
        most_bytes = self._most_bytes + n * max_tokens * _BYTES_PER_TOKEN
        async with self.limiter as epoch:
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await self._transport.post(url, encoded, most_bytes)
            except ConfigurationError:
                raise
            except aiohttp.InvalidURL as error:
                raise ConfigurationError(f"{self.address} is no URL; correct base_url") from error
            except DrawFailed as failure:
                raise DrawFailed(
                    f"{self._where(ask.served_name)}: {failure.reason}", transient=False
                ) from failure
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self._trouble(self._fault(error), epoch)
            if answer.status < 300:
                try:
                    read = _decoded(answer.content)
                except ValueError as error:
                    raise Fault("an answer that is not JSON") from error
                if not isinstance(read, dict) or not read.get("error") or read.get("choices"):
                    self._troubles.clear()
                    self.limiter.answered()
                    return read
                answer = _as_refused(answer, read["error"])
            refusal = self._refusal(answer)
            meaning = refusals.meaning(refusal, body, self._where(ask.served_name), self._key_env)
            if isinstance(meaning, Fault):
                self._trouble(meaning, epoch)
            self._troubles.clear()
            if meaning is not None:
                raise meaning
        if refusal.status in refusals.NEGOTIABLE:
            raise FieldRefused(refusal, body)
        raise refusals.unexplained(refusal, self._where(ask.served_name), self._key_env)

    def _trouble(self, fault: Fault, epoch: int) -> NoReturn:
        """Let the limiter know of a fault, and raise it."""
        if fault.kind in ("overload", "refused"):
            now, trouble = time.monotonic(), self._troubles.get(fault.kind)
            if trouble is None or now - trouble.last > max(self._patience_s.values()):
                trouble = self._troubles[fault.kind] = _Trouble(now, now)
            trouble.last = now
            pause_s = self._jittered_s(self.limiter.streak)
            if fault.kind == "refused":
                pause_s = min(pause_s, 5.0)
            self.limiter.overloaded(epoch, fault.retry_after_s, pause_s=pause_s)
        elif fault.kind == "slow":
            self.limiter.overloaded(epoch)
        raise fault

    def _give_up(self, fault: Fault, overloads: int, where: str) -> None:
        """DrawFailed when the server's trouble has lasted, or will last, for longer than the patience."""
        trouble = self._troubles.get(fault.kind)
        lasted_s = 0.0 if trouble is None else time.monotonic() - trouble.since
        patience_s = self._patience_s[fault.kind]
        ahead_s = fault.retry_after_s or 0.0
        if lasted_s + ahead_s < patience_s and overloads < _MOST_OVERLOADS:
            logger.debug("%s: %s, waited out", where, fault.reason)
            return
        if ahead_s > patience_s:
            why = f"it asks to wait {ahead_s:.0f} s, more than the {patience_s:g} s that are waited"
        elif lasted_s < patience_s:
            why = f"{overloads} tries while others were answered"
        else:
            why = f"{overloads} tries, no answer for {lasted_s:.0f} s"
        raise DrawFailed(f"{where}: {fault.reason}, {why}", transient=True) from fault

    def _fault(self, error: Exception) -> Fault:
        refused = isinstance(getattr(error, "os_error", error), ConnectionRefusedError)
        proxied = isinstance(error, aiohttp.ClientProxyConnectionError)
        if isinstance(error, TimeoutError):
            return Fault(self._reason(error), "slow")
        return Fault(self._reason(error), "refused" if refused and not proxied else "fault")

    def _reason(self, error: BaseException) -> str:
        """A few words that hold neither prompt nor key."""
        if isinstance(error, ConfigurationError | DrawFailed):
            return str(error)
        if isinstance(error, ValueError):
            return "an answer that is not JSON"
        through = "" if self._transport.proxy is None else f" through {self._transport.proxy}"
        if isinstance(error, TimeoutError):
            return f"no answer in time{through}"
        root = getattr(error, "os_error", None) or error
        return f"connection failed ({type(root).__name__}){through}"

    def _refusal(self, answer: Answer) -> Refusal:
        wait_s = retry_after_s(answer.headers, time.time())
        return read_refusal(answer.status, answer.content, secret=self._key, retry_after_s=wait_s)

    def _jittered_s(self, attempt: int) -> float:
        return self._rng.uniform(0, min(LONGEST_WAIT_S, self._backoff_s * 2.0 ** min(attempt, 30)))


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
