"""One form of texts that read the same: Unicode, white space, case, words."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping

CJK = (
    "\u1100-\u11ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f"
)
"""Chinese, Japanese and Korean characters, as the inside of a regular expression's set."""

_ONE_FORM = {
    **dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b\u02bc\u02b9\u2032\u00b4\u2039\u203a"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u300a\u300b\u3008\u3009"), '"'),
    **dict.fromkeys(map(ord, "\u300c\u300d\u300e\u300f\uff62\uff63\u301d\u301e\u301f"), '"'),
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u207b\ufe58\ufe63\uff0d"), "-"),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad\u061c\u180e"), ""),
    **dict.fromkeys(range(0x202A, 0x202F), ""),
    **dict.fromkeys(range(0x2066, 0x206A), ""),
    **dict.fromkeys(range(0xFE00, 0xFE10), ""),
}
_SUPERSCRIPT = "\u00b2\u00b3\u00b9\u2070\u2074-\u2079"
_VULGAR = "\u00bc-\u00be\u2150-\u215e\u2189"
_UNUSUAL = re.compile(f"[{re.escape(''.join(map(chr, _ONE_FORM)))}{_SUPERSCRIPT}{_VULGAR}]")
_SUPERSCRIPTS = re.compile(f"[\u207a\u207b]?[{_SUPERSCRIPT}]+")
_FRACTION = re.compile(rf"(\d?)([{_VULGAR}])")
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")
_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_DIGIT = re.compile(r"[0-9]")
_MEANT = re.compile(
    r"[.:/-](?<=[0-9].)(?=[0-9])|-(?<![\w.-].)(?=[$€£¥]?[0-9.])|\.(?<![\w.].)(?=[0-9])|\^(?<=\w.)(?=[\w-])"
)
_COMPARISONS = str.maketrans({"≤": "<=", "≥": ">=", "≠": "!="})
_LISTED = re.compile(r"(?<=[0-9])[,;、](?=[0-9])")
_SIGN = re.compile(r"[+*#<>=]")  # one of which every operator has
_OPERATOR = re.compile(
    r"(?<=[0-9])\s*\+\s*(?=[0-9])|(?<=[0-9])\*(?=[0-9])|(?<=\w)\+(?=\w)"  # 2 + 3, 2*3, 2x+1
    r"|(?<=\w)\++(?!\w)|(?<=[^\W\d_])#(?!\w)"  # O+, C++, C#
    r"|(?<=\w)\s*(?:[<>]=?|!=|==?)\s*(?=[-+.]?\w)|(?<![-=<>\w])[<>]=?\s*(?=[-+.]?[0-9])"  # p < 0.05, >5
)
_CHARGE = re.compile(r"(?<![\w-])[^\W\d_]{1,3}[0-9]?-(?![\w-])")  # O-, Cl-, HIV-
_MARK = re.compile(r"[^\w\s]|_")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_THOUSANDS = re.compile(
    r"(?<![0-9])(?<![0-9][.,])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3})(?![0-9]|,[0-9])"
)
_STAND_INS = {chr(0xE000 + i): mark for i, mark in enumerate(".:/-^+*#<>=!")}
_TO_KEEP = str.maketrans({mark: stand_in for stand_in, mark in _STAND_INS.items()})
_FROM_STAND_INS = str.maketrans(_STAND_INS)


def fold(text: str, *, case: bool = False) -> str:
    """Write a text in the form in which texts are compared.

    NFKC; one form of quotes and of dashes; superscripts as powers (10² is 10^2, not 102) and fractions as
    n/m; the digits 0 to 9 for those of other scripts; without invisible characters; runs of white space made
    one space, none at the ends; without case.

    Args:
        text: Any text.
        case: Whether to keep the case of letters.

    Returns:
        The form; "" for a text of white space and invisible characters alone.
    """
    if text.isascii():
        return " ".join((text if case else text.lower()).split())
    if _UNUSUAL.search(text):
        text = _SUPERSCRIPTS.sub(lambda m: "^" + unicodedata.normalize("NFKC", m.group()), text)
        text = _FRACTION.sub(_fraction, text.translate(_ONE_FORM))
    text = unicodedata.normalize("NFKC", text)
    if not case:
        text = unicodedata.normalize("NFKC", text.casefold())
    if _UNUSUAL.search(text):
        text = text.translate(_ONE_FORM)
    if not text.isascii():
        text = _FOREIGN_DIGIT.sub(lambda m: str(unicodedata.decimal(m.group())), text)
    return " ".join(text.split())


def answer_form(text: str) -> str:
    """Write a short answer in the form in which answers are compared.

    As SQuAD's evaluation has it (Rajpurkar et al. 2016): without punctuation and articles; but after `fold`,
    with all of Unicode's punctuation, and with the signs that make an answer what it is: the minus before a
    number, the point, colon, slash or dash between digits, a comparison or an operation (p<0.05, 2+3), and
    the sign at the end of a name (O+, O-, C++, C#). A comma between digits separates, unless it groups
    thousands. An answer that holds nothing but articles and punctuation is compared as it stands.

    Args:
        text: An answer, such as a name, a date or a number.

    Returns:
        The form; "" only for a text of white space and invisible characters alone.
    """
    folded = fold(text)
    marked = folded if folded.isascii() else folded.translate(_COMPARISONS)
    is_numeric = _DIGIT.search(folded) is not None
    if is_numeric and "," in marked:
        marked = _THOUSANDS.sub(lambda m: m.group().replace(",", ""), marked)
    if _SIGN.search(marked):
        marked = _OPERATOR.sub(_operator, marked)
    if "-" in marked:
        marked = _CHARGE.sub(lambda m: m.group().translate(_TO_KEEP), marked)
    if is_numeric:
        marked = _LISTED.sub(" ", marked)
        marked = _MEANT.sub(lambda m: m.group().translate(_TO_KEEP), marked)
    bare = marked.translate(_PUNCTUATION)
    if not bare.isascii():
        bare = _MARK.sub(_without_mark, bare)
    form = " ".join(_ARTICLES.sub(" ", bare).split()).translate(_FROM_STAND_INS)
    return form or folded


def words(text: str) -> list[str]:
    """Split a text into tokens for scores that count them.

    Args:
        text: Any text; `answer_form` of it where articles are not to count.

    Returns:
        The words of the folded text; a Chinese, Japanese or Korean character is a word.
    """
    return _WORD.findall(fold(text))


def answer_words(text: str) -> list[str]:
    """Split a short answer into tokens, without articles and punctuation.

    Args:
        text: An answer.

    Returns:
        What stands between spaces in `answer_form`, Chinese, Japanese and Korean characters one by one.
    """
    return re.sub(rf"([{CJK}])", r" \1 ", answer_form(text)).split()


def unambiguous(keys: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Look values up by looser forms, where a looser form tells one value from all others.

    Args:
        keys: For each form of a value its looser form; one that is empty stands for none.
        values: The values by their forms.

    Returns:
        The values by their looser forms, without looser forms that several forms share.
    """
    counts = Counter(keys.values())
    return {key: values[form] for form, key in keys.items() if key and counts[key] == 1}


def _fraction(match: re.Match[str]) -> str:
    form = unicodedata.normalize("NFKC", match.group(2)).replace("\u2044", "/")
    return f"{match.group(1)} {form}" if match.group(1) else form


def _operator(match: re.Match[str]) -> str:
    return "".join(match.group().split()).replace("==", "=").translate(_TO_KEEP)


def _without_mark(match: re.Match[str]) -> str:
    character = match.group()
    return "" if unicodedata.category(character)[0] == "P" else character
