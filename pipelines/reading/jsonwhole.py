"""One JSON value that opens at a position of a text: the whole of it, small faults mended, or none.

Of libraries that repair JSON, json-repair completes cut values, drops keys without a value and turns bare
words into texts, also in its strict mode, so that a fragment cannot be told from the whole. The tolerant
reader here ends where the value's own brackets end, or not at all.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn

from pipelines.jsonvalues import JSON


@dataclass(frozen=True, slots=True)
class JsonSpan:
    """A whole JSON value in a text.

    Attributes:
        value: The value.
        end: Position in the text just after the value.
    """

    value: JSON
    end: int


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse, strict=False)
_LIKE_JSON = re.compile(r"\{\s*(?:[\"'“}/#]|[^\W\d][\w$-]*\s*[:：])|\[\s*[\[\]{\"'“/#+.0-9TFNtfn-]")
_TOKEN = re.compile(
    r"""
    (?P<space>  [\s\ufeff]+ | //[^\n]* | \#[^\n]* | /\*.*?\*/ )
  | (?P<triple> \"\"\"(?P<in_triple>.*?)\"\"\" )
  | (?P<double> \"(?P<in_double>(?:[^\"\\]++|\\.)*+)\" )
  | (?P<single> '(?P<in_single>(?:[^'\\]++|\\.|(?<=\w)'(?=\w))*+)' )
  | (?P<curly>  [“”](?P<in_curly>[^“”]*)[“”] )
  | (?P<number> [+-]?(?:0|[1-9][0-9]*|(?=\.[0-9]))(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?(?![\w.]) )
  | (?P<word>   [^\W\d][\w$-]* )
  | (?P<mark>   [{}\[\],:，：] )
    """,
    re.VERBOSE | re.DOTALL,
)
_TO_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\.|[\"\x00-\x1f]", re.DOTALL)
_LITERALS = {
    "true": "true",
    "false": "false",
    "null": "null",
    "True": "true",
    "False": "false",
    "None": "null",
}


def value_at(text: str, start: int) -> JsonSpan | None:
    """Read the whole object or list that opens at a position.

    Args:
        text: Any text.
        start: Position of a bracket.

    Returns:
        The value and where it ends; None where it is cut, broken beyond small faults or not finite.
    """
    if not _LIKE_JSON.match(text, start):
        return None
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return _mended(text, start)
    return JsonSpan(value, end) if _expressible(value) else None


def whole_text(text: str) -> JsonSpan | None:
    """Read a text that is one JSON value and nothing else, scalars among them.

    Args:
        text: A text without white space at its ends.

    Returns:
        The value; None where the text is anything else.
    """
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        value_read = _mended(text, 0) if text[:1] in ("{", "[", "'", "“") or text in _LITERALS else None
        return value_read if value_read and value_read.end == len(text) else None
    return JsonSpan(value, len(text)) if _expressible(value) else None


def _mended(text: str, start: int) -> JsonSpan | None:
    """Read a value with small faults, up to its own closing bracket.

    Mended are single and curly quotes, triple quotes, raw line ends and unknown escapes in texts, comments,
    one comma before a closing bracket, keys without quotes, Python's True, False and None, numbers such as
    +1, .5 and 5., and the full-width comma and colon.

    Returns:
        The value and where it ends in the text; None for any other fault.
    """
    written: list[str] = []
    depth, position = 0, start
    while token := _TOKEN.match(text, position):
        position = token.end()
        if (kind := token.lastgroup) == "space":
            continue
        strict = _strict(kind or "", token, text)
        if strict is None:
            return None
        if strict in ("}", "]"):
            depth -= 1
            if len(written) > 1 and written[-1] == "," and written[-2] not in ("{", "[", ","):
                written.pop()
        depth += strict in ("{", "[")
        written.append(strict)
        if depth == 0:
            try:
                value = _DECODER.decode(" ".join(written))
            except (ValueError, RecursionError):
                return None
            return JsonSpan(value, position) if _expressible(value) else None
    return None


def _strict(kind: str, token: re.Match[str], text: str) -> str | None:
    """Write a token as strict JSON has it; None for a word that is neither a literal nor a key."""
    if kind in ("triple", "double", "single", "curly"):
        return f'"{_TO_ESCAPE.sub(_escaped, token.group(f"in_{kind}"))}"'
    word = token.group()
    if kind == "number":
        digits = re.sub(r"\.(?![0-9])", "", word.lstrip("+"))
        return re.sub(r"^(-?)\.", r"\g<1>0.", digits)
    if kind == "word":
        if re.compile(r"\s*[:：]").match(text, token.end()):
            return json.dumps(word)
        return _LITERALS.get(word)
    return {"，": ",", "：": ":"}.get(word, word)


def _escaped(match: re.Match[str]) -> str:
    escape = match.group()
    if len(escape) == 6 or (len(escape) == 2 and escape[1] in '"\\/bfnrt'):
        return escape
    if escape == "\\'":
        return "'"
    return json.dumps(escape)[1:-1]


def _expressible(value: JSON) -> bool:
    """Whether a value is finite and UTF-8 can express its texts."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return True
