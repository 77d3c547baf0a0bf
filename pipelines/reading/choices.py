"""Which one of several allowed values a text names, also in scripts that put no spaces between words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pipelines.reading.answers import final_answer
from pipelines.reading.folding import CJK, fold, unambiguous
from pipelines.reading.noanswer import NoAnswer

_UNSPACED = f"{CJK}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # and Thai, Lao, Burmese, Khmer
_STARTS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_NEGATING = re.compile(r"[不非无無未没沒勿]")
_MARKUP = "\"'`*_$.,;:!?()[]{}<>|。、，；：！？「」『』【】（）《》·\\ \t"
_VERB = "and|or|nor|but|is|was|are|would|should|could|can|has|because|since|as|than|over|in|for|with|to"
_ARTICLE = re.compile(
    rf"A(?=\s+(?!(?:{_VERB}|seems|looks|fits|works|matches|also)\b)[a-z])|I(?=['’]|\s+[a-z])"
)
_BEFORE_A_LETTER = re.compile(r"(?:option|choice|answer|is|are|be|[:：=(\[*_])\s*\Z", re.IGNORECASE)


def choice(text: str, allowed: Sequence[str]) -> str | NoAnswer:
    """Read which allowed value a text names.

    In turn: the text as a whole, whatever markup stands around it; the final answer that it marks (see
    `answers.final_answer`); the only value that it names anywhere. Values in scripts with spaces are named as
    whole words, others anywhere but after a negating character (满意 is not named by 不满意). Of values that
    overlap the longest counts.

    Args:
        text: What the model wrote, without its thinking.
        allowed: The values; letter case, spacing and Unicode forms do not matter.

    Returns:
        The value as `allowed` has it, or NoAnswer where none or several are named.
    """
    choices = _choices(tuple(allowed))
    if (whole := choices.whole(text)) is not None:
        return whole
    marked = final_answer(text)
    if isinstance(marked, str):
        if (whole := choices.whole(marked)) is not None:
            return whole
        named = choices.named(marked)
        if len(named) == 1:
            return named.pop()
    named = choices.named(text)
    if len(named) == 1:
        return named.pop()
    return NoAnswer(f"names {len(named)} of the {len(choices.values)} allowed values")


class _Choices:
    """Allowed values, ready to be looked for in many texts."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self.values = {fold(value): value for value in allowed}
        self._cased = {fold(value, case=True): value for value in allowed}
        bare = {form: _bare(form) for form in self.values}
        self._bare = unambiguous(bare, self.values)
        self._letters = all(len(bare[form]) == 1 and form.isascii() for form in self.values)

    def whole(self, text: str) -> str | None:
        """The value that is all of a text, markup aside."""
        folded = fold(text)
        if folded in self.values:
            return self.values[folded]
        bare = _bare(folded)
        if not bare:
            return None
        return self.values[bare] if bare in self.values else self._bare.get(bare)

    def named(self, text: str) -> set[str]:
        """The values that a text names somewhere."""
        if self._letters:
            cased = fold(text, case=True)
            named = {
                self._cased[form]
                for form, start in _matches(self._cased, cased)
                if not _ARTICLE.match(cased, start)
                or _BEFORE_A_LETTER.search(cased, max(0, start - 12), start)
            }
            if named:
                return named
        return {self.values[form] for form, _ in _matches(self.values, fold(text))}


@lru_cache(maxsize=256)
def _choices(allowed: tuple[str, ...]) -> _Choices:
    return _Choices(allowed)


def _bare(folded: str) -> str:
    return folded.strip(_MARKUP).removeprefix("- ").strip(_MARKUP)


@lru_cache(maxsize=4096)
def _with_borders(form: str) -> re.Pattern[str]:
    """Match a value where it is not part of a longer word or number."""
    spaced_word = rf"[^\W{_UNSPACED}]"
    left, right = rf"(?<!{spaced_word})", rf"(?!{spaced_word})"
    if _STARTS_UNSPACED.match(form):
        left = ""
    elif form[0].isdigit():
        left += r"(?<![0-9][.,/])(?<![^\w\s)\]]-)(?<!\s-)(?<!^-)(?<!\.)"
    if _STARTS_UNSPACED.match(form[-1]):
        right = ""
    elif form[-1].isdigit():
        right += r"(?![.,/][0-9])"
    return re.compile(f"{left}{re.escape(form)}{right}")


def _matches(forms: Iterable[str], text: str) -> list[tuple[str, int]]:
    """The values named and where, without those that a longer one overlaps."""
    spans = list[tuple[int, int, str]]()
    for form in forms:
        start = text.find(form) if form else -1
        while start >= 0:
            end = start + len(form)
            if _with_borders(form).match(text, start) and not _inside_a_word(text, start, end):
                spans.append((start, end, form))
            start = text.find(form, start + 1)
    if len({form for *_, form in spans}) < 2:
        return [(form, start) for start, _, form in spans]
    covered = bytearray(len(text))
    longest = list[tuple[str, int]]()
    for start, end, form in sorted(spans, key=lambda span: span[0] - span[1]):
        if not (covered[start] or covered[end - 1]):
            covered[start:end] = b"\1" * (end - start)
            longest.append((form, start))
    return longest


def _inside_a_word(text: str, start: int, end: int) -> bool:
    """Whether a combining mark follows, or a value in a script without spaces stands after a negation."""
    if end < len(text) and not text[end].isascii() and unicodedata.category(text[end])[0] == "M":
        return True
    return bool(start and _STARTS_UNSPACED.match(text[start]) and _NEGATING.match(text[start - 1]))
