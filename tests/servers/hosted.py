"""A hosted-style server: what commercial reasoning models refuse, limit, answer and bill, without one.

It takes n = 1 alone, refuses `temperature`, `logprobs` and `max_tokens` in OpenAI's words, answers so many
requests in so many seconds (429 and a date beyond that), thinks before it answers, in three places at once,
and counts what a bill would. One token is one word. By hand, with the counts at http://127.0.0.1:8099/counts:

    python -m tests.servers.hosted --port 8099 --requests 60 --per 60
"""

from __future__ import annotations

import argparse
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from email.utils import formatdate
from typing import Any

from tests.servers.scripted import Reply, Request, ScriptedServer

Refusal = tuple[int, dict[str, Any], Mapping[str, str]]
"""A Reply whose content is JSON."""
_ONLY = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "n": 1}
_NEVER = ("logprobs", "top_logprobs", "stop", "logit_bias")


@dataclass
class Counts:
    """What the server has done. Tokens and money are those of answered requests, as on a bill."""

    answered: int = 0
    refused: int = 0
    limited: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    usd: float = 0.0


class HostedServer(ScriptedServer):
    """`with HostedServer(answer) as server:` answers at `server.base_url` until the block ends.

    Args:
        answer: Request → text of the final answer.
        model: The one name that it serves.
        api_key: What requests must carry.
        most_in: How many requests are taken in how many seconds, those that are refused included.
        usd_per_million: The price of prompt and of generated tokens.
    """

    def __init__(
        self,
        answer: Callable[[Request], str],
        *,
        model: str = "thinker-1",
        api_key: str = "sk-hosted",
        most_in: tuple[int, float] = (60, 60.0),
        usd_per_million: tuple[float, float] = (0.25, 2.0),
        port: int = 0,
    ) -> None:
        super().__init__(
            {model: 0},
            answer=lambda request, _: answer(request),
            tokenizes=False,
            api_key=api_key,
            reply=self._reply,
            most_in=most_in,
            port=port,
        )
        self.model = model
        self.usd_per_million = usd_per_million
        self.counts = Counts()

    def _get(self, path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, Any] | None]:
        if path == "/counts":
            return 200, asdict(self.counts)
        if path != "/v1/models":
            return _error(404, "Not Found", "not_found")[:2]
        refused = self._key_refused(headers)
        return refused[:2] if refused else (200, {"object": "list", "data": [{"id": self.model}]})

    def _reply(self, request: Request) -> Reply:
        if not request.chat:
            return _error(404, "Not Found", "not_found")
        return (
            self._key_refused(request.headers)
            or self._limited()
            or self._refused(request.body)
            or (200, self._completion(request), {})
        )

    def _completion(self, request: Request) -> dict[str, Any]:
        text = self.answer(request, 0)
        thinking = f"The user wants an answer. {text} may be it, but let me check. Yes."
        draft = f"<think>\nMaybe {text.split()[0] if text else 'nothing'}?\n</think>\n\n"
        n_prompt = len(request.prompt.split())
        n_generated = len(f"{thinking} {draft} {text}".split()) + 1
        counts, (prompt_usd, generated_usd) = self.counts, self.usd_per_million
        counts.answered += 1
        counts.prompt_tokens += n_prompt
        counts.generated_tokens += n_generated
        counts.usd += (n_prompt * prompt_usd + n_generated * generated_usd) / 1e6
        message = {
            "role": "assistant",
            "refusal": None,
            "reasoning_content": thinking,
            "content": [{"type": "thinking", "thinking": thinking}, {"type": "text", "text": draft + text}],
        }
        return {
            "id": f"chatcmpl-{counts.answered}",
            "object": "chat.completion",
            "model": f"{self.model}-2026-08-07",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": n_prompt,
                "completion_tokens": n_generated,
                "total_tokens": n_prompt + n_generated,
                "completion_tokens_details": {"reasoning_tokens": len(thinking.split())},
            },
        }

    def _key_refused(self, headers: Mapping[str, str]) -> Refusal | None:
        key = headers.get("authorization", "").removeprefix("Bearer ")
        if key == self.api_key:
            return None
        words = f"Incorrect API key provided: {key[:6]}***. You can find your API key in your account."
        return _error(401, words, "invalid_request_error", code="invalid_api_key")

    def _limited(self) -> Refusal | None:
        assert self.most_in is not None
        most, within_s = self.most_in
        until = self._full_until(most, within_s)
        if until is None:
            return None
        self.counts.limited += 1
        words = f"Rate limit reached for {self.model} on requests per min (RPM): Limit {most}, Used {most}."
        headers = {"retry-after": formatdate(until, usegmt=True)}
        return _error(429, words, "requests", code="rate_limit_exceeded", headers=headers)

    def _refused(self, body: Mapping[str, Any]) -> Refusal | None:
        """The first of a request's faults, in OpenAI's words."""
        refusal = self._fault(body)
        self.counts.refused += refusal is not None
        return refusal

    def _fault(self, body: Mapping[str, Any]) -> Refusal | None:
        kind = "invalid_request_error"
        if body.get("model") != self.model:
            words = f"The model `{body.get('model')}` does not exist or you do not have access to it."
            return _error(404, words, kind, code="model_not_found")
        if "max_tokens" in body:
            words = (
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead."
            )
            return _error(400, words, kind, param="max_tokens", code="unsupported_parameter")
        for field, only in _ONLY.items():
            if body.get(field, only) != only:
                words = (
                    f"Unsupported value: '{field}' does not support {body[field]} with this model. "
                    f"Only the default ({only}) value is supported."
                )
                return _error(400, words, kind, param=field, code="unsupported_value")
        for field in _NEVER:
            if body.get(field):
                words = f"Unsupported parameter: '{field}' is not supported with this model."
                return _error(400, words, kind, param=field, code="unsupported_parameter")
        return None


def _error(
    status: int,
    words: str,
    kind: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Refusal:
    return status, {"error": {"message": words, "type": kind, "param": param, "code": code}}, headers or {}


def reading_answer(request: Request) -> str:
    """The passage that shares most words with the question; where none is given, the last word of its line.

    It plays the models of a pipeline that retrieves and then answers.
    """
    lines = request.prompt.splitlines()
    question = next((line for line in lines if "?" in line), "")
    wanted = set(re.findall(r"\w+", question.lower()))
    told = [line for line in lines if "?" not in line and line.strip().endswith(".") and " is " in line]
    if not told:
        return "unknown"
    best = max(told, key=lambda line: len(wanted & set(re.findall(r"\w+", line.lower()))))
    return best.strip() if "passages" in request.prompt.lower() else best.strip(" .").split()[-1]


def main() -> None:
    """Serve until Ctrl-C, then print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--per", type=float, default=60.0, help="seconds")
    options = parser.parse_args()
    limit = (options.requests, options.per)
    with HostedServer(reading_answer, most_in=limit, port=options.port) as server:
        print(f"{server.model} at {server.base_url}, key {server.api_key}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(json.dumps(asdict(server.counts)))


if __name__ == "__main__":
    main()
