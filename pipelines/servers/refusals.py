"""What an answer other than 200 means: a fault that passes, a prompt refused, a field refused, or the end.

Servers word refusals as they like and choose among a dozen statuses, so three things are looked at: the field
that an error's `param` (or the place in a validation error) names, its `code`, and the fields of the request
that its words mention. Which terms follow from a refused field is in `terms`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.errors import ConfigurationError
from pipelines.servers.wire import ContextOverflow, Fault, PromptRefused

OVERLOAD = frozenset({429, 498, 503, 509, 529})
PASSING = frozenset({408, 409, 425})  # and every 5xx but 501
NEGOTIABLE = frozenset({400, 403, 404, 405, 406, 413, 415, 422, 501})

_OVERFLOW = re.compile(
    r"context[ _]?(length|window|size)|maximum[ _]model[ _]length|max_model_len|max(imum)? context"
    r"|too many (input )?tokens|(prompt|input|request|message)s? (is|are|was)? ?too (long|large)"
    r"|(prompt|input|token count).{0,40}(exceeds?|longer than)|reduce the length|string too long"
    r"|range of input length|inputs?`? tokens.{0,30}must be <=",
    re.I,
)
_WINDOW = re.compile(r"context (?:length|window|size)\D{0,24}(\d+)", re.I)
_OVERLOADED = re.compile(
    r"overload|at capacity|no capacity|out of capacity|too many requests|server (is )?busy|rate.?limit"
    r"|temporarily unavailable|currently loading|resource.?exhausted",
    re.I,
)
_NO_MONEY = re.compile(
    r"insufficient.?(quota|balance|credit|funds)|billing_hard_limit|out of credits|payment required"
    r"|credit balance is too low",
    re.I,
)
_ACCOUNT = re.compile(
    r"(account|organi[sz]ation|project|api.?key)\b.{0,60}\b(disabled|suspended|deactivated|banned|invalid"
    r"|expired|revoked)|(invalid|incorrect|expired|missing|wrong|revoked|no).{0,20}(api.?key|token|credential)",
    re.I,
)
_FILTERED = re.compile(
    r"content[ _-]?(filter|management|policy|policies|exists risk|moderation|safety)|responsible ?ai"
    r"|moderation|safety (system|filter|policy|policies|reasons|check|settings)|flagged|inappropriate"
    r"|data_?inspection|prohibited[ _](content|use)|guardrail|sensitive (words?|content|information|material)"
    r"|(violat\w*|against|breach\w*) .{0,60}(polic|guideline|terms|rules)|usage polic"
    r"|(unsafe|harmful|disallowed|illegal|offensive|toxic|explicit) (content|input|prompt|request|material)"
    r"|(prompt|input|request|content) (was|is|has been|were|may be)? ?(blocked|rejected|unsafe|harmful)"
    r"|违规|敏感|不安全|不合规|审核|風險|风险",
    re.I,
)
_LOAD = re.compile(r"\bmodels?\b.{0,60}(load|not found|not exist|unknown|unavailable|deploy)", re.I)
_TOO_LARGE_EVER = re.compile(r"request too large|limit\D{0,6}(\d+)\D{0,24}requested\D{0,6}(\d+)", re.I)
_ECHOED = frozenset({"input", "body", "url", "trace", "stack", "traceback", "request_id", "requestId"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An answer other than 200, in its own words.

    Attributes:
        words: All texts of the answer in one line, what it repeats of the request left out.
        param: The field that the answer names; "" when it names none.
        retry_after_s: Seconds to wait before any request; None when the server does not say.
    """

    status: int
    words: str
    code: str = ""
    param: str = ""
    retry_after_s: float | None = None

    @property
    def quoted(self) -> str:
        """The words as messages quote them."""
        return self.words if len(self.words) <= 300 else self.words[:299] + "…"

    @property
    def status_and_words(self) -> str:
        """The status, and the words where the server gave any."""
        return f"{self.status}: {self.quoted}" if self.words else f"{self.status}, without a word"

    def message(self, where: str, what: str) -> str:
        """Return what the server refuses and where, with its status and its words."""
        return f"{where}: {what} ({self.status_and_words})"


def read_refusal(status: int, content: bytes, *, secret: str | None, retry_after_s: float | None) -> Refusal:
    """The refusal of an answer's body, JSON or not. `secret` is blotted out."""
    text = content[:20_000].decode("utf-8", "replace")
    if secret:
        text = text.replace(secret, "***")
    try:
        answer: Any = json.loads(text)
    except ValueError:
        words = re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", text, flags=re.S)
        return Refusal(status=status, words=_one_line(words), retry_after_s=retry_after_s)
    named = dict(_named(answer))
    words = _one_line(" ".join(dict.fromkeys(_texts(answer))))
    return Refusal(
        status=status,
        words=words or _one_line(text),
        code=named.get("code", ""),
        param=named.get("param", ""),
        retry_after_s=retry_after_s,
    )


def meaning(refusal: Refusal, body: Mapping[str, Any], where: str, key_env: str | None) -> Exception | None:
    """What a refusal comes to, whatever the fields of the request; None when that is for the fields to say.

    Returns:
        A Fault, a PromptRefused, or the ConfigurationError that stops a run.
    """
    status, words = refusal.status, f"{refusal.code} {refusal.words}"
    if status == 402 or (status in (403, 429) and _NO_MONEY.search(words)):
        why = "the account has no quota or credit left; top it up or use another server"
        return ConfigurationError(refusal.message(where, why))
    if status == 429 and _never_fits(words):
        return PromptRefused(refusal.message(where, "the request is larger than the account's rate limit"))
    if status in OVERLOAD or (status not in (401, 404, 422) and _OVERLOADED.search(words)):
        wait_s = refusal.retry_after_s
        reason = f"status {refusal.status_and_words}" if refusal.words else f"status {status}"
        return Fault(reason, "overload", retry_after_s=wait_s, outage=status >= 500)
    if status in PASSING or (status >= 500 and status != 501) or status < 300:
        return Fault(
            f"status {refusal.status_and_words}"
            if status >= 300
            else f"an error in place of an answer: {refusal.quoted}",
            retry_after_s=refusal.retry_after_s,
            outage=status >= 500 or status < 300,
        )
    if status == 401 or (status == 403 and _ACCOUNT.search(words)):
        return key_refused(refusal, where, key_env)
    if status == 407:
        return ConfigurationError(refusal.message(where, "the proxy wants a user and password"))
    if _FILTERED.search(words) and not refusal.param.startswith("safety_settings"):
        return PromptRefused(refusal.message(where, "the prompt is refused by a content filter"))
    if _OVERFLOW.search(words):
        return _overflow(refusal, where, words, body)
    return None


def unexplained(refusal: Refusal, where: str, key_env: str | None) -> ConfigurationError:
    """The end of a run, for a refusal that neither the prompt nor a field explains."""
    if refusal.status == 403:
        return key_refused(refusal, where, key_env)
    if refusal.status in (404, 405):
        missing = refusal.message(where, "not served there")
        return ConfigurationError(f"{missing}; correct served_name or base_url")
    refused = refusal.message(where, "the server refuses the request")
    return ConfigurationError(f"{refused}; correct the stage, or the model's request and sampling")


def key_refused(refusal: Refusal, where: str, key_env: str | None) -> ConfigurationError:
    """A wrong or missing API key."""
    remedy = f"correct the key in {key_env}" if key_env else "name the variable that holds it in api_key_env"
    return ConfigurationError(f"{refusal.message(where, 'the server refuses the API key')}; {remedy}")


def concerns_all(refusal: Refusal) -> bool:
    """Whether a refusal without explanation can only concern every request."""
    return refusal.status in (401, 402, 404, 405) or bool(_LOAD.search(refusal.words))


def _overflow(refusal: Refusal, where: str, words: str, body: Mapping[str, Any]) -> Exception:
    window = _WINDOW.search(words)
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or 0
    if window is not None and limit >= int(window[1]):
        why = f"sampling.max_tokens, {limit}, leaves no room for a prompt; lower it"
        return ConfigurationError(refusal.message(where, why))
    return ContextOverflow(
        refusal.message(where, "prompt and generation exceed the context length")
        + "; shorten the prompt, lower max_tokens or take a model with a longer context"
    )


def _never_fits(words: str) -> bool:
    match = _TOO_LARGE_EVER.search(words)
    if match is None:
        return False
    return match[1] is None or int(match[2]) > int(match[1])


def _texts(value: Any) -> Iterator[str]:
    """Every text of an error, the messages of a wrapped one included; what it echoes is left out."""
    if isinstance(value, str):
        inner = _json_within(value)
        yield from [value] if inner is None else _texts(inner)
    elif isinstance(value, Mapping):
        loc = value.get("loc")
        if isinstance(loc, list):
            yield ".".join(str(part) for part in loc) + ":"
        for name, part in value.items():
            if name not in _ECHOED and name != "loc":
                yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _named(value: Any) -> Iterator[tuple[str, str]]:
    """`code` and `param` wherever an error has them, the outermost last."""
    if isinstance(value, str):
        inner = _json_within(value)
        if inner is not None:
            yield from _named(inner)
    elif isinstance(value, list):
        for part in reversed(value):
            yield from _named(part)
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if name not in _ECHOED:
                yield from _named(part)
        loc = value.get("loc")
        if isinstance(loc, list) and loc:
            yield "param", ".".join(str(part) for part in loc if part != "body")
        for name in ("code", "param"):
            if isinstance(value.get(name), str) and value[name]:
                yield name, value[name]


def _json_within(text: str) -> Any:
    """The JSON that a text is, or ends with, as gateways wrap the errors of others; None for none."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        return json.loads(text[start:])
    except ValueError:
        return None


def _one_line(text: str) -> str:
    return " ".join(text.split())
