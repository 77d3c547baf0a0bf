"""Thinking in what models write: taken off before anything else is read.

Spellings are those of the chat templates of public models: tags (`<think>`, `<thinking>`, `<reasoning>`,
`[THINK]`, `◁think▷`, `<|START_THINKING|>`, ...), the channels of gpt-oss's harmony format
(https://cookbook.openai.com/articles/openai-harmony), also where a server dropped their special tokens, and
Granite's two headings. A tag inside a JSON value, a block of code, or quotes of its own is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.reading.fences import closed_fences
from pipelines.reading.jsonwhole import value_at
from pipelines.reading.noanswer import NoAnswer

CUT = NoAnswer("the text ends inside its thinking")
NOTHING_AFTER = NoAnswer("nothing follows the thinking")

_NAMES = r"(?:seed:|longcat_|antml:)?(?:think|thinking|thoughts?|reasoning|思考)"
_SOFT = r"analysis|scratchpad|reflection|rationale|thought_process|inner_monologue|internal_monologue"
_TAG = re.compile(
    rf"""
    (?P<open>  [<＜]\s*{_NAMES}(?:\s[^<>\n]*)?\s*[>＞] | \[THINK\] | ◁think▷ | <\|START_THINKING\|>
             | <\|begin_of_thought\|> | <\|channel>thought | <unused94>thought )
  | (?P<close> [<＜]\s*/\s*{_NAMES}\s*[>＞] | \[/THINK\] | ◁/think▷ | <\|END_THINKING\|>
             | <\|end_of_thought\|> | <channel\|> | <unused95> )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_TAG_START = re.compile(r"[<＜\[◁]")
_SIGNS = ("think", "thought", "reasoning", "思考", "<channel|", "<unused95>")
_SOFT_BLOCK = re.compile(rf"\A\s*<({_SOFT})>.*?</\1>(?=\s*\S)", re.DOTALL | re.IGNORECASE)
_MAY_GO = re.compile(
    rf"\A\s*(?:analysis|<(?:{_SOFT}|response|answer)>|<\|START_RESPONSE\|>|<\|begin_of_solution\|>)",
    re.IGNORECASE,
)
_WRAPPER = re.compile(
    r"\A\s*(?:<(response|answer)>(.*)</\1>|<\|START_RESPONSE\|>(.*?)(?:<\|END_RESPONSE\|>)?"
    r"|<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>)?)\s*\Z",
    re.DOTALL | re.IGNORECASE,
)
_HARMONY = re.compile(
    r"\A\s*(?:<\|start\|>\s*assistant\s*)?(?:<\|channel\|>|(?:analysis|commentary|final)\s*<\|message\|>)"
)
_HARMONY_FINAL = re.compile(r"(?:<\|channel\|>|\A)\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_HARMONY_END = re.compile(r"<\|(?:return|end|start|call)\|>")
_BARE_HARMONY = re.compile(r"\Aanalysis(?=[A-Z]|[^\x00-\x7f])|\Aanalysis\b(?=.*assistantfinal)", re.DOTALL)
_BARE_FINAL = re.compile(r"assistant\s*final(?=\W|[A-Z0-9_]|$)")
_GRANITE = re.compile(r"\A\s*Here(?:'s| is) my thought process:", re.IGNORECASE)
_GRANITE_ANSWER = re.compile(r"^[ \t]*Here(?:'s| is) my (?:response|answer):", re.IGNORECASE | re.MULTILINE)
_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
_MOST_LOOKS = 20  # so that texts that repeat themselves are read in linear time
_QUOTES = "\"'`“”‘’「」«»"
_OPENING = re.compile(r"[\[{]")
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n", re.MULTILINE)
_CODE_IN_LINE = re.compile(r"(?<!`)`[^`\n]+`(?!`)")


def strip_thinking(text: str) -> str | NoAnswer:
    """Take the thinking off what a model wrote.

    Thinking that is opened and closed is taken out wherever it stands. Where only the closing tag is there,
    because the prompt opened it, everything before the last such tag is thinking.

    Args:
        text: The model's text.

    Returns:
        What is left, with the indent of its first line; the text itself where it holds no thinking. NoAnswer
        where the text ends inside its thinking, or nothing follows it.
    """
    if "<|" in text and _HARMONY.match(text):
        return _harmony(text)
    if text.startswith("analysis") and _BARE_HARMONY.match(text):
        finals = list(_BARE_FINAL.finditer(text))
        return _rest(text[finals[-1].end() :].lstrip(" \t")) if finals else CUT
    if (start := _GRANITE.match(text)) is not None:
        answer = _GRANITE_ANSWER.search(text, start.end())
        return _rest(text[answer.end() :].lstrip(" \t")) if answer else CUT
    without_tags = _without_tags(text) if _may_hold_tags(text) else text
    if isinstance(without_tags, NoAnswer):
        return without_tags
    without_soft = _SOFT_BLOCK.sub("", without_tags) if without_tags.lstrip()[:1] == "<" else without_tags
    return text if without_soft == text else _rest(without_soft)


def may_go(text: str) -> bool:
    """Whether what a text begins with is thinking or a wrapper, should it go on as such texts do.

    Args:
        text: The beginning of a text, or of what `strip_thinking` left of it.
    """
    return _MAY_GO.match(text) is not None


def _may_hold_tags(text: str) -> bool:
    """Whether a text holds what every tag has; most texts do not, and this is quick to see."""
    if not ("<" in text or "[" in text or "◁" in text or "＜" in text):
        return False
    lowered = text.lower()
    return any(sign in lowered for sign in _SIGNS)


def _without_tags(text: str) -> str | NoAnswer:
    """Take tagged blocks out, one after the other; then what stands before a closing tag alone."""
    pieces: list[str] = []
    position = 0
    protected = _Protected(text)
    tags = [tag for tag in _tags(text) if not _mentioned(text, tag)]
    i = 0
    while i < len(tags):
        tag = tags[i]
        i += 1
        if tag.start() < position:
            continue
        if tag.lastgroup == "close":
            if not protected.holds(tag, position):
                pieces, position = [], tag.end()
            continue
        if protected.holds(tag, position):
            continue
        closing = next((later for later in tags[i:] if later.lastgroup == "close"), None)
        if closing is None:
            return CUT
        pieces.append(text[position : tag.start()])
        position = closing.end()
    if not position:
        return text
    before, rest = "".join(pieces), text[position:]
    return before.rstrip() + rest if before.strip() else rest.lstrip(" \t")


def _tags(text: str) -> Iterator[re.Match[str]]:
    """Yield the tags of a text, in order."""
    for start in _TAG_START.finditer(text):
        if tag := _TAG.match(text, start.start()):
            yield tag


class _Protected:
    """Tells which tags belong to the answer proper: those inside a JSON value, a block or line of code."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans: dict[int, list[tuple[int, int]]] = {}

    def holds(self, tag: re.Match[str], answer_start: int) -> bool:
        """Whether a tag is part of the answer, if that begins at `answer_start`."""
        if answer_start not in self._spans:
            if len(self._spans) == _MOST_LOOKS:
                return False
            self._spans[answer_start] = [
                *self._values(answer_start),
                *closed_fences(self._text, _FENCE, answer_start, shorter=True),
                *(code.span() for code in _CODE_IN_LINE.finditer(self._text, answer_start)),
            ]
        return any(
            start < tag.start() < end and not self._ends_a_draft(tag, start)
            for start, end in self._spans[answer_start]
        )

    def _values(self, answer_start: int) -> list[tuple[int, int]]:
        spans, position, failures = list[tuple[int, int]](), answer_start, 0
        while failures < _MOST_LOOKS and (opening := _OPENING.search(self._text, position)):
            span = value_at(self._text, opening.start())
            position = span.end if span else opening.end()
            failures += not span
            if span:
                spans.append((opening.start(), span.end))
        return spans

    def _ends_a_draft(self, tag: re.Match[str], start: int) -> bool:
        """Whether a closing tag stands on a line of its own, without its opening tag in the same block."""
        if tag.lastgroup != "close" or _TAG.search(self._text, start, tag.start()):
            return False
        line_start = self._text.rfind("\n", 0, tag.start()) + 1
        line_end = self._text.find("\n", tag.end())
        line = self._text[line_start : line_end if line_end >= 0 else len(self._text)]
        return line.strip() == tag.group().strip()


def _mentioned(text: str, tag: re.Match[str]) -> bool:
    """Whether a tag is only spoken of, in quotes of its own."""
    opening, closing = text[max(0, tag.start() - 2) : tag.start()], text[tag.end() : tag.end() + 2]
    return (
        opening[-1:] in _QUOTES
        and closing[:1] in _QUOTES
        and bool(opening and closing)
        and (len(opening) == 1 or not (opening[0].isalnum() or opening[0] in ".!?"))
        and not closing[1:].isalnum()
    )


def _harmony(text: str) -> str | NoAnswer:
    finals = list(_HARMONY_FINAL.finditer(text))
    if not finals:
        return CUT
    start = finals[-1].end()
    end = _HARMONY_END.search(text, start)
    return _rest(text[start : end.start() if end else len(text)])


def _rest(text: str) -> str | NoAnswer:
    """Leave out the line ends that follow the thinking, and tags around all that is left."""
    if wrapped := _WRAPPER.match(text):
        text = next(group for group in wrapped.groups()[1:] if group is not None)
    return _BLANK_LINES.sub("", text).rstrip() or NOTHING_AFTER
