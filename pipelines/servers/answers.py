"""What an answer holds: texts, what is missing and why, and how many tokens it took.

An answer is a text, a fault or missing. An empty text that the model itself ended is a text; an answer
without one (a refusal, a tool call, nothing but reasoning, filtered, cut before its first word) is missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.servers.billing import Bill
from pipelines.servers.oddities import misshapen
from pipelines.servers.wire import Draw, DrawnSample, Fault

_CUT = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "token_limit"})
_FILTERED = frozenset(
    {
        "content_filter",
        "content_filtered",
        "safety",
        "sensitive",
        "recitation",
        "prohibited_content",
        "blocklist",
        "spii",
        "guardrail_intervened",
        "refusal",
    }
)
_BROKEN = frozenset({"error", "abort"})
_PART_TEXTS = ("text", "output_text", "input_text")
_LONGEST_TOKEN = 128  # characters; tokenizers have tokens for long runs of spaces


def read_draw(
    answer: Any,
    n: int,
    *,
    stop: Sequence[str] = (),
    most_tokens: int | None = None,
    most_prompt_tokens: int | None = None,
) -> Draw:
    """The texts of an answer and the reasons why others are missing.

    Args:
        answer: The decoded JSON.
        n: How many were asked for; what comes beyond is left out.
        stop: Where texts end, for a server that was not told so.
        most_tokens: The most that one sample can have; None: unknown.
        most_prompt_tokens: The most that the prompt can have; None: unknown.

    Raises:
        Fault: It has no choices, or is not what the protocol promises.
    """
    sent = _choices(answer)
    try:
        choices = [_read_choice(choice, stop) for choice in sent[:n] if _finished(choice)]
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise Fault(f"an answer that is not a completion ({type(error).__name__})") from error
    if not choices:
        raise Fault("an answer without choices")
    usage = answer.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    counted = [choice.generated_tokens for choice in choices]
    n_chars = sum(len(choice.text) for choice in choices)
    fewest = max(bool(n_chars), n_chars // _LONGEST_TOKEN)
    total = _count(usage.get("completion_tokens"), fewest, most_tokens and most_tokens * len(sent))
    estimated = total is None and not all(counted)
    if estimated:
        counted = [count or _estimate(choice.text) for count, choice in zip(counted, choices, strict=True)]
    tokens = _tokens_per_sample(counted, total)
    texts = [(c, count) for c, count in zip(choices, tokens, strict=True) if c.missing is None]
    request_id = answer.get("id")
    return Draw(
        samples=tuple(
            DrawnSample(
                text=choice.text,
                generated_tokens=count,
                mean_logprob=choice.mean_logprob,
                finish_reason=choice.finish_reason,
            )
            for choice, count in texts
        ),
        prompt_tokens=_count(usage.get("prompt_tokens"), 1, most_prompt_tokens),
        request_id=None if request_id is None else str(request_id),
        missing=tuple(choice.missing for choice in choices if choice.missing is not None),
        missing_cut=sum(c.missing is not None and c.finish_reason == "length" for c in choices),
        missing_tokens=sum(tokens) - sum(count for _, count in texts),
        total_tokens=total,
        estimated=estimated,
    )


def bill_unread(
    bill: Bill, answer: Any, n: int, *, most_tokens: int | None, most_prompt_tokens: int | None
) -> None:
    """Bill an answer from which no text is taken, as far as it says what it took.

    Args:
        bill: Gets the tokens; those beyond what can be are uncounted, and nothing is billed without a usage.
        answer: The decoded JSON.
        n: How many samples were asked for.
        most_tokens: The most that one sample can have; None: unknown.
        most_prompt_tokens: The most that the prompt can have; None: unknown.
    """
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    if not isinstance(usage, Mapping) or _count(usage.get("prompt_tokens"), 1, None) is None:
        return
    generated_tokens = _count(usage.get("completion_tokens"), 0, None) or 0
    bill.add(
        _count(usage["prompt_tokens"], 1, most_prompt_tokens),
        _count(generated_tokens, 0, most_tokens and most_tokens * n),
        n_answers=n,
    )


def read_classes(answer: Any) -> Draw:
    """A classifier's answer: one sample, its text the JSON of the probabilities. Fault when it is none."""
    try:
        probs = [float(p) for p in answer["data"][0]["probs"]]
        usage = answer.get("usage")
        request_id = answer.get("id")
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise Fault(f"an answer that is no classification ({type(error).__name__})") from error
    if len(probs) < 2 or not all(math.isfinite(p) for p in probs):
        raise Fault("an answer without the probabilities of two classes")
    text = json.dumps(probs)
    return Draw(
        samples=(DrawnSample(text=text, generated_tokens=0, mean_logprob=None, finish_reason="stop"),),
        prompt_tokens=_count(usage.get("prompt_tokens"), 1, None) if isinstance(usage, Mapping) else None,
        request_id=None if request_id is None else str(request_id),
    )


@dataclass(frozen=True, slots=True)
class _Choice:
    text: str
    missing: str | None  # why there is no text
    generated_tokens: int  # as many as there are log-probabilities; 0 without
    mean_logprob: float | None
    finish_reason: str


def _choices(answer: Any) -> list[Any]:
    if not isinstance(answer, Mapping):
        raise misshapen("the answer", "an object", answer)
    choices = answer.get("choices")
    if not isinstance(choices, list):
        raise misshapen("choices", "a list", choices)
    return choices


def _finished(choice: Any) -> bool:
    if not isinstance(choice, Mapping):
        raise misshapen("each of choices", "an object", choice)
    return choice.get("finish_reason") not in _BROKEN and not choice.get("error")


def _read_choice(choice: Mapping[str, Any], stop: Sequence[str]) -> _Choice:
    message = choice.get("message")
    by_token = choice.get("logprobs") or {}
    logprobs: Sequence[Any]
    if message is None:
        if not isinstance(content := choice.get("text"), str):
            raise misshapen("message or text of a choice", "there", content)
        logprobs = list(by_token.get("token_logprobs") or ())
    elif not isinstance(message, Mapping):
        raise misshapen("message", "an object", message)
    else:
        content = message.get("content")
        logprobs = [token["logprob"] for token in by_token.get("content") or ()]
    text = content if isinstance(content, str) else _joined(content)
    finish_reason = str(choice.get("finish_reason") or "stop")
    if finish_reason != "stop":
        lowered = finish_reason.lower()
        finish_reason = "length" if lowered in _CUT else finish_reason
        if lowered in _FILTERED:
            return _Choice("", f"filtered by the server ({finish_reason})", len(logprobs), None, lowered)
    if not text or text.isspace():
        reason = _why_empty(message or {}, content, finish_reason)
        if reason is not None:
            return _Choice("", reason, len(logprobs), None, finish_reason)
    mean = _mean(logprobs)
    if stop:
        ends = [position for end in stop if (position := text.find(end)) >= 0]
        if ends:
            return _Choice(text[: min(ends)], None, len(logprobs), None, "stop")
    return _Choice(text, None, len(logprobs), mean, finish_reason)


def _joined(content: Any) -> str:
    """The text of a content in parts; other parts, such as thinking, are left out. Fault for none."""
    if content is None:
        return ""
    if not isinstance(content, list):
        raise misshapen("message.content", "a text, a list of parts or null", content)
    texts = [part if isinstance(part, str) else part["text"] for part in content if _is_text(part)]
    return "".join(texts)


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or part.get("type", "text") in _PART_TEXTS


def _why_empty(message: Mapping[str, Any], content: Any, finish_reason: str) -> str | None:
    """Why an answer without text is missing; None when the empty text is the answer."""
    refused = message.get("refusal") or _refused_part(content)
    if refused:
        return f"refused by the model: {' '.join(str(refused).split())[:200]}"
    if message.get("tool_calls") or message.get("function_call"):
        return "a tool call in place of a text"
    reasoned = message.get("reasoning_content") or message.get("reasoning") or _thought_part(content)
    if finish_reason == "length":
        place = "while it reasoned" if reasoned else "before any text"
        return f"cut at the token limit {place}; raise sampling.max_tokens"
    if reasoned:
        return "nothing but reasoning"
    return "an answer without content" if content is None else None


def _refused_part(content: Any) -> Any:
    parts = content if isinstance(content, list) else ()
    return next((part.get("refusal") for part in parts if _kind(part) == "refusal"), None)


def _thought_part(content: Any) -> bool:
    parts = content if isinstance(content, list) else ()
    return any(_kind(part) in ("thinking", "reasoning", "redacted_thinking") for part in parts)


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else "text"


def _mean(logprobs: Sequence[Any]) -> float | None:
    """The mean of log-probabilities; one that is no number adds nothing. None where none is a number."""
    numbers = logprobs
    try:
        total = math.fsum(numbers)
    except TypeError:  # seldom, so that the usual answer is read in one pass
        numbers = [p for p in logprobs if isinstance(p, int | float)]
        total = math.fsum(numbers)
    mean = total / len(logprobs) if numbers else math.nan
    return mean if math.isfinite(mean) else None


def _count(value: Any, fewest: int, most: int | None) -> int | None:
    """A count of tokens; None when it is absent or can't be one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < fewest or (most is not None and value > most):
        return None
    return value


def _estimate(text: str) -> int:
    """Tokens of a generated text, by its length in UTF-8, and the one that ends it."""
    return len(text.encode("utf-8", "surrogatepass")) // 3 + 1


def _tokens_per_sample(counted: Sequence[int], total: int | None) -> list[int]:
    """Counted tokens of each sample; what the server's total has beyond them is split evenly."""
    beyond = max(0, (total or 0) - sum(counted))
    share, rest = divmod(beyond, len(counted))
    return [count + share + (position < rest) for position, count in enumerate(counted)]
