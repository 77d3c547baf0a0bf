"""Which allowed passages the lines of a text quote, whatever markup stands around them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache

from pipelines.reading.folding import fold, unambiguous
from pipelines.reading.noanswer import NoAnswer

_HAN_NUMBER = "[一二三四五六七八九十]+"
_LEAD = re.compile(
    rf"""\A(?: [-*+>•·▪▫◦‣⁃●○■□→✓✔★☆]+\s* | \#{{1,6}}\s+ | \[[\ x]\]\s+
      | \(?\d{{1,3}}[.):\]、](?:\s+|(?!\d)) | \(?(?:[a-z]|[ivx]{{1,4}})\)\s*
      | [\[(【〔](?:\d{{1,3}}|[a-z]|{_HAN_NUMBER})[\])】〕][.:]?\s*
      | {_HAN_NUMBER}[、.:]\s* | 第\s*(?:\d+|{_HAN_NUMBER})\s*[条句项段][、.:]?\s*
      | (?:sentence|passage|candidate|line|text|document|doc|quote|evidence|paragraph
        |句子|段落|候选|文本|证据)\s*\#?\d{{1,3}}\s*[.:)\]-]\s* )""",
    re.VERBOSE | re.IGNORECASE,
)
_CITATION = re.compile(r"\s*[\[(]\d{1,3}[\])]\Z")
_EMPHASIS = re.compile(r"[*`]|__|~~")
_TABLE = re.compile(r"\A\|\s*(.*?)\s*\|\Z")
_PAIRS = ("**", "__", "~~", "``", "''", "*", "_", "`", '"', "'")
_BRACKETS = {"(": ")", "[": "]", "<": ">", "{": "}", "【": "】", "〔": "〕"}
_LONGEST_MARKUP = 80  # characters beside a passage on its line
_ENDS = " .,;:!?。、…\"'()[]{}<>【】〔〕_|"
_TRAIL = ".,;:!?。、…"


def quoted_lines(text: str, allowed: Sequence[str]) -> list[str] | NoAnswer:
    """Read which allowed passages a text quotes, each on a line of its own.

    Around a passage may stand bullets, numbers, quotes of any script, bold, italics, backticks, and
    punctuation at its end; Unicode forms, spacing and letter case do not matter. A passage of several lines
    is quoted by the same lines.

    Args:
        text: What the model wrote, without its thinking.
        allowed: The passages.

    Returns:
        The passages that are quoted, in the order of `allowed`, each once; NoAnswer where none is.
    """
    passages = _passages(tuple(allowed))
    chosen: set[str] = set()
    for line in text.splitlines():
        if (passage := passages.quoted(line)) is not None:
            chosen.add(passage)
    if passages.longest_lines > 1:
        chosen |= passages.over_lines(text)
    if not chosen:
        return NoAnswer(f"no line is one of the {len(allowed)} allowed values")
    return [value for form, value in passages.by_form.items() if value in chosen]


class _Passages:
    """Passages, ready to be looked for in many texts."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self.by_form: dict[str, str] = {}
        for value in allowed:
            self.by_form.setdefault(fold(value, case=True), value)
        self.longest_lines = max(len(value.strip().splitlines()) for value in allowed) if allowed else 0
        self._longest = max(map(len, self.by_form), default=0) + _LONGEST_MARKUP

    @cached_property
    def _by_loose(self) -> dict[str, str]:
        return unambiguous({form: fold(form) for form in self.by_form}, self.by_form)

    @cached_property
    def _by_core(self) -> dict[str, str]:
        return unambiguous({form: _core(fold(form)) for form in self.by_form}, self.by_form)

    @cached_property
    def _over_lines(self) -> dict[str, str]:
        """The passages of several lines, by their form as text."""
        several = (value for value in self.by_form.values() if len(value.strip().splitlines()) > 1)
        return {value: f" {fold(value)} " for value in several}

    def quoted(self, line: str) -> str | None:
        """The passage that a line quotes."""
        cased = fold(line, case=True)
        if not cased or len(cased) > self._longest:
            return None
        if cased in self.by_form:
            return self.by_form[cased]
        forms = _peeled(cased)
        for form in forms:
            if form in self.by_form:
                return self.by_form[form]
        loose = [fold(form) for form in forms]
        for form in loose:
            if form in self._by_loose:
                return self._by_loose[form]
        cores = (_core(form) for form in loose)
        return next((self._by_core[core] for core in cores if core in self._by_core), None)

    def over_lines(self, text: str) -> set[str]:
        """The passages of several lines that a text quotes."""
        whole = f" {fold(text)} "
        return {value for value, form in self._over_lines.items() if form in whole}


@lru_cache(maxsize=256)
def _passages(allowed: tuple[str, ...]) -> _Passages:
    return _Passages(allowed)


def _peeled(folded: str) -> list[str]:
    """A line, and what is left as one layer of markup after the other is taken off."""
    forms = [folded]
    while (inner := _without_a_layer(forms[-1])) != forms[-1] and inner:
        forms.append(inner)
    return forms


def _core(folded: str) -> str:
    """What is left of a line without emphasis, and without punctuation at its ends."""
    return _EMPHASIS.sub("", folded).strip(_ENDS)


def _without_a_layer(line: str) -> str:
    if table := _TABLE.match(line):
        return table.group(1)
    for pair in _PAIRS:
        if len(line) > 2 * len(pair) and line.startswith(pair) and line.endswith(pair):
            return line[len(pair) : -len(pair)].strip()
    if line[:1] in _BRACKETS and line.endswith(_BRACKETS[line[0]]) and line.count(line[0]) == 1:
        return line[1:-1].strip()
    if lead := _LEAD.match(line):
        return line[lead.end() :]
    if citation := _CITATION.search(line):
        return line[: citation.start()]
    if line[-1:] in _TRAIL:
        return line.rstrip(_TRAIL).rstrip()
    for mark in ("**", "__", "*", '"', "'", "`"):  # left over where the other end was taken for a bullet
        if line.endswith(mark) and line.count(mark) == 1:
            return line[: -len(mark)].rstrip()
        if line.startswith(mark) and line.count(mark) == 1:
            return line[len(mark) :].lstrip()
    return line
