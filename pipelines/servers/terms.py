"""Which terms follow from a refusal: the field that it names is renamed, dropped, weakened, moved or split.

The names of the fields that a request has are looked for in the error's `param` and words, and so are common
ways of speaking of them. Nothing here knows a socket; sending on the new terms is in `clients`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines.servers.refusals import Refusal
from pipelines.servers.wire import SYSTEM_ROLES, Action, Negotiated, Terms

_ONE_OR_MORE = r"(one|1|single|multiple|several|many|more than one|number of)"
_ANSWERS = r"(choices?|completions?|generations?|samples?|outputs?|responses?|sequences?)"
_ALIASES = {
    "logprobs": r"log_?-? ?prob",
    "top_p": r"top_?-? ?p\b|nucleus",
    "stop": r"['\"`]stop['\"`]|\bstop[ _](sequence|string|word|token|param|value|is|are|field)"
    r"|stop_?sequences?|\bstop:|:\s*stop\b",
    "response_format": r"response[ _]?format|json[ _]?(schema|mode|object)|structured[ _]outputs?"
    r"|guided|grammar|constrained",
    "n": rf"(?<!\\)(?-i:\bn\b)|candidate_?count|\bcandidates?\b|num_return_sequences|best_of"
    rf"|\b{_ANSWERS}\b.{{0,40}}\b({_ONE_OR_MORE}|more than|per)\b|\b{_ONE_OR_MORE}\b.{{0,20}}\b{_ANSWERS}\b",
    "max_completion_tokens": r"max_?-? ?completion_?-? ?tokens",
    "max_tokens": r"max(imum)?_?-? ?((output|new|gen)_?-? ?)?tokens|max(imum)? number of tokens"
    r"|token limit|maxOutputTokens",
    "messages": r"\b(system|developer)['\"`]?[ _-]?(role|message|prompt|instruction|content|turn)"
    r"|role['\"`]?[^.]{0,30}\b(system|developer)\b|['\"`](system|developer)['\"`]"
    r"|roles? must alternate|(first|only).{0,20}user (role|message)|messages?[.\[]+\d+[.\]]+role",
    "temperature": r"temperature",
}
"""Ways of naming a field, the least missed first: of several that are named the first goes first."""

_PATTERNS = {field: re.compile(words, re.I | re.A) for field, words in _ALIASES.items()}
_UNKNOWN = re.compile(
    r"not (currently |yet |a |an )*(supported|permitted|allowed|accepted|recogni[sz]ed|available|valid"
    r"|enabled|implemented|known|expected)|unsupported|unknown|unrecogni[sz]ed|unexpected|instead|deprecated"
    r"|extra[ _](inputs|fields|forbidden)|does(n't| not) (support|accept|allow|take|have)|no longer"
    r"|disallowed|forbidden|only the default|removed|obsolete|(cannot|can't) be (used|specified|set)"
    r"|no endpoints found",
    re.I,
)
_RANGE = re.compile(
    r"at (most|least)|(less|greater|larger|smaller|higher|lower|more) than|between|range|<=|>=|≤|≥|exceed"
    r"|too (large|high|low|small|big)|must be (strictly |a )?(positive|non-?negative)"
    r"|(upper|lower) (bound|limit)",
    re.I,
)
_VALUES = ("max_tokens", "max_completion_tokens", "temperature", "top_p")
"""Fields whose value, and not the field, is at fault where the words speak of a range."""


@dataclass(frozen=True, slots=True)
class Change:
    """Other terms, and what is reported to the user once they are accepted."""

    terms: Terms
    field: str
    action: Action
    consequence: str
    warning: bool

    def negotiated(self, model: str, words: str) -> Negotiated:
        """Return the change as it is reported, with the server's words."""
        return Negotiated(
            model=model,
            field=self.field,
            action=self.action,
            consequence=self.consequence,
            words=words,
            warning=self.warning,
        )


def refused_field(refusal: Refusal, fields: Collection[str], body: Mapping[str, Any]) -> str | None:
    """Which of the user's own fields a refusal names, and more plainly than any other; None for none."""
    for field in fields:
        if _named_by(refusal.param, field):
            return field
    words = refusal.words
    for field in fields:
        named = re.compile(rf"(?<![A-Za-z0-9_]){re.escape(field)}(?![A-Za-z0-9_])")
        if named.search(words) is None:
            continue
        others = [_distance(words, _PATTERNS[other]) for other in _suspects(refusal, body)]
        if not others or _distance(words, named) < min(others):
            return field
    return None


def changes(refusal: Refusal, body: Mapping[str, Any], terms: Terms) -> Iterator[Change]:
    """Other terms on which the server may accept the request, the likeliest first."""
    for field in _suspects(refusal, body):
        change = _RULES[field](refusal, body, terms)
        if change is not None:
            yield change


def together(refusal: Refusal, body: Mapping[str, Any], terms: Terms) -> list[Change]:
    """All of `changes`, each on the terms of the one before."""
    steps: list[Change] = []
    for field in _suspects(refusal, body):
        change = _RULES[field](refusal, body, steps[-1].terms if steps else terms)
        if change is not None:
            steps.append(change)
    return steps


def guesses(body: Mapping[str, Any], terms: Terms) -> Iterator[Change]:
    """Terms to try for a refusal that names nothing: without what servers most often lack."""
    unnamed = Refusal(status=400, words="")
    for field in ("logprobs", "n", "response_format", "top_p", "temperature"):
        if field in body and (field != "n" or body["n"] > 1):
            change = _RULES[field](unnamed, body, terms)
            if change is not None:
                yield change


def value_refused(refusal: Refusal, body: Mapping[str, Any]) -> str | None:
    """The field whose value is out of the server's range; None when no value is at fault."""
    if not _RANGE.search(refusal.words) or _renamed(refusal, body):
        return None
    named = [field for field in _suspects(refusal, body) if field in _VALUES]
    return named[0] if named else None


def same_words(first: Refusal, second: Refusal) -> bool:
    """Whether two refusals say the same, but for numbers and identifiers."""
    return _plain(first.words) == _plain(second.words)


def _plain(words: str) -> str:
    return " ".join(word for word in words.split() if not re.search(r"\d", word))


def _suspects(refusal: Refusal, body: Mapping[str, Any]) -> list[str]:
    present = [field for field in _PATTERNS if _present(field, body)]
    by_param = [field for field in present if _named_by(refusal.param, field)]
    if refusal.param.endswith("role") and "messages" in present:
        by_param.append("messages")
    if by_param:
        return by_param
    if _renamed(refusal, body):
        return ["max_tokens"]
    named = [field for field in present if _mentions(refusal, field)]
    if refusal.status in (403, 404, 405) and not _UNKNOWN.search(refusal.words):
        return []
    near = {field: _distance(refusal.words, _PATTERNS[field]) for field in named}
    return sorted(named, key=lambda field: near[field])


def _present(field: str, body: Mapping[str, Any]) -> bool:
    if field == "messages":
        return any(message.get("role") in SYSTEM_ROLES for message in body.get("messages", ()))
    return field in body


def _named_by(param: str, field: str) -> bool:
    """Whether a path such as `body.n` or `generation_config.temperature` ends in the field."""
    if not param:
        return False
    last = re.split(r"[.\[\]/]+", param.strip("[]. "))
    return field in last and field != "messages"


def _mentions(refusal: Refusal, field: str) -> bool:
    return _PATTERNS[field].search(refusal.words) is not None


def _distance(words: str, name: re.Pattern[str]) -> int:
    """How far a field's name is from what says that it is refused, in 40 characters; 0 for nearest."""
    refusing = [match.start() for match in _UNKNOWN.finditer(words)]
    named = [match.start() for match in name.finditer(words)]
    return min((abs(place - other) // 40 for place in named for other in refusing), default=0)


def _renamed(refusal: Refusal, body: Mapping[str, Any]) -> bool:
    """Whether the words ask for the token limit under its other name."""
    return (
        "max_tokens" in body
        and "max_completion_tokens" in refusal.words
        and _UNKNOWN.search(refusal.words) is not None
    )


def _limit(refusal: Refusal, body: Mapping[str, Any], terms: Terms) -> Change | None:
    if terms.limit == "max_tokens":
        return Change(
            replace(terms, limit="max_completion_tokens"),
            "max_tokens",
            "renamed",
            "sent as max_completion_tokens",
            False,
        )
    if terms.limit is None:
        return None
    consequence = "it is not sent, answers end at the server's own limit, and caps on spending may be passed"
    return Change(replace(terms, limit=None), "max_tokens", "dropped", consequence, True)


def _samples(refusal: Refusal, body: Mapping[str, Any], terms: Terms) -> Change | None:
    n = int(body["n"])
    if n > 1:
        allowed = [int(k) for k in re.findall(r"(?<![\w.\-])\d+(?![\w\-]|\.\d)", refusal.words)]
        most = max((k for k in allowed if 1 <= k < n), default=1)
        consequence = f"at most {most} in a request, more in several; max_n: {most} saves the question"
        return Change(replace(terms, most_n=most), "n", "split", consequence, False)
    if "n" in terms.dropped:
        return None
    return Change(
        replace(terms, most_n=1, dropped=terms.dropped | {"n"}), "n", "dropped", "one sample a request", False
    )


def _format(refusal: Refusal, body: Mapping[str, Any], terms: Terms) -> Change | None:
    if body["response_format"].get("type") == "json_schema":
        consequence = "any JSON object is asked for, not one of the schema"
        return Change(replace(terms, json_object=True), "response_format", "weakened", consequence, True)
    return _dropped("response_format", "answers are not held to JSON", warning=True)(refusal, body, terms)


def _system(refusal: Refusal, body: Mapping[str, Any], terms: Terms) -> Change | None:
    consequence = "the system message stands at the head of the user's"
    return Change(replace(terms, folded=True), "messages", "moved", consequence, False)


def _dropped(
    field: str, consequence: str, *, warning: bool
) -> Callable[[Refusal, Mapping[str, Any], Terms], Change]:
    def rule(refusal: Refusal, body: Mapping[str, Any], terms: Terms) -> Change:
        return Change(replace(terms, dropped=terms.dropped | {field}), field, "dropped", consequence, warning)

    return rule


_RULES: dict[str, Callable[[Refusal, Mapping[str, Any], Terms], Change | None]] = {
    "logprobs": _dropped(
        "logprobs", "samples come without log-probabilities; weighted votes count them alike", warning=False
    ),
    "top_p": _dropped("top_p", "samples are drawn at the server's own top_p", warning=False),
    "stop": _dropped("stop", "texts are cut at the stop strings here", warning=False),
    "response_format": _format,
    "n": _samples,
    "max_completion_tokens": _limit,
    "max_tokens": _limit,
    "messages": _system,
    "temperature": _dropped(
        "temperature", "it is not sent, samples are drawn at the server's own", warning=True
    ),
}
