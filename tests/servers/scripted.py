"""A scripted server that speaks the OpenAI protocol over a real socket, in a thread of its own.

Texts come from a function of the request and of how many samples its prompt has been given so far, so that a
run against it can be repeated. Any request can be made to fail in any of the ways of `FAULTS`. It counts what
it completed. It loads no model, and knows neither tokenizers nor chat templates: one token is one word.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Self

FAULTS = (
    "429",  # with Retry-After, see `retry_after_s`
    "500",
    "503",
    "529",
    "hang",  # never answers
    "close",  # closes the connection instead of answering
    "garbage",  # 200, but not JSON
    "empty",  # 200 with no choices
    "short",  # 200 with one choice, however many were asked for
    "truncated",  # the connection breaks in the middle of the body
    "error_event",  # of a stream: an error and [DONE] in the middle of the text
    "no_reason",  # of a stream: [DONE] in the middle of the text
    "cut_json",  # 200 with a complete body that stops in the middle of the JSON
    "overflow",  # 400, over the context length
    "no_model",  # 404
    "unauthorized",  # 401
    "filtered",  # 400, a content filter
)
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


Reply = tuple[int, Any, Mapping[str, str]]
"""Status, JSON or bytes, headers."""


@dataclass(frozen=True)
class Request:
    """A request for samples; `prompt` is the text of all messages, one a line."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def model(self) -> str:
        return str(self.body.get("model"))

    @property
    def n(self) -> int:
        return int(self.body.get("n") or 1)

    @property
    def chat(self) -> bool:
        return self.path.endswith("/chat/completions")

    @property
    def prompt(self) -> str:
        if not self.chat:
            return str(self.body.get("prompt"))
        return "\n".join(str(message.get("content")) for message in self.body.get("messages", ()))

    @property
    def text(self) -> str:
        """What is to be classified."""
        return str(self.body["input"][0])

    @property
    def max_tokens(self) -> int:
        return int(self.body.get("max_completion_tokens") or self.body.get("max_tokens") or 16)


def default_answer(request: Request, index: int) -> str:
    """One of three words, fixed by model, prompt and index."""
    digest = hashlib.sha256(f"{request.model}|{request.prompt}|{index}".encode()).digest()
    return ("red", "green", "blue")[digest[0] % 3]


class ScriptedServer:
    """`with ScriptedServer() as server:` answers at `server.base_url` until the block ends.

    models: served name → context length in tokens.
    answer: (request, index) → text of the index-th sample of this model and prompt.
    fault: (request) → one of FAULTS or None, asked for every request; `fault_next` goes before it.
    latency_s: waited before every answer. most_at_once: further requests get 429 (None: any number).
    classify: request → probabilities of the classes, for /classify (None: there is no such thing).
    refuses: fields of a request answered with 400, such as "logprobs" or "response_format".
    most_n: a larger n is answered with 400.
    reply: (request) → status, body and headers that stand in for an answer, or None; asked before all else.
    message: (request, text) → fields of the choice and of its message that differ from the usual ones.
    usage: the usual usage → the one that is sent; None of it leaves it out.
    most_in: (requests, seconds) that are answered at most; others get 429 and the date from which they may.
    identity: further fields of every answer, such as system_fingerprint.
    between_s: waited before each word of an answer that is streamed; the fault "truncated" ends it half-way.
    """

    def __init__(
        self,
        models: Mapping[str, int] | None = None,
        *,
        answer: Callable[[Request, int], str] = default_answer,
        fault: Callable[[Request], str | None] | None = None,
        latency_s: float = 0.0,
        most_at_once: int | None = None,
        retry_after_s: float = 0.05,
        refuses: Collection[str] = (),
        most_n: int | None = None,
        api_key: str | None = None,
        tokenizes: bool = True,
        classify: Callable[[Request], list[float]] | None = None,
        reply: Callable[[Request], Reply | None] | None = None,
        message: Callable[[Request, str], Mapping[str, Any]] | None = None,
        usage: Callable[[dict[str, int]], Any] | None = None,
        most_in: tuple[int, float] | None = None,
        identity: Callable[[Request], Mapping[str, Any]] | None = None,
        between_s: float = 0.0,
        port: int = 0,
    ) -> None:
        self.models = dict(models or {"small": 4096, "large": 4096})
        self.answer = answer
        self.fault = fault
        self.latency_s = latency_s
        self.most_at_once = most_at_once
        self.retry_after_s = retry_after_s
        self.refuses = frozenset(refuses)
        self.most_n = most_n
        self.api_key = api_key
        self.tokenizes = tokenizes
        self.classify = classify
        self.reply = reply
        self.message = message
        self.usage = usage
        self.most_in = most_in
        self.identity = identity
        self.between_s = between_s
        self.event_code = 500  # of the error of "error_event"
        self.n_answered = 0  # requests with samples
        self.prompt_tokens = 0  # of these requests, as a bill counts them
        self.generated_tokens = 0
        self._answered_at: deque[float] = deque()
        self.classified: list[Request] = []
        self.port = port
        self.arrived: list[Request] = []  # every request for samples, failed ones included
        self.completed: Counter[tuple[str, str]] = Counter()  # (model, prompt) → requests answered in full
        self.samples: Counter[tuple[str, str]] = Counter()  # (model, prompt) → samples sent in full answers
        self.most_in_flight = 0
        self._in_flight = 0
        self._drawn: Counter[str] = Counter()
        self._last_generated = 0
        self._next_faults: deque[str] = deque()
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def fault_next(self, *kinds: str) -> None:
        """The next requests for samples fail in these ways, in order of arrival."""
        assert set(kinds) <= set(FAULTS), kinds
        self._next_faults.extend(kinds)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the same port as before after a `stop`."""
        listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listening)), daemon=True)
        self._thread.start()
        assert listening.wait(30), "the scripted server did not start"

    def stop(self) -> None:
        """Break every connection and stop listening, as a server that dies does."""
        if self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(30)
        self._thread = None

    async def _serve(self, listening: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._in_flight = 0
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                while await self._exchange(reader, writer):
                    pass
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                connections.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(connected, "127.0.0.1", self.port, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        listening.set()
        await self._stopped.wait()
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False when the connection is to be closed."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
        }
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "GET":
            return await _send(writer, *self._get(path, headers))
        body = json.loads(raw)
        if path == "/tokenize" and self.tokenizes:
            words = Request(
                "/v1/chat/completions" if "messages" in body else "/v1/completions", body, headers
            )
            count = len(words.prompt.split())
            return await _send(writer, 200, {"count": count, "max_model_len": 0, "tokens": []})
        if path == "/classify" and self.classify is not None:
            request = Request(path, body, headers)
            self.classified.append(request)
            context, n_prompt = self.models[request.model], len(request.text.split())
            if n_prompt > context and "truncate_prompt_tokens" in self.refuses:
                text = f"This model's maximum context length is {context} tokens, you requested {n_prompt}."
                return await _send(writer, 400, _error(text, "BadRequestError", 400))
            probs = self.classify(request)
            found = {"index": 0, "label": "right", "probs": list(probs), "num_classes": len(probs)}
            usage = {"prompt_tokens": n_prompt}
            return await _send(writer, 200, {"id": "classify-1", "data": [found], "usage": usage})
        if path not in ("/v1/chat/completions", "/v1/completions"):
            return await _send(writer, 404, _error("Not Found", "NotFoundError", 404))
        request = Request(path, body, headers)
        self.arrived.append(request)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            return await self._generate(request, writer)
        finally:
            self._in_flight -= 1

    def _get(self, path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, Any] | None]:
        if path == "/health":
            return 200, None
        if path != "/v1/models":
            return 404, _error("Not Found", "NotFoundError", 404)
        models = [
            {"id": name, "object": "model", "max_model_len": size} for name, size in self.models.items()
        ]
        return 200, {"object": "list", "data": models}

    async def _generate(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        fault = self._next_faults.popleft() if self._next_faults else self.fault and self.fault(request)
        if self.most_at_once is not None and self._in_flight > self.most_at_once:
            fault = "429"
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if fault == "hang":
            await self._stopped.wait()
        if fault in ("hang", "close"):
            return False
        if fault == "garbage":
            return await _send(writer, 200, None, content=b"<html>upstream is unwell</html>")
        reply = None if self.reply is None else self.reply(request)
        if reply is not None:
            status, content, headers = reply
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            return await _send(writer, status, None, content=raw, headers=headers)
        refusal = self._refusal(request, fault)
        if refusal is None and self.most_in is not None:
            until = self._full_until(*self.most_in)
            if until is not None:
                headers = {"retry-after": formatdate(until, usegmt=True)}
                return await _send(writer, 429, _error("slow down", "RateLimit", 429), headers=headers)
        if refusal is not None:
            status, error = refusal
            retry_after = {"retry-after": f"{self.retry_after_s:g}"} if status == 429 else {}
            return await _send(writer, status, error, headers=retry_after)
        answer, n_choices = self._answer(request, fault)
        content = json.dumps(answer).encode()
        if request.body.get("stream"):
            if not await self._stream(writer, answer, fault):
                return False
            return self._count(request, n_choices)
        if fault == "truncated":
            await _send(writer, 200, None, content=content, sent=len(content) // 2)
            return False
        if fault == "cut_json":
            return await _send(writer, 200, None, content=content[: len(content) // 2])
        self._count(request, n_choices)  # before the client, in another thread, can have it
        try:
            return await _send(writer, 200, None, content=content)
        except ConnectionError:
            self._count(request, n_choices, times=-1)
            raise

    async def _stream(self, writer: asyncio.StreamWriter, answer: dict[str, Any], fault: str | None) -> bool:
        """The answer as events, word by word; False where it or the connection breaks half-way."""
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        events, broken = list(stream_events(answer)), fault == "truncated"
        if fault in ("truncated", "error_event", "no_reason"):
            events = events[: len(events) // 2]
        if fault == "error_event":
            events.append(_event(_error("the engine is dead", "BadRequestError", self.event_code)))
        if fault in ("error_event", "no_reason"):
            events.append(b"data: [DONE]\n\n")
        for event in events:
            await asyncio.sleep(self.between_s)
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await writer.drain()
        if not broken:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return fault not in ("truncated", "error_event", "no_reason")

    def _count(self, request: Request, n_choices: int, times: int = 1) -> bool:
        self.n_answered += times
        self.prompt_tokens += times * len(request.prompt.split())
        self.generated_tokens += times * self._last_generated
        if n_choices == request.n:
            self.completed[request.model, request.prompt] += times
        self.samples[request.model, request.prompt] += times * n_choices
        return True

    def _full_until(self, most: int, within_s: float) -> float | None:
        """The Unix time from which a further request is answered; None when it is answered now."""
        now = time.time()
        while self._answered_at and self._answered_at[0] <= now - within_s:
            self._answered_at.popleft()
        if len(self._answered_at) >= most:
            return math.ceil(self._answered_at[0] + within_s)
        self._answered_at.append(now)
        return None

    def _refusal(self, request: Request, fault: str | None) -> tuple[int, dict[str, Any]] | None:
        authorised = self.api_key is None or request.headers.get("authorization") == f"Bearer {self.api_key}"
        if fault == "unauthorized" or not authorised:
            return 401, _error("Unauthorized: wrong key", "AuthenticationError", 401)
        if fault == "no_model" or request.model not in self.models:
            return 404, _error(f"The model `{request.model}` does not exist.", "NotFoundError", 404)
        if fault == "filtered":
            text = "The response was filtered due to the prompt triggering the content management policy."
            return 400, _error(text, "content_filter", 400)
        if fault in ("429", "500", "503", "529"):
            return int(fault), _error("the server is unwell", "ServerError", int(fault))
        context = self.models[request.model]
        n_prompt = len(request.prompt.split())
        if fault == "overflow" or n_prompt + request.max_tokens > context:
            text = (
                f"This model's maximum context length is {context} tokens. However, you requested "
                f"{request.max_tokens} output tokens and your prompt contains {n_prompt} input tokens."
            )
            return 400, _error(text, "BadRequestError", 400)
        if self.most_n is not None and request.n > self.most_n:
            return 400, _error(f"n must be at most {self.most_n}, got {request.n}.", "BadRequestError", 400)
        if request.n > 1 and request.body.get("temperature") == 0:
            return 400, _error(
                f"n must be 1 when using greedy sampling, got {request.n}.", "BadRequestError", 400
            )
        for field in self.refuses & request.body.keys():
            return 400, _error(f"{field} is not supported by this server", "BadRequestError", 400)
        return None

    def _answer(self, request: Request, fault: str | None) -> tuple[dict[str, Any], int]:
        identity = json.dumps({k: v for k, v in request.body.items() if k != "n"}, sort_keys=True)
        n_choices = {"empty": 0, "short": 1}.get(fault or "", request.n)
        choices, n_generated = [], 0
        for position in range(n_choices):
            text = self.answer(request, self._drawn[identity])
            choice, n_tokens = _choice(request, position, text)
            if self.message is not None:
                changed = dict(self.message(request, text))
                choice["finish_reason"] = changed.pop("finish_reason", choice["finish_reason"])
                choice["message"] = {**choice["message"], **changed}
            self._drawn[identity] += 1
            n_generated += n_tokens
            choices.append(choice)
        n_prompt = len(request.prompt.split())
        usage = {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_generated,
            "total_tokens": n_prompt + n_generated,
        }
        self._last_generated = n_generated
        answer: dict[str, Any] = {
            "id": f"cmpl-{len(self.arrived)}",
            "object": "chat.completion" if request.chat else "text_completion",
            "model": request.model,
            "choices": choices,
            "usage": usage if self.usage is None else self.usage(usage),
        }
        return {**answer, **({} if self.identity is None else self.identity(request))}, n_choices


def _choice(request: Request, position: int, text: str) -> tuple[dict[str, Any], int]:
    """The choice as the endpoint words it, and its number of tokens: its words and an end-of-text."""
    words = [*re.findall(r"\s*\S+", text), ""]
    cut = len(words) > request.max_tokens
    words = words[: request.max_tokens]
    text = "".join(words)
    logprobs = [-(1 + len(word) % 7) / 10 for word in words]
    choice: dict[str, Any] = {"index": position, "finish_reason": "length" if cut else "stop"}
    if request.chat:
        choice["message"] = {"role": "assistant", "content": text}
        content = [
            {"token": w, "logprob": p, "top_logprobs": []} for w, p in zip(words, logprobs, strict=True)
        ]
        choice["logprobs"] = {"content": content} if request.body.get("logprobs") else None
    else:
        choice["text"] = text
        wanted = request.body.get("logprobs") is not None
        choice["logprobs"] = {"tokens": words, "token_logprobs": logprobs} if wanted else None
    return choice, len(words)


def stream_events(answer: Mapping[str, Any]) -> Iterator[bytes]:
    """The server-sent events of an answer: each choice word by word and how it ended, the usage, [DONE]."""
    base = {key: value for key, value in answer.items() if key not in ("choices", "usage")}
    for choice in answer["choices"]:
        chat = "message" in choice
        text = choice["message"]["content"] if chat else choice["text"]
        for word in re.findall(r"\s*\S+|\s+$", text):
            part = {"delta": {"content": word}} if chat else {"text": word}
            yield _event({**base, "choices": [{"index": choice["index"], "finish_reason": None, **part}]})
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        last |= {"finish_reason": choice["finish_reason"], "logprobs": choice["logprobs"]}
        yield _event({**base, "choices": [{"index": choice["index"], **last}]})
    yield _event({**base, "choices": [], "usage": answer["usage"]})
    yield b"data: [DONE]\n\n"


def _event(value: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def _error(message: str, kind: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


async def _send(
    writer: asyncio.StreamWriter,
    status: int,
    body: dict[str, Any] | None,
    *,
    content: bytes | None = None,
    sent: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> bool:
    """Write an answer; of a content, only the first `sent` bytes."""
    if content is None:
        content = b"" if body is None else json.dumps(body).encode()
    fields = {"content-type": "application/json", "content-length": str(len(content)), **(headers or {})}
    head = f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}\r\n" + "".join(
        f"{k}: {v}\r\n" for k, v in fields.items()
    )
    writer.write(head.encode() + b"\r\n" + content[:sent])
    await writer.drain()
    return True
