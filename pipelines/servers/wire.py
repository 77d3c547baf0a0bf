"""The OpenAI protocol as data: the body of a request, the samples in an answer, what a refusal means.

Pure functions, without a socket: sending and retrying is in `clients`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.content import Content
from pipelines.errors import ConfigurationError
from pipelines.spec.pipeline import SamplingSpec

CLASSIFY = "/classify"
"""vLLM's own endpoint, beside /v1."""
OVERFLOW = ("context length", "context_length", "maximum model length", "max_model_len", "too many tokens")
TRANSIENT = frozenset({408, 409, 425, 429})  # and every 5xx
OVERLOAD = frozenset({429, 503})


class Fault(Exception):
    """A request did not bring samples, and the same request may bring them later.

    overload: the server asks for fewer requests.
    retry_after_s: none may start for this long; None when it did not say.
    """

    def __init__(self, reason: str, *, overload: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.overload = overload
        self.retry_after_s = retry_after_s


class ContextOverflow(ConfigurationError):
    """A prompt and its generation do not fit into a model's context."""


class LogprobsRefused(Exception):
    """The server draws samples, but without log-probabilities."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnSample:
    """One generated text. mean_logprob: natural log, mean over its tokens; None when not given."""

    text: str
    generated_tokens: int
    mean_logprob: float | None
    finish_reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What one request brought: from one sample to as many as were asked for.

    prompt_tokens: as the server counted them, None when it did not say.
    """

    samples: tuple[DrawnSample, ...]
    prompt_tokens: int | None
    request_id: str | None


def request_body(
    served_name: str, content: Content, sampling: SamplingSpec, n: int, *, logprobs: bool
) -> tuple[str, dict[str, object]]:
    """Path and body of a request for n samples."""
    if "classify" in content:
        return CLASSIFY, {
            "model": served_name,
            "input": [content["classify"]],
            "truncate_prompt_tokens": -1,  # as many as the model takes
        }
    chat = "messages" in content
    body: dict[str, object] = {
        "model": served_name,
        **content,
        "n": n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if logprobs:
        body["logprobs"] = True if chat else 0
    return ("/chat/completions" if chat else "/completions"), body


def read_draw(answer: Any, n: int) -> Draw:
    """The samples of an answer. Fault when it has none, or is not what the protocol promises."""
    try:
        read = [_read_choice(choice) for choice in answer["choices"][:n] if _finished(choice)]
        usage = answer.get("usage") or {}
        prompt_tokens = usage.get("prompt_tokens")
        tokens = _tokens_per_sample(
            [sample.generated_tokens for sample in read], usage.get("completion_tokens")
        )
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise Fault(f"an answer that is not a completion ({type(error).__name__})") from error
    if not read:
        raise Fault("an answer without choices")
    samples = tuple(
        DrawnSample(
            text=sample.text,
            generated_tokens=count,
            mean_logprob=sample.mean_logprob,
            finish_reason=sample.finish_reason,
        )
        for sample, count in zip(read, tokens, strict=True)
    )
    request_id = answer.get("id")
    return Draw(
        samples=samples,
        prompt_tokens=None if prompt_tokens is None else int(prompt_tokens),
        request_id=None if request_id is None else str(request_id),
    )


def read_classes(answer: Any) -> Draw:
    """A classifier's answer: one sample, its text the JSON of the probabilities. Fault when it is none."""
    try:
        probs = [float(p) for p in answer["data"][0]["probs"]]
        tokens = (answer.get("usage") or {}).get("prompt_tokens")
        request_id = answer.get("id")
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise Fault(f"an answer that is no classification ({type(error).__name__})") from error
    if len(probs) < 2 or not all(math.isfinite(p) for p in probs):
        raise Fault("an answer without the probabilities of two classes")
    text = json.dumps(probs)
    return Draw(
        samples=(DrawnSample(text=text, generated_tokens=0, mean_logprob=None, finish_reason="stop"),),
        prompt_tokens=None if tokens is None else int(tokens),
        request_id=None if request_id is None else str(request_id),
    )


def refusal(
    status: int, message: str, *, where: str, key_env: str | None, retry_after_s: float | None
) -> Exception:
    """What an answer other than 200 means: a Fault, or the ConfigurationError that stops the run."""
    said = " ".join(message.split())[:200]
    lowered = message.lower()
    if status == 429 and "insufficient_quota" in lowered:
        return ConfigurationError(
            f"{where}: the account has no quota left (429); top it up or use another server"
        )
    if status in TRANSIENT or status >= 500:
        return Fault(f"status {status}", overload=status in OVERLOAD, retry_after_s=retry_after_s)
    if status in (401, 403):
        remedy = (
            f"correct the key in {key_env}" if key_env else "name the variable that holds it in api_key_env"
        )
        return ConfigurationError(f"{where}: the server refuses the API key ({status}); {remedy}")
    if status == 404:
        return ConfigurationError(f"{where}: not served there (404: {said}); correct served_name or base_url")
    if any(words in lowered for words in OVERFLOW):
        return ContextOverflow(
            f"{where}: prompt and generation exceed the context length ({status}: {said}); "
            "shorten the prompt, lower max_tokens or take a model with a longer context"
        )
    if "logprob" in lowered:
        return LogprobsRefused(said)
    return ConfigurationError(
        f"{where}: the server refuses the request ({status}: {said}); correct the stage"
    )


@dataclass(frozen=True, slots=True)
class _Choice:
    text: str
    generated_tokens: int  # as many as there are log-probabilities; 0 without
    mean_logprob: float | None
    finish_reason: str


def _finished(choice: Mapping[str, Any]) -> bool:
    return choice.get("finish_reason") not in ("error", "abort")


def _read_choice(choice: Mapping[str, Any]) -> _Choice:
    message = choice.get("message")
    text = choice["text"] if message is None else message.get("content") or ""
    if not isinstance(text, str):
        raise TypeError("a text")
    given = choice.get("logprobs") or {}
    if message is None:
        logprobs: Sequence[float | None] = given.get("token_logprobs") or ()
    else:
        logprobs = [token["logprob"] for token in given.get("content") or ()]
    mean = math.fsum(p for p in logprobs if p is not None) / len(logprobs) if logprobs else None
    if mean is not None and not math.isfinite(mean):
        mean = None
    return _Choice(text, len(logprobs), mean, str(choice.get("finish_reason") or "stop"))


def _tokens_per_sample(counted: Sequence[int], total: int | None) -> list[int]:
    """Counted tokens of each sample; what the server's total has beyond them is split evenly."""
    beyond = max(0, int(total or 0) - sum(counted))
    share, rest = divmod(beyond, len(counted)) if counted else (0, 0)
    return [count + share + (position < rest) for position, count in enumerate(counted)]
