"""JSON in what models write: a value is taken whole or not at all.

A value that is cut off, or broken beyond small faults, hides everything inside it: a list that was meant as
one member of an object is never passed off as the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pipelines.jsonvalues import JSON, value_problem
from pipelines.reading.fences import closed_fences
from pipelines.reading.jsonwhole import JsonSpan, value_at, whole_text
from pipelines.reading.noanswer import NoAnswer

_FENCE = re.compile(r"[`~]{3,}[ \t]*([\w+#.-]*)[^\n\[{]*\s*(?=[\[{])")
_WHOLE_IN_FENCE = re.compile(r"\A\s*(`{3,}|~{3,})[^\n`]*\n(.*?)\n?[ \t]*\1\s*\Z", re.DOTALL)
_OTHER_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*(?!json|jsonc|json5|jsonl|ndjson|text|txt|plaintext)[A-Za-z][^\n`]*\n",
    re.MULTILINE | re.IGNORECASE,
)
_BRACKET = re.compile(r"[\[{]")
_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}"]', re.DOTALL)
_INTERVAL = re.compile(r"\[[^\[\](){}\"']*\)")
_MEMBER_OF_UNOPENED = re.compile(r"(?:^|[,{\[])\s*\"[^\"\n]*\"\s*:\s*\Z", re.MULTILINE)
_FURTHER_ITEM = re.compile(r"\s*,\s*(?=[\[{])")
_CLOSERS = {"{": "}", "[": "]"}


def json_value(text: str, schema: Mapping[str, JSON] | None = None) -> JSON | NoAnswer:
    """Read the JSON value that a text holds.

    The text as a whole comes first, then what code fences hold (those tagged json before others), then
    objects and lists in running text. Other text may stand around the value. Without a schema the first
    whole value counts; of a key that is given twice the last value counts, as in Python's json.

    Args:
        text: What the model wrote, without its thinking (see `strip_thinking`).
        schema: JSON schema of the value; the first whole value that satisfies it is taken. None accepts any.

    Returns:
        The value, or NoAnswer where there is none, where it is cut off, broken, null, not finite (NaN,
        Infinity, 1e999), holds text that UTF-8 cannot express, or breaks the schema.
    """
    problem: str | None = None
    for value in _values(text):
        if value is None:
            problem = problem or "null is no value"
        elif schema is None or not (breach := value_problem(value, dict(schema))):
            return value
        else:
            problem = problem or f"breaks the schema: {breach}"
    return NoAnswer(problem or "no JSON value")


def _values(text: str) -> Iterator[JSON]:
    """Yield the whole values of a text, the likeliest answer first."""
    stripped = text.strip().removeprefix("\ufeff")
    fenced = _WHOLE_IN_FENCE.match(stripped)
    for whole in (stripped, fenced.group(2).strip()) if fenced else (stripped,):
        if value := whole_text(whole):
            yield value.value
            return
    if not _BRACKET.search(stripped):
        return
    unopened = _unopened(stripped)
    if unopened is not None:
        yield unopened.value
        return
    yield from _fenced(stripped)
    code = list(closed_fences(stripped, _OTHER_FENCE))
    around = zip([0, *(end for _, end in code)], [*(start for start, _ in code), None], strict=True)
    yield from _in_prose("\n".join(stripped[start:end] for start, end in around))
    for start, end in code:
        yield from _in_prose(stripped[start:end])


def _unopened(text: str) -> JsonSpan | None:
    """Read a value whose opening bracket stood in the prompt, so that the text only closes it."""
    if text[0] in "\"'":
        openers = "{["
    elif text[0] in "{[" and (first := value_at(text, 0)) and _FURTHER_ITEM.match(text, first.end):
        openers = "["
    else:
        return None
    for opener in openers:
        span = value_at(opener + text, 0)
        if span and (opener + text)[span.end :].lstrip()[:1] not in (",", "}", "]"):
            return span
    return None


def _fenced(text: str) -> Iterator[JSON]:
    """Yield the values that code fences open with, those of fences tagged json first."""
    if "```" not in text and "~~~" not in text:
        return
    first_end = _end_of(text, 0) if text[0] in "{[" else 0
    fences = [
        fence
        for fence in _FENCE.finditer(text)
        if first_end is not None
        and fence.start() >= first_end
        and (not fence.start() or text[fence.start() - 1] in " \t\n:：")
    ]
    for fence in sorted(fences, key=lambda fence: not fence.group(1).lower().startswith("json")):
        if span := value_at(text, fence.end()):
            yield span.value


def _in_prose(text: str) -> Iterator[JSON]:
    """Yield the objects and lists of running text that are not part of a larger one."""
    position = 0
    while opening := _BRACKET.search(text, position):
        start = opening.start()
        if interval := _INTERVAL.match(text, start):
            position = interval.end()
        elif span := value_at(text, start):
            if _part(text, start, span.end):
                return
            yield span.value
            position = span.end
        else:
            end = _end_of(text, start)
            if end is None:
                return
            position = end


def _part(text: str, start: int, end: int) -> bool:
    """Whether a value is a member of one whose opening is missing or whose end is."""
    if text[end:].lstrip()[:1] in ("}", "]") or _MEMBER_OF_UNOPENED.search(text[max(0, start - 200) : start]):
        return True
    further = _FURTHER_ITEM.match(text, end)
    return further is not None and _end_of(text, further.end()) is None


def _end_of(text: str, start: int) -> int | None:
    """Find the end of a bracketed span, whatever is in it; None where its brackets do not match."""
    open_brackets: list[str] = []
    for match in _STRUCTURE.finditer(text, start):
        mark = match.group()
        if mark in _CLOSERS:
            open_brackets.append(mark)
        elif mark == '"':
            return None
        elif mark in ("}", "]"):
            if _CLOSERS[open_brackets.pop()] != mark:
                return None
            if not open_brackets:
                return match.end()
    return None
